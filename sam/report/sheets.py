"""Several maps of the loss as one figure, for a page's width."""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from sam.report.drawing import DRAWN, INCH, STYLE, WHITE, draw_bar, scale
from sam.report.panels import Panel
from sam.text import printable

SIDE = 1.75  # inches a side of a map on a sheet


def sheet(panels: Sequence[Panel], names: Sequence[str], form: str) -> bytes:
    """Maps on one colour scale side by side, under their names: "pdf" or "png"."""
    left, right, top, low = 0.45, 0.5, 0.2, 0.4
    width, height = left + len(panels) * (SIDE + 0.1) + right, low + SIDE + top
    with matplotlib.rc_context(STYLE):
        figure = Figure((width, height), dpi=INCH, facecolor=WHITE)
        for i, (panel, name) in enumerate(zip(panels, names, strict=True)):
            axes = figure.add_axes(((left + i * (SIDE + 0.1)) / width, low / height, SIDE / width, SIDE / height))
            for series in panel.series:
                DRAWN[series.kind](axes, series, panel, {})
            axes.set_title(printable(name), fontsize=8, pad=3)
            scale(axes, "x", panel.x)
            scale(axes, "y", panel.y)
            axes.tick_params(labelleft=i == 0)
        assert panels[0].z is not None
        bar = figure.add_axes((1 - 0.44 / width, low / height, 0.07 / width, SIDE / height))
        bar.set(xticks=[])
        bar.yaxis.tick_right()
        bar.spines[:].set_visible(False)
        draw_bar(bar, panels[0].z)
        figure.supxlabel(printable(panels[0].x.label), fontsize=8, y=0.01)
        figure.supylabel(printable(panels[0].y.label), fontsize=7, x=0.005)
        picture = io.BytesIO()
        dates = {"pdf": {"CreationDate": None}, "png": {"Comment": None}}[form]
        figure.savefig(picture, format=form, dpi=200, metadata=dates)
    return picture.getvalue()
