"""Stage 1, arm by arm: accuracy and test loss with their paired differences from SGD, training loss, sharpness; and N steps against one.

    python results/campaign/arms.py runs/campaign/stage1 results/campaign/stage1/arms.md

Test accuracy and loss with BatchNorm recalibrated; L(w) and L^Asc - L at rho 0.05 on all training images, running statistics. Means over
seeds; in brackets the 95% interval of a mean difference over common seeds (Student's t), uncorrected; p: of the accuracy's differences,
after Holm's correction over the table. It describes: the plan's ten tests are others.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sam.core.files import write_atomic
from sam.evaluation.evaluate import stored_runs
from sam.evaluation.settings import EvaluateConfig
from sam.optimizers.settings import METHODS
from sam.tables.conditions import RunRow, grouped
from sam.tables.statistics import holm, is_finite, paired_difference

ACCURACY, TEST_LOSS = "test_accuracy[bn=recalibrated]", "test_loss[bn=recalibrated]"
LOSS, SHARPNESS = "train_loss", "sharpness[rho=0.05,bn=eval,batch=all]"
SGD, ONE = "SGD", "SAM at 0.05"
Arms = Mapping[str, list[RunRow]]


def name_of(run: RunRow) -> str:
    """ "SAM, N = 5 at 0.05", "Rand-SAM at U[0, 0.05]", "XSAM at 0.05, alpha searched"."""
    o = run.config.optimizer
    if o.method == "sgd":
        return SGD if run.config.epochs == 40 else f"SGD, {run.config.epochs} epochs"
    steps, rho = getattr(o, "ascent_steps", 1), getattr(o, "rho", 0.0)
    radius = f"U[0, {rho:g}]" if getattr(o, "radius", "fixed") == "uniform" else f"{rho:g}"
    alpha = getattr(o, "alpha", None)
    searched = "" if o.method != "xsam" else ", alpha searched" if alpha is None else f", alpha {alpha:g}"
    return f"{METHODS[o.method].label}{f', N = {steps}' if steps > 1 else ''} at {radius}{searched}"


def by_seed(runs: list[RunRow]) -> dict[int, RunRow]:
    """Seed -> run of one arm. ValueError: a seed stands twice, in two settings that the page gives one name."""
    found = {run.config.seed: run for run in runs}
    if len(found) < len(runs):
        raise ValueError(f"{name_of(runs[0])}: {len(runs)} runs of {len(found)} seeds: two settings have one name")
    return found


def values(runs: list[RunRow], measure: str, log: bool = False) -> dict[int, float]:
    found = {seed: run.measures.get(measure) for seed, run in by_seed(runs).items()}
    return {seed: math.log(value) if log else value for seed, value in found.items() if is_finite(value)}


def difference(runs: list[RunRow], base: list[RunRow], measure: str, log: bool = False) -> str:
    """ "+0.08 [-0.45, +0.61]"; without the interval below three common seeds, and "" without any."""
    d = paired_difference(values(runs, measure, log), values(base, measure, log))
    if d.mean is None:
        return ""
    return f"{d.mean:+.2f}" + (f" [{d.ci_low:+.2f}, {d.ci_high:+.2f}]" if d.ci_low is not None and d.ci_high is not None else f" (n {d.n})")


def lines(arms: Arms) -> Iterator[str]:
    yield "| arm | n | accuracy (%) | minus SGD [95%] | Holm p | test loss minus SGD's [95%] | L(w) | L^Asc - L at ρ 0.05, ×10³ |"
    yield "|---|---|---|---|---|---|---|---|"
    base = values(arms[SGD], ACCURACY)
    corrected = holm([paired_difference(values(runs, ACCURACY), base).p for runs in arms.values()])
    for (name, runs), p in zip(arms.items(), corrected, strict=True):
        accuracy, losses, sharp = (values(runs, measure) for measure in (ACCURACY, LOSS, SHARPNESS))
        if accuracy and losses and sharp:
            losses_, p_ = difference(runs, arms[SGD], TEST_LOSS), "" if p is None else f"{p:.3f}"
            versus = " |  | " if name == SGD else f"{difference(runs, arms[SGD], ACCURACY)} | {p_} | {losses_}"
            yield (
                f"| {name} | {len(accuracy)} | {mean(accuracy.values()):.2f} | {versus} | {mean(losses.values()):.4f} |"
                f" {1000 * mean(sharp.values()):.2f} |"
            )
    yield ""
    for name, runs in arms.items():
        if name.startswith("SAM, N"):
            accuracy_, sharp_ = difference(runs, arms[ONE], ACCURACY), difference(runs, arms[ONE], SHARPNESS, log=True)
            yield f"- {name} minus N = 1: accuracy {accuracy_} points; log(L^Asc - L) {sharp_}."


def main(folder: Path, out: Path) -> None:
    runs = [run for run in stored_runs(EvaluateConfig(runs_dir=str(folder)), []) if run.is_finished]
    order = {method: place for place, method in enumerate(METHODS)}
    of = lambda run: run.config.optimizer
    key = lambda run: (
        order[of(run).method],
        getattr(of(run), "ascent_steps", 1),
        run.config.epochs,
        getattr(of(run), "rho", 0.0),
        name_of(run),
    )
    write_atomic(out, "\n".join(lines(grouped(sorted(runs, key=key), name_of))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
