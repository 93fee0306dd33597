"""Curves that the notions measured: spectra, the loss along lines, accuracy over severities. What a series is follows from its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sam.report.chart import Curve, chart
from sam.report.figures import BAND, Look, figure, left_out, looks, mean_curve, panel, tally, wide
from sam.report.html import Html
from sam.report.scale import Axis
from sam.tables.table import Context

Columns = Mapping[str, Sequence[float | None]]


def names(context: Context, *columns: str) -> list[str]:
    """The series, in the order of their appearance, that have these columns."""
    found = {name: series for run in context.runs for name, series in run.series.items()}
    return [name for name, series in found.items() if set(columns) <= set(series)]


def _curves(look: Look, name: str, x: str, y: str) -> list[Curve]:
    """Mean and band where all seeds share their x; else a thin line for every seed."""
    found = [run.series[name] for run in look.group.finished.values() if name in run.series]
    if found and all(list(s[x]) == list(found[0][x]) for s in found):
        return [mean_curve(look.style, [(s[x], s[y]) for s in found])]
    alone = [mean_curve(look.style, [(s[x], s[y])]) for s in found]
    return [replace(c, spread=(), thin=True) for c in alone]


@dataclass(frozen=True)
class Kind:
    """Series that are curves y over x: their columns, what the axes are called, the caption.

    decades: on a logarithmic y axis, how far below the peak it is cut, or None: logarithmic only where that hides nothing.
    """

    title: str
    x: str
    y: str
    x_label: str
    y_label: str
    caption: str
    decades: int | None = None


KINDS = (
    Kind(
        *("Spectra", "eigenvalue", "density", "eigenvalue of the Hessian", "density"),
        "Spectral density of the Hessian of the training loss (logarithmic, cut six decades below the peak).",
        decades=6,
    ),
    Kind(
        *("Loss along lines", "t", "loss", "t, the place on the line (0: the weights)", "training loss (nats)"),
        "Training loss along a line through the trained weights; t is in the unit of the line's direction.",
    ),
    Kind(
        *("Accuracy on corrupted images", "severity", "accuracy", "severity of the corruption", "accuracy (%)"),
        "Accuracy on corrupted test images over the corruption's severity.",
    ),
)
_MEAN_OR_EACH = f"{BAND} Where seeds were measured at different places, each is a thin line of its own."


def series_curves(context: Context, kind: Kind) -> Html:
    """A chart for every series of this kind."""
    charts, drawn = [], list[list[Curve]]()
    for name in names(context, kind.x, kind.y):
        curves = [c for look in looks(context) for c in _curves(look, name, kind.x, kind.y) if c.x]
        if curves:
            drawn.append(curves)
            said = f"{name}, {context.label}: {kind.y_label} over {kind.x_label}"
            charts.append(panel(name, chart(said, Axis(kind.x_label), _y_axis(kind, curves), curves)))
    lost = left_out(c for curves in drawn for c in curves)
    return figure(charts, f"{kind.caption} {_MEAN_OR_EACH}{lost}", looks(context), [tally(curves) for curves in drawn])


def _y_axis(kind: Kind, curves: Sequence[Curve]) -> Axis:
    values = [v for c in curves for v in c.y if v is not None]
    if kind.decades is None or max(values) <= 0:
        return Axis(kind.y_label, log=kind.decades is None and wide(values, 30))
    return Axis(kind.y_label, log=True, low=max(values) * 10.0**-kind.decades)
