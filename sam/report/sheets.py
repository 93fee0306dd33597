"""Several maps of the loss as one figure, for a page's width."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from sam.report.drawing import INCH, STYLE, WHITE, add_bar, plot, saved
from sam.report.panels import Panel
from sam.text import printable

SIDE = 1.75  # inches a side of a map on a sheet


@matplotlib.rc_context(STYLE)
def sheet(panels: Sequence[Panel], names: Sequence[str], form: str) -> bytes:
    """Maps on one colour scale side by side, under their names: "pdf" or "png"."""
    left, right, top, low = 0.45, 0.5, 0.2, 0.4
    width, height = left + len(panels) * (SIDE + 0.1) + right, low + SIDE + top
    figure = Figure((width, height), dpi=INCH, facecolor=WHITE)
    for i, (panel, name) in enumerate(zip(panels, names, strict=True)):
        axes = figure.add_axes(((left + i * (SIDE + 0.1)) / width, low / height, SIDE / width, SIDE / height))
        plot(axes, panel)
        axes.set_title(printable(name), fontsize=8, pad=3)
        axes.tick_params(labelleft=i == 0)
    colours: Any = panels[0].z
    add_bar(figure, colours, (1 - 0.44 / width, low / height, 0.07 / width, SIDE / height))
    figure.supxlabel(printable(panels[0].x.label), fontsize=8, y=0.01)
    figure.supylabel(printable(panels[0].y.label), fontsize=7, x=0.005)
    return saved(figure, form)
