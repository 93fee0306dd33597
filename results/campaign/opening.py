"""The README's opening figure: test accuracy minus SGD's over the radius, and below it what the networks are like.

    python results/campaign/opening.py runs/campaign results/campaign/opening LR DECAY   # .png, .pdf and .csv; SGD's pick

Small open marks: stage 0, validation images, one of the two tuning seeds each, at SGD's pick. Large ones: stage 1, test images, the mean
over seeds with its 95% interval (Student's t), paired by seed above. BatchNorm is recalibrated for accuracies. Below are
geometric means, with running statistics.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib
from arms import by_seed
from matplotlib.figure import Figure

from sam.core.files import write_atomic
from sam.evaluation.evaluate import stored_runs
from sam.evaluation.settings import EvaluateConfig
from sam.report.drawing import INK, SOFT, STYLE, scale
from sam.report.looks import COLOURS, MARKERS, ORDER
from sam.report.panels import Axis
from sam.tables.conditions import RunRow
from sam.tables.statistics import is_finite, paired_difference, summarize
from sam.text import csv_text

METHODS = ("SAM N=1", "SAM N=5", "XSAM", "Rand-SAM")
BELOW = (
    ("L(w)", "train_loss", 1.0),
    ("L^Asc - L at ρ 0.05, ×10³", "sharpness[rho=0.05,bn=eval,batch=all]", 1000.0),
    ("its second-order part, ×10³", "second_order[rho=0.05]", 1000.0),
)
ABOVE, VALIDATION, TEST = "Accuracy minus SGD's", "val_accuracy[bn=recalibrated]", "test_accuracy[bn=recalibrated]"
CUT = -6.0  # points below SGD: what lies lower has stopped to train, and is shown at the edge
Arm = dict[int, RunRow]  # by seed
Line = dict[str, Any]


def name_of(run: RunRow) -> str:
    """The method as a legend names it; "" of arms that the figure leaves out (drawn radii, constant alpha, other N)."""
    o = run.config.optimizer
    plain = getattr(o, "radius", "fixed") == "fixed" and getattr(o, "alpha", None) is None
    name = {"sgd": "SGD", "xsam": "XSAM", "rand_sam": "Rand-SAM"}.get(o.method, f"SAM N={getattr(o, 'ascent_steps', 0)}")
    return name if plain and name in (*METHODS, "SGD") else ""


def arms(folder: Path, lr: float, decay: float) -> dict[tuple[str, float, int], Arm]:
    """(method, radius, epochs) -> runs of a stage at SGD's pick; of SGD the radius is 0."""
    found: dict[tuple[str, float, int], list[RunRow]] = {}
    for run in stored_runs(EvaluateConfig(runs_dir=str(folder)), []):
        o = run.config.optimizer
        if run.is_finished and (o.lr, o.weight_decay) == (lr, decay) and (name := name_of(run)):
            found.setdefault((name, getattr(o, "rho", 0.0), run.config.epochs), []).append(run)
    return {key: by_seed(runs) for key, runs in found.items()}


def points(found: dict[tuple[str, float, int], Arm], measure: str, scale: float, name: str, paired: bool) -> Iterator[Line]:
    """A point an arm of the method: radius, n, mean and 95% interval of the difference from SGD's at equal seeds, or the geometric mean of
    the measure with that of its logarithms."""
    usual = min(epochs for _, _, epochs in found)
    of = lambda arm: {s: v * scale for s, run in arm.items() if is_finite(v := run.measures.get(measure))}
    base = of(found.get(("SGD", 0.0, usual), {}))
    for (method, rho, epochs), arm in sorted(found.items()):
        if method == name and (epochs == usual or name == "SGD"):
            s = paired_difference(of(arm), base) if paired else summarize([math.log(v) for v in of(arm).values()])
            back = float if paired else math.exp
            if s.mean is not None and not (paired and method == "SGD" and epochs == usual):
                low, high = (s.ci_low, s.ci_high) if s.ci_low is not None else (math.nan, math.nan)
                ends = {"mean": back(s.mean), "low": back(low), "high": back(high)}
                yield {"method": method, "rho": rho, "epochs": epochs, "n": s.n} | ends


