"""What every figure of methods shares, and the curves over training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sam.report.chart import Curve, Style, chart, legend, shown
from sam.report.html import Html, el
from sam.report.overview import method_series
from sam.report.scale import Axis
from sam.tables.statistics import summarize
from sam.tables.table import Context, Group

BAND = "Mean over the finished seeds; band: ± one sample standard deviation (none for n = 1)."
TRAINING = (  # column of metrics.csv, what it is, unit
    ("test_accuracy", "Test accuracy", "%"),
    ("train_loss", "Training loss", "nats"),
    ("test_loss", "Test loss", "nats"),
)


Tally = Mapping[str, int]  # label of a method -> how many of its runs a chart shows


@dataclass(frozen=True)
class Look:
    """One method (one setting): its runs, and its look in every chart."""

    group: Group
    style: Style

    def n(self, tallies: Iterable[Tally]) -> str:
        """How many runs the charts of a figure show of it."""
        counts = sorted({tally[self.style.label] for tally in tallies if self.style.label in tally})
        lost = len(self.group.diverged)
        words = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"
        return f" (n = {words}{f', {lost} diverged and left out' if lost else ''})"


def looks(context: Context) -> list[Look]:
    return [Look(s.group, Style(s.group.label, *s.look)) for s in method_series(context)]


def figure(charts: Sequence[Html], caption: str, of: Iterable[Look], tallies: Sequence[Tally]) -> Html:
    """Charts side by side, one legend of the methods that they show, one caption; nothing if there is no chart."""
    if not charts:
        return Html("")
    listed = [look for look in of if any(look.style.label in tally for tally in tallies)]
    names = legend([look.style for look in listed], {look.style.label: look.n(tallies) for look in listed})
    return el("figure", el("div", *charts, class_="charts"), names, el("figcaption", caption))


def tally(curves: Iterable[Curve]) -> Tally:
    counts: Counter[str] = Counter()
    for curve in curves:
        counts[curve.style.label] += curve.n
    return counts


def left_out(curves: Iterable[Curve]) -> str:
    """What a caption says of values that are in no mean."""
    lost = sum(curve.lost for curve in curves)
    return f" {lost} value{'s that are' if lost > 1 else ' that is'} not finite: in no mean." if lost else ""


def panel(title: str, drawn: Html) -> Html:
    return el("div", el("h4", title), drawn, class_="panel")


# ------------------------------------------------------------------------------------------------------------------- curves


def mean_curve(style: Style, curves: Iterable[tuple[Sequence[float | None], Sequence[float | None]]]) -> Curve:
    """The mean of (x, y) curves at every x that one of them has, and its sample standard deviation; what is not finite is left out."""
    by_x: dict[float, list[float]] = {}
    n = lost = 0
    for xs, ys in curves:
        pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if x is not None and shown(x)]
        good = [(x, y) for x, y in pairs if y is not None and shown(y)]
        for x, y in good:
            by_x.setdefault(x, []).append(y)
        n, lost = n + bool(good), lost + len(pairs) - len(good)
    order = sorted(by_x)
    points = [summarize(by_x[x]) for x in order]
    return Curve(style, order, [p.mean for p in points], [p.std for p in points], n, lost)


def wide(values: Iterable[float | None], factor: float) -> bool:
    """Whether all values are positive and span more than `factor`: a logarithmic axis then hides none of them."""
    kept = [v for v in values if v is not None and shown(v)]
    return bool(kept) and min(kept) > 0 and max(kept) > factor * min(kept)


def _over_epochs(look: Look, column: str) -> Curve:
    """Epochs without the column are no values of it."""
    having = [[row for row in run.epochs if column in row] for run in look.group.finished.values()]
    return mean_curve(look.style, [([row.get("epoch") for row in rows], [row[column] for row in rows]) for rows in having])


def training(context: Context) -> Html:
    """Test accuracy and losses over epochs."""
    charts, cut, drawn = [], False, list[list[Curve]]()
    for column, title, unit in TRAINING:
        curves = [c for c in (_over_epochs(look, column) for look in looks(context)) if c.x]
        if not curves:
            continue
        drawn.append(curves)
        values = [v for c in curves for v in c.y]
        low, high = _late(curves) if column == "test_accuracy" else (None, None)
        cut = cut or low is not None
        y = Axis(f"{title} ({unit})", log=column != "test_accuracy" and wide(values, 20), low=low, high=high)
        ends = ", ".join(f"{c.style.label} {c.y[-1]:.4g}" for c in curves if c.y and c.y[-1] is not None)
        said = f"{title} over epochs, {context.label}. At the end, in {unit}: {ends}."
        charts.append(panel(title, chart(said, Axis("Epoch", whole=True), y, curves)))
    note = " The accuracy axis is cut below, where the first climb would flatten what tells the methods apart." if cut else ""
    said = f"Over training, by epoch. {BAND} Training loss: as met in training, over the epoch's own batches.{note}"
    return figure(charts, said + left_out(c for curves in drawn for c in curves), looks(context), [tally(curves) for curves in drawn])


def _late(curves: Sequence[Curve]) -> tuple[float | None, float | None]:
    """Limits that hold the last three quarters of the curves with their bands; None where that cuts nothing."""
    late, all_values = [], []
    for c in curves:
        for i, (x, y) in enumerate(zip(c.x, c.y, strict=True)):
            if y is not None:
                edges = [y - (c.spread[i] or 0.0), y + (c.spread[i] or 0.0)]
                all_values += edges
                late += edges if x >= c.x[-1] / 4 else []
    margin = 0.08 * (max(late) - min(late))
    if not margin or min(all_values) >= min(late) - margin:
        return None, None
    return min(late) - margin, max(late) + margin


def alphas(context: Context) -> Html:
    """XSAM's alpha over epochs: any run whose metrics hold one."""
    curves = [curve for look in looks(context) if (curve := _over_epochs(look, "alpha")).x]
    if not curves:
        return Html("")
    drawn = chart(f"Alpha over epochs, {context.label}", Axis("Epoch", whole=True), Axis("α"), curves)
    said = f"The α that the search last chose, by epoch (no unit; at α = 1 XSAM's step is SAM's). {BAND}{left_out(curves)}"
    return figure([panel("α over training", drawn)], said, looks(context), [tally(curves)])
