"""Ours beside the papers: what they print about a pair of methods, and what the campaign's rows say of the same pair.

    python results/campaign/beside.py runs/campaign docs/beside-the-papers.md stage1=0.2 stage3=0.1  # STAGE=its R

Signs alone are compared, and a sign of ours counts where the 95% interval over seeds (Student's t on the paired differences) excludes 0.
"""

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arms import by_seed

from sam.evaluation.evaluate import stored_runs
from sam.evaluation.settings import EvaluateConfig
from sam.tables.conditions import RunRow
from sam.tables.published import Published, lookup
from sam.tables.statistics import is_finite, paired_difference

ACCURACY = "test_accuracy[bn=recalibrated]"
Arm = dict[str, Any]


def sam(steps: int = 1) -> Arm:
    return {"method": "sam", "ascent_steps": steps, "radius": "fixed"}


SGD, RAND = {"method": "sgd"}, {"method": "rand_sam", "radius": "fixed"}
FIRST, FORET = "Tiwary & Aananth 2024, Table", "Foret et al. 2021, Table 1"
# What is compared, of which arms (the second side in the mean), by which measure; the source, and its lines of paper_values.csv.
ROWS: tuple[tuple[str, Arm, list[Arm], str, str, list[str], list[str]], ...] = (
    ("SAM minus SGD, accuracy", sam(), [SGD], ACCURACY, FORET, ["s16"], ["s15"]),
    ("SAM minus SGD of twice the epochs, accuracy", sam(), [SGD | {"times": 2}], ACCURACY, FORET, ["s16"], ["s15"]),
    ("SAM minus SGD, accuracy, CIFAR-100", sam(), [SGD], ACCURACY, FORET, ["s18"], ["s17"]),
    ("Rand-SAM minus SGD, accuracy", RAND, [SGD], ACCURACY, f"{FIRST} 3", ["s13"], ["s15"]),
    ("Rand-SAM minus SAM, accuracy", RAND, [sam()], ACCURACY, f"{FIRST} 3", ["s13"], ["s16"]),
    ("Rand-SAM minus SAM, accuracy, CIFAR-100", RAND, [sam()], ACCURACY, f"{FIRST} 3", ["s14"], ["s18"]),
    ("N = 5 minus N = 1, accuracy", sam(5), [sam()], ACCURACY, f"{FIRST} 2", ["s04"], ["s01"]),
    ("N = 1 minus N = 2, 3, 5, log sharpness", sam(), [sam(2), sam(3), sam(5)], "sharpness", f"{FIRST} 2", ["s05"], ["s06", "s07", "s08"]),
    ("N = 5 minus N = 1, generalisation gap", sam(5), [sam()], "gap", f"{FIRST} 2", ["s12"], ["s09"]),
)
PAPER = "WRN-28-10, all of CIFAR at 32 x 32, 200 epochs, flips and crops"
SETTINGS = {
    "stage1": "WRN-10-1, 4,000 images of CIFAR-10 at 16 x 16, 40 epochs, no augmentation, decay in the optimizer",
    "stage3": "ResNet-20, all of CIFAR-10, two epochs more from a public network, decay in the optimizer",
    "stage4": "WRN-10-1, 20,000 images of CIFAR-100 at 16 x 16, 20 epochs, no augmentation, decay in the optimizer",
}


def of_arm(runs: list[RunRow], arm: Arm, r: float) -> dict[int, RunRow]:
    """Seed -> run of an arm at radius R, of the stage's usual length of training, or of so many times that length."""
    usual = min(run.config.epochs for run in runs) * arm.get("times", 1)
    fits = lambda o: all(getattr(o, k, None) == v for k, v in arm.items() if k != "times") and ("rho" not in o.used_keys or o.rho == r)
    return by_seed([run for run in runs if run.is_finished and run.config.epochs == usual and fits(run.config.optimizer)])