def main(runs: Path, out: Path, lr: float, decay: float) -> None:
    tuned, final = arms(runs / "stage0", lr, decay), arms(runs / "stage1", lr, decay)
    rows: list[Line] = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 5.0), dpi=72)
        grid = figure.add_gridspec(2, 3, height_ratios=(1.6, 1), hspace=0.42, wspace=0.3, left=0.06, right=0.985, top=0.9, bottom=0.085)
        top = figure.add_subplot(grid[0, :])
        for name in METHODS:
            for seed in sorted({seed for arm in tuned.values() for seed in arm}):
                one = {key: {seed: arm[seed]} for key, arm in tuned.items() if seed in arm}
                line = list(points(one, VALIDATION, 1.0, name, True))
                rows += [{"panel": f"{ABOVE}, validation", "seed": seed} | point for point in line]
                y = [max(float(point["mean"]), CUT) for point in line]
                top.plot([point["rho"] for point in line], y, **look(name), mfc="none", ms=3.5, lw=0.5, mew=0.6, alpha=0.55)
            drawn(top, points(final, TEST, 1.0, name, True), name, rows, f"{ABOVE}, test")
        for point in points(final, TEST, 1.0, "SGD", True):
            rows.append({"panel": f"{ABOVE}, test"} | point)
            top.axhspan(point["low"], point["high"], color=SOFT, alpha=0.15, lw=0)
            top.axhline(point["mean"], color=SOFT, ls="--", lw=0.8, label="SGD, twice the epochs")
        top.axhline(0.0, color=INK, lw=0.8)
        top.set(xscale="log", ylim=(CUT - 0.3, 6))
        scale(top, "x", Axis("ρ", log=True))
        seeds = max((point["n"] for point in rows if "seed" not in point), default=0)
        said = f"open: validation, a tuning seed each; filled: test, {seeds} seeds, 95% intervals; at {CUT:g}: below it"
        top.set_title(f"{ABOVE} (points) over ρ; {said}", loc="left", fontsize=7)
        figure.legend(*top.get_legend_handles_labels(), loc="upper center", ncols=5, borderaxespad=0.2)
        for at, (title, measure, factor) in enumerate(BELOW):
            axes = figure.add_subplot(grid[1, at])
            for name in METHODS:
                drawn(axes, points(final, measure, factor, name, False), name, rows, title)
            for point in points(final, measure, factor, "SGD", False):
                rows.append({"panel": title} | point)
                longer = point["epochs"] > min(epochs for _, _, epochs in final)
                axes.axhline(point["mean"], color=SOFT if longer else INK, ls="--" if longer else "-", lw=0.8)
            axes.set(xscale="log", yscale="log", xlabel="ρ of training")
            for which in "xy":
                scale(axes, which, Axis("", log=True))
            axes.set_title(title if at else f"{title}; this row: geometric means", loc="left", fontsize=7)
        for form, dates in (("png", {}), ("pdf", {"CreationDate": None})):
            figure.savefig(out.with_suffix(f".{form}"), dpi=200, metadata=dates, facecolor="white")
    write_atomic(out.with_suffix(".csv"), csv_text(rows, ("panel", "method", "rho", "epochs", "seed", "n", "mean", "low", "high")))


def look(name: str) -> dict[str, str]:
    return {"color": COLOURS[ORDER.index(name)], "marker": MARKERS[ORDER.index(name)]}


def drawn(axes: Any, line: Iterator[Line], name: str, rows: list[Line], panel: str) -> None:
    """Means with their intervals, methods at one radius side by side; what is drawn goes to `rows`."""
    found = list(line)
    rows += [{"panel": panel} | point for point in found]
    x = [point["rho"] * (0.88 + 0.08 * METHODS.index(name)) for point in found]
    y, low, high = ([max(point[key], CUT) for point in found] for key in ("mean", "low", "high"))
    axes.vlines(x, low, high, colors=look(name)["color"], lw=1.1)
    axes.plot(x, y, **look(name), ms=4.5, lw=0, label=name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
