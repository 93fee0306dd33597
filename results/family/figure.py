"""The family's figure from its table: each arm's accuracy minus SAM's, what it cost, and where it ended.

python results/family/figure.py    # family.csv -> figure.png, figure.pdf
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import matplotlib  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from sam.report.drawing import INK, SOFT, STYLE, scale  # noqa: E402
from sam.report.panels import Axis  # noqa: E402

ACCURACY, COST = "Test accuracy (%), BatchNorm recalibrated", "Gradient evaluations ×10³"
BESIDE = ("L(w)", "L^Asc (ρ 0.05)", "λ1 (512 images)")
CUT = -4.5  # points; an arm below it is written there


def main() -> None:
    with (HERE / "family.csv").open(encoding="utf-8", newline="") as file:
        cells = [line for line in csv.DictReader(file) if line["mean"]]
    found = {(line["row"], line["column"]): line for line in cells}
    names = list(dict.fromkeys(line["row"] for line in cells if line["column"] == ACCURACY))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 0.6 + 0.19 * len(names)), dpi=72)
        widths = (2.6, 1, 1, 1)
        panels = figure.subplots(1, 4, sharey=True, width_ratios=widths, gridspec_kw={"left": 0.2, "right": 0.98, "wspace": 0.12})
        figure.subplots_adjust(bottom=0.32 / figure.get_figheight(), top=1 - 0.25 / figure.get_figheight())
        for y, name in enumerate(names):
            line = found[name, ACCURACY]
            if not line["difference_mean"]:
                continue
            mean, low, high = (float(line[f"difference_{end}"]) for end in ("mean", "ci_low", "ci_high"))
            if mean < CUT:
                panels[0].annotate(f"{mean:.1f}", (CUT, y), (CUT + 0.5, y), va="center", fontsize=7, arrowprops={"arrowstyle": "->"})
                continue
            panels[0].hlines(y, max(low, CUT), high, color=INK, lw=1.1)
            panels[0].plot(mean, y, "o", color=INK, ms=4)
        panels[0].axvline(0, color=SOFT, ls="--", lw=0.8)
        panels[0].set(xlim=(CUT - 0.2, 6.2), ylim=(len(names) - 0.5, -0.5), title="Test accuracy minus SAM's (points), 95%")
        for axes, column in zip(panels[1:], BESIDE, strict=True):
            for y, name in enumerate(names):
                line = found[name, column]
                axes.hlines(y, float(line["ci_low"]), float(line["ci_high"]), color=INK, lw=1.1)
                axes.plot(float(line["mean"]), y, "o", color=INK, ms=3.5)
            axes.set(xscale="log", title=column)
            scale(axes, "x", Axis("", log=True))
        panels[0].set_yticks(range(len(names)), [f"{name}  {float(found[name, COST]['mean']):.1f}k" for name in names])
        for axes in panels:
            axes.title.set_fontsize(7)
            axes.tick_params(labelsize=6.5)
        for form, dates in (("png", {}), ("pdf", {"CreationDate": None})):
            figure.savefig(HERE / f"figure.{form}", dpi=200, metadata=dates, facecolor="white")


if __name__ == "__main__":
    main()