def value(run: RunRow, measure: str, r: float) -> float | None:
    """In points; the gap times 1000, as printed; sharpness at radius R as a logarithm."""
    if measure != "sharpness":
        found = run.measures.get(measure)
        return 1000 * found if measure == "gap" and found is not None else found
    name = next((n for n in run.measures if n.startswith(f"sharpness[rho={r:g},bn=eval,batch=all")), "")
    found = run.measures.get(name)
    return math.log(found) if is_finite(found) and found > 0 else None


def ours(runs: list[RunRow], first: Arm, others: list[Arm], measure: str, r: float) -> tuple[str, int, int]:
    """(difference with its interval, n, its sign: 0 if it is not told from 0)."""
    of = lambda arm: {seed: value(run, measure, r) for seed, run in of_arm(runs, arm, r).items()}
    sides = [of(arm) for arm in others]
    common = set.intersection(*(set(side) for side in sides))
    other = {s: mean(v for v in (side[s] for side in sides) if v is not None) for s in common if all(is_finite(side[s]) for side in sides)}
    d = paired_difference(of(first), other)
    if d.mean is None:
        return "–", 0, 0
    told = d.ci_low is not None and d.ci_high is not None and d.ci_low * d.ci_high > 0
    inside = "" if d.ci_low is None else f" [{d.ci_low:+.2f}, {d.ci_high:+.2f}]"
    return f"{d.mean:+.2f}{inside}", d.n, int(math.copysign(1, d.mean)) if told else 0


def printed(source: str, left: list[str], right: list[str], log: bool) -> tuple[str, int]:
    """The papers' difference, of the values as printed, and its sign."""
    scale: Callable[[Published], float] = lambda p: math.log(float(p.value)) if log else float(p.value)
    a, b = lookup(left), lookup(right)
    d = mean(map(scale, a)) - mean(map(scale, b))
    text = f"{d:+.{2 if log else 1}f} ({source}: {', '.join(p.value for p in a)} against {', '.join(p.value for p in b)})"
    return text, (d > 1e-9) - (d < -1e-9)


def page(folder: Path, radii: Mapping[str, float]) -> str:
    stages = {stage: stored_runs(EvaluateConfig(runs_dir=str(folder / stage)), []) for stage in radii if (folder / stage).is_dir()}
    lines = [
        "# Ours beside the papers",
        "",
        "`bash results/campaign/tables.sh` wrote this page from the campaign's [rows](../results/campaign/rows) and from the printed",
        "values. Only signs are compared, and a sign of ours counts where the 95% interval over paired seeds excludes 0. No setting of",
        f"ours is a paper's, so that no row reproduces or refutes one: theirs are {PAPER}, and stay open.",
        "A sign of theirs is that of the values as printed, whatever their spread. Each interval stands alone at 95%, uncorrected: no",
        "sign here is a verdict.",
        "Foret et al. print the better of SGD's 200 and 400 epochs, so that ours stands beside SGD of as many epochs and of twice as many.",
        "",
        "| difference | printed | ours | setting | n | signs |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, first, others, measure, *published in ROWS:
        theirs, sign = printed(*published, log=measure == "sharpness")
        for stage, runs in stages.items():
            text, n, own = ours(runs, first, others, measure, radii[stage])
            if n and (stage == "stage4") is ("CIFAR-100" in name):
                said = "theirs is 0" if not sign else "not told from 0" if not own else "agree" if own == sign else "differ"
                lines.append(f"| {name} | {theirs} | {text} | {stage}, R = {radii[stage]:g} | {n} | {said} |")
    said = "Accuracies in points, BatchNorm recalibrated; with running statistics gaps in nats x 1000, log(L^Asc - L) at R. The settings:"
    lines += ["", said, ""]
    lines += [f"- {stage}: {SETTINGS[stage]}." for stage in stages]
    return "\n".join(lines) + "\n"


def main(folder: str, out: str, *radii: str) -> int:
    given = {stage: float(r) for stage, r in (word.split("=") for word in radii)}
    Path(out).write_text(page(Path(folder), given), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
