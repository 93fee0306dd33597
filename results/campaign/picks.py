"""The picks of PLAN.md's tuning stages, by its rule, as NAME=VALUE lines that a shell can read.

    python results/campaign/picks.py all         # sgd | sam | sam_n5 | xsam | rand_sam | alpha | rise | resnet20 | all
    python results/campaign/picks.py folders     # SAM(R)'s runs of stage 0, below runs/
    python results/campaign/picks.py radii       # the radii at which stages 1, 2 and 4 are measured; radii3: stage 3

The rule: the smallest radius (the alpha nearest 1) whose validation accuracy, BatchNorm recalibrated, lies within one standard error of
the best one's; the standard error is that of the paired differences over the seeds. SGD: the best mean. Exit code 3 where the pick is
the largest value of its grid, which must be extended first; 1 where runs are missing.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sam.evaluation.storing import stored  # noqa: E402
from sam.runs import records  # noqa: E402

MEASURE = "val_accuracy[bn=recalibrated]"
CHANCE = 10.0  # a diverged run counts as chance
Scores = dict[tuple, dict[int, float]]


class AtEdge(Exception):
    """The pick is the largest value of its grid."""


def values_of(folder: Path) -> dict[str, float | None]:
    """Every stored measure of a run."""
    return {name: value for row in stored(folder / records.MEASURES).values() for name, value in row.values.items()}


def scores(stage: str, key: Callable[[dict], tuple | None]) -> Scores:
    """{key(optimizer settings): {seed: validation accuracy}} over a stage's finished runs; runs whose key is None are left out."""
    found: Scores = defaultdict(dict)
    for folder, record in records.find_runs(ROOT / "runs/campaign" / stage):
        chosen = key(record["config"]["optimizer"])
        if chosen is None or not records.is_done(record):
            continue
        value = CHANCE if record["status"] == records.DIVERGED else values_of(folder).get(MEASURE)
        if value is not None:
            found[chosen][record["config"]["seed"]] = value
    if not found or len({frozenset(of) for of in found.values()}) > 1:
        raise SystemExit(f"{stage}: runs are missing or not measured: {dict(found)}")
    return found


def within_one_error(found: Scores) -> list[tuple]:
    """The settings whose mean lies within one standard error (of the paired differences) of the best mean."""
    best = max(found, key=lambda key: mean(found[key].values()))
    kept = []
    for key, accuracies in found.items():
        behind = [found[best][seed] - accuracies[seed] for seed in accuracies]
        if mean(behind) <= stdev(behind) / math.sqrt(len(behind)):
            kept.append(key)
    return kept


def inside(value: float, grid: Scores) -> float:
    if value == max(key[0] for key in grid):
        raise AtEdge(f"{value:g} is the largest value of its grid")
    return value


def sgd() -> dict[str, float]:
    found = scores("stage0", lambda o: (o["lr"], o["weight_decay"]) if o["method"] == "sgd" else None)
    lr, decay = max(found, key=lambda key: mean(found[key].values()))
    inside(lr, found)
    inside(decay, {(d, lr): of for (lr, d), of in found.items()})
    return {"lr": lr, "decay": decay}


def radius(method: str, steps: int = 1, stage: str = "stage0") -> float:
    """The pick of a method's radius; XSAM's runs at a constant alpha are another grid."""
    wanted = {"method": method, "alpha": None} | ({"ascent_steps": steps} if method != "rand_sam" else {})
    found = scores(stage, lambda o: (o["rho"],) if all(o.get(k) == v for k, v in wanted.items()) else None)
    return inside(min(key[0] for key in within_one_error(found)), found)


def sam() -> dict[str, float]:
    r = radius("sam")
    parts = {"R": 1, "R_half": 2, "R_sqrt3": math.sqrt(3), "R_third": 3, "R_twice": 0.5}
    return {name: float(f"{r / part:.6g}") for name, part in parts.items()}


def alpha() -> dict[str, float]:
    found = scores("stage0", lambda o: (o["alpha"],) if o["method"] == "xsam" and o["alpha"] is not None else None)
    nearest = min((key[0] for key in within_one_error(found)), key=lambda a: (abs(a - 1), a))
    return {"alpha": inside(nearest, found)}


def folders() -> list[Path]:
    """SAM(R)'s runs of stage 0."""
    wanted = {"method": "sam", "ascent_steps": 1, "rho": sam()["R"]}
    runs = records.find_runs(ROOT / "runs/campaign/stage0")
    return [folder for folder, record in runs if all(record["config"]["optimizer"].get(k) == v for k, v in wanted.items())]


def rise() -> dict[str, float]:
    """The radius at which random directions raise the loss as much as SAM(R)'s ascent, at SAM(R)'s final weights: by interpolation of
    the mean rise over the seeds, linear in the logarithms of both."""
    measured = [values_of(folder) for folder in folders()]
    means = {name: mean(of[name] for of in measured) for name in measured[0] if all(of.get(name) is not None for of in measured)}
    target = math.log(means[f"sharpness[rho={sam()['R']:g},bn=eval,batch=all]"])
    curve = sorted((math.log(r), math.log(means[name])) for r in (1, 2, 4, 8, 16, 32, 64) if means[name := f"average[rho={r}]"] > 0)
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if y0 <= target <= y1:
            return {"rho_rise": float(f"{math.exp(x0 + (x1 - x0) * (target - y0) / (y1 - y0)):.3g}")}
    raise AtEdge(f"SAM's rise {math.exp(target):.4g} lies outside of what random directions reach")


PICKS: dict[str, Callable[[], dict[str, float]]] = {
    "sgd": sgd,
    "sam": sam,
    "sam_n5": lambda: {"rho_sam_n5": radius("sam", 5)},
    "xsam": lambda: {"rho_xsam": radius("xsam")},
    "rand_sam": lambda: {"rho_rand": radius("rand_sam")},
    "alpha": alpha,
    "rise": rise,
    "resnet20": lambda: {"R3": radius("sam", stage="stage3_tuning")},
}


def main(name: str) -> int:
    try:
        if name == "folders":
            print("\n".join(str(folder.relative_to(ROOT / "runs")) for folder in folders()))
        elif name.startswith("radii"):
            trained = PICKS["resnet20"]()["R3"] if name == "radii3" else sam()["R"]
            print(",".join(f"{r:g}" for r in dict.fromkeys((0.05, trained, *([] if name == "radii3" else [0.5])))))
        else:
            for one in [n for n in PICKS if n != "resnet20"] if name == "all" else [name]:
                print("\n".join(f"{key}={value:g}" for key, value in PICKS[one]().items()))
    except AtEdge as edge:
        print(f"{name}: {edge}.", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
