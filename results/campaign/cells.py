"""Stage 2, cell by cell: SAM minus SGD over training size, augmentation and wrong labels. A table, a figure and its numbers.

    python results/campaign/cells.py runs/campaign/stage2 results/campaign/stage2/cells   # .md, .png, .pdf and .csv

Test accuracy with BatchNorm recalibrated, paired by seed; brackets and bars: the 95% interval of the mean difference (Student's t). No
correction: it describes. L(w): final training loss on the training images with the labels of the training, running statistics.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib
from arms import ACCURACY, LOSS, SHARPNESS, difference, values
from matplotlib.figure import Figure

from sam.core.files import write_atomic
from sam.evaluation.evaluate import stored_runs
from sam.evaluation.settings import EvaluateConfig
from sam.report.drawing import INK, STYLE
from sam.report.looks import COLOURS, MARKERS
from sam.tables.claims import WHERE
from sam.tables.conditions import RunRow, grouped
from sam.tables.statistics import paired_difference
from sam.text import csv_text

Cell = tuple[str, float, int]  # augmentation, share of wrong labels, training images
Arms = Mapping[float, list[RunRow]]  # by radius; SGD's is 0


def cell_of(run: RunRow) -> Cell:
    return WHERE["augmentation"](run), run.config.dataset.label_noise, WHERE["train_size"](run)


def radius(run: RunRow) -> float:
    return float(getattr(run.config.optimizer, "rho", 0.0))


def table(cells: Mapping[Cell, Arms], radii: list[float]) -> Iterator[str]:
    heads = ("augmentation", "wrong labels", "images", "n", "SGD (%)", *(f"SAM at {rho:.3g} minus SGD [95%]" for rho in radii))
    yield f"| {' | '.join(heads)} | L(w): SGD, SAM | L^Asc - L at ρ 0.05, ×10³ |"
    yield "|---" * (len(heads) + 2) + "|"
    for (augmentation, noise, images), arms in cells.items():
        base, each = values(arms[0.0], ACCURACY), [arms.get(rho, []) for rho in radii]
        means = [[mean(of.values()) for runs in (arms[0.0], *each) if (of := values(runs, measure))] for measure in (LOSS, SHARPNESS)]
        shown = (augmentation, f"{noise:.0%}", f"{images:,}", len(base), f"{mean(base.values()):.2f}")
        gains = (difference(runs, arms[0.0], ACCURACY) for runs in each)
        last = (", ".join(f"{value:.2g}" for value in means[0]), ", ".join(f"{1000 * value:.2f}" for value in means[1]))
        yield f"| {' | '.join(map(str, (*shown, *gains, *last)))} |"


def points(cells: Mapping[Cell, Arms], radii: list[float]) -> Iterator[dict[str, Any]]:
    """Mean difference from SGD with its interval, a line a cell and radius."""
    for (augmentation, noise, images), arms in cells.items():
        for rho in radii:
            d = paired_difference(values(arms.get(rho, []), ACCURACY), values(arms[0.0], ACCURACY))
            if d.mean is not None:
                low, high = (d.ci_low, d.ci_high) if d.ci_low is not None else (math.nan, math.nan)
                where = {"augmentation": augmentation, "wrong_labels": noise, "images": images, "rho": rho}
                yield where | {"n": d.n, "mean": d.mean, "low": low, "high": high}


def main(folder: Path, out: Path) -> None:
    runs = [run for run in stored_runs(EvaluateConfig(runs_dir=str(folder)), []) if run.is_finished and ACCURACY in run.measures]
    plain_first = lambda item: (item[0][0] != "none", *item[0])
    cells = {cell: grouped(sorted(own, key=radius), radius) for cell, own in sorted(grouped(runs, cell_of).items(), key=plain_first)}
    cells = {cell: arms for cell, arms in cells.items() if 0.0 in arms}
    radii = sorted({rho for arms in cells.values() for rho in arms} - {0.0})
    write_atomic(out.with_suffix(".md"), "\n".join(table(cells, radii)) + "\n")
    rows, sizes = list(points(cells, radii)), sorted({images for _, _, images in cells})
    write_atomic(out.with_suffix(".csv"), csv_text(rows))
    panels = grouped(rows, lambda row: (row["augmentation"], row["wrong_labels"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 2.5), dpi=72, layout="constrained")
        for axes, ((augmentation, noise), own) in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
        ):
            axes.axhline(0.0, color=INK, lw=0.8)
            for at, rho in enumerate(radii):
                line = [row for row in own if row["rho"] == rho]
                x = [sizes.index(row["images"]) + 0.16 * (at - (len(radii) - 1) / 2) for row in line]
                axes.vlines(x, [row["low"] for row in line], [row["high"] for row in line], colors=COLOURS[at], lw=1.1)
                look = {"color": COLOURS[at], "marker": MARKERS[at], "ms": 4.5, "lw": 0, "label": f"SAM at ρ {rho:.3g}"}
                axes.plot(x, [row["mean"] for row in line], **look)
            axes.set(xticks=range(len(sizes)), xticklabels=[f"{images:,}" for images in sizes], xlim=(-0.5, len(sizes) - 0.5))
            said = augmentation.replace("none", "no augmentation")
            axes.set_title(f"{said}\n{noise:.0%} wrong labels", loc="left", fontsize=7)
        figure.axes[0].set_ylabel("accuracy minus SGD's (points)")
        figure.supxlabel("training images, at about 2,500 steps each", fontsize=7)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(radii))
        for form, dates in (("png", {}), ("pdf", {"CreationDate": None})):
            figure.savefig(out.with_suffix(f".{form}"), dpi=200, metadata=dates, facecolor="white")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
