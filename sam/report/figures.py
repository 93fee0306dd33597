"""The page's figures: curves over training, series that the notions measured, and measures over radii and against the gap."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sam.config import counted
from sam.report.chart import Axis, Curve, Dot, Style, chart, legend, shown
from sam.report.html import Html, el
from sam.report.overview import method_name, method_series
from sam.tables.conditions import Condition, RunRow, TableRow
from sam.tables.statistics import summarize

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

    row: TableRow
    style: Style

    def n(self, tallies: Iterable[Tally]) -> str:
        """How many runs the charts of a figure show of it."""
        counts = sorted({tally[self.style.label] for tally in tallies if self.style.label in tally})
        lost = len(self.row.diverged)
        words = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"
        return f" (n = {words}{f', {lost} diverged and left out' if lost else ''})"


def looks(condition: Condition) -> list[Look]:
    return [Look(s.row, Style(s.row.label, *s.look)) for s in method_series(condition)]


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
    having = [[row for row in run.epochs if column in row] for run in look.row.finished.values()]
    return mean_curve(look.style, [([row.get("epoch") for row in rows], [row[column] for row in rows]) for rows in having])


def training(condition: Condition) -> Html:
    """Test accuracy and losses over epochs."""
    charts, cut, drawn = [], False, list[list[Curve]]()
    for column, title, unit in TRAINING:
        curves = [c for c in (_over_epochs(look, column) for look in looks(condition)) if c.x]
        if not curves:
            continue
        drawn.append(curves)
        values = [v for c in curves for v in c.y]
        low, high = _late(curves) if column == "test_accuracy" else (None, None)
        cut = cut or low is not None
        y = Axis(f"{title} ({unit})", log=column != "test_accuracy" and wide(values, 20), low=low, high=high)
        ends = ", ".join(f"{c.style.label} {c.y[-1]:.4g}" for c in curves if c.y and c.y[-1] is not None)
        said = f"{title} over epochs, {condition.label}. At the end, in {unit}: {ends}."
        charts.append(panel(title, chart(said, Axis("Epoch", whole=True), y, curves)))
    note = " The accuracy axis is cut below, where the first climb would flatten what tells the methods apart." if cut else ""
    said = f"Over training, by epoch. {BAND} Training loss: as met in training, over the epoch's own batches.{note}"
    return figure(charts, said + left_out(c for curves in drawn for c in curves), looks(condition), [tally(curves) for curves in drawn])


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


def alphas(condition: Condition) -> Html:
    """XSAM's alpha over epochs: any run whose metrics hold one."""
    curves = [curve for look in looks(condition) if (curve := _over_epochs(look, "alpha")).x]
    if not curves:
        return Html("")
    drawn = chart(f"Alpha over epochs, {condition.label}", Axis("Epoch", whole=True), Axis("α"), curves)
    said = f"The α that the search last chose, by epoch (no unit; at α = 1 XSAM's step is SAM's). {BAND}{left_out(curves)}"
    return figure([panel("α over training", drawn)], said, looks(condition), [tally(curves)])


Columns = Mapping[str, Sequence[float | None]]


def names(condition: Condition, *columns: str) -> list[str]:
    """The series, in the order of their appearance, that have these columns."""
    found = {name: series for run in condition.runs for name, series in run.series.items()}
    return [name for name, series in found.items() if set(columns) <= set(series)]


def _curves(look: Look, name: str, x: str, y: str) -> list[Curve]:
    """Mean and band where all seeds share their x; else a thin line for every seed."""
    found = [run.series[name] for run in look.row.finished.values() if name in run.series]
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


def series_curves(condition: Condition, kind: Kind) -> Html:
    """A chart for every series of this kind."""
    charts, drawn = [], list[list[Curve]]()
    for name in names(condition, kind.x, kind.y):
        curves = [c for look in looks(condition) for c in _curves(look, name, kind.x, kind.y) if c.x]
        if curves:
            drawn.append(curves)
            said = f"{name}, {condition.label}: {kind.y_label} over {kind.x_label}"
            charts.append(panel(name, chart(said, Axis(kind.x_label), _y_axis(kind, curves), curves)))
    lost = left_out(c for curves in drawn for c in curves)
    return figure(charts, f"{kind.caption} {_MEAN_OR_EACH}{lost}", looks(condition), [tally(curves) for curves in drawn])


def _y_axis(kind: Kind, curves: Sequence[Curve]) -> Axis:
    values = [v for c in curves for v in c.y if v is not None]
    if kind.decades is None or max(values) <= 0:
        return Axis(kind.y_label, log=kind.decades is None and wide(values, 30))
    return Axis(kind.y_label, log=True, low=max(values) * 10.0**-kind.decades)


Anchors = Mapping[str, str]  # folder of a run -> id of its entry in the page

_AT_RADIUS = re.compile(r"(\w+)\[rho=([^,\]]+)(?:,([^\]]*))?\]")
_SIDE = re.compile(r"_(stderr|spread|residual|std|draws)$")  # how sure a measure is: no measure of its own
FIRST = ("sharpness", "bn=eval,batch=all")
# Losses, or differences of losses; the length and the cosine of n_step's path are none.
_NATS = re.compile(r"sharpness|ascent_loss|(first|second)_order|average|maximum|n_step(?!_length|_cosine)|adaptive|gap")


def families(runs: Iterable[RunRow]) -> dict[tuple[str, str], dict[float, str]]:
    """Measures that were taken at radii: (kind, the rest of its place) -> radius -> name; the primary sharpness first."""
    found: dict[tuple[str, str], dict[float, str]] = {FIRST: {}}
    for run in runs:
        for name, value in run.measures.items():
            match = _AT_RADIUS.fullmatch(name)
            if match and shown(value) and not _SIDE.search(match[1]):
                found.setdefault((match[1], match[3] or ""), {})[float(match[2])] = name
    return {family: dict(sorted(names.items())) for family, names in found.items() if names}


def _unit(family: tuple[str, str]) -> str:
    """ " (nats)" for what is known to be a loss; nothing is claimed of others."""
    return " (nats)" if _NATS.match(family[0]) else ""


def spoken(family: tuple[str, str]) -> str:
    """ "sharpness (bn=eval, batch=all)"."""
    kind, rest = family
    return kind.replace("_", " ") + (f" ({rest.replace(',', ', ')})" if rest else "")


def gap_scatter(condition: Condition, anchors: Anchors, family: tuple[str, str], names: Mapping[float, str]) -> Html:
    """A measure against the gap at each radius, a point for every finished run; a point leads to its run."""
    charts, tallies = [], []
    hidden = 0
    for rho, name in names.items():
        dots = []
        for look in looks(condition):
            for seed, run in look.row.finished.items():
                x, y = run.measures.get(name), run.measures.get("gap")
                if x is None or y is None or not shown(x) or not shown(y):
                    hidden += 1
                    continue
                said = f"{look.style.label}, seed {seed}: {name} {x:.4g}, gap {y:.4g}"
                dots.append(Dot(look.style, x, y, said, f"#{anchors[run.folder]}"))
        if dots:
            tallies.append(Counter(dot.style.label for dot in dots))
            across = Axis(f"{spoken(family)} at ρ = {rho:g}{_unit(family)}", log=wide([d.x for d in dots], 10))
            drawn = chart(f"{name} against generalisation gap, {condition.label}", across, Axis("Gap (nats)"), dots=dots)
            charts.append(panel(f"ρ = {rho:g}", drawn))
    lost = f" Not shown, without a finite value: {counted(hidden, 'point')}." if hidden else ""
    said = f"{spoken(family).capitalize()}{_unit(family)} against the generalisation gap (nats); a point is a run and leads to it.{lost}"
    return figure(charts, said, looks(condition), tallies)


def measured_radii(condition: Condition, family: tuple[str, str], names: Mapping[float, str]) -> Html:
    """A measure over the radii at which it was taken, where there are several."""
    if len(names) < 2:
        return Html("")
    radii = list(names)
    of = [look for look in looks(condition) if look.row.finished]
    curves = [mean_curve(o.style, [(radii, [r.measures.get(n) for n in names.values()]) for r in o.row.finished.values()]) for o in of]
    y = Axis(f"{spoken(family)}{_unit(family)}", log=wide([v for c in curves for v in c.y], 10))
    drawn = chart(f"{spoken(family)} over the measured radius, {condition.label}", Axis("measured ρ", log=wide(radii, 4)), y, curves)
    said = f"{spoken(family).capitalize()} of the trained weights over the radius ρ at which it was measured{_unit(family)}. {BAND}"
    return figure([panel(f"{spoken(family)} over ρ", drawn)], said + left_out(curves), of, [tally(curves)])


def trained_radii(condition: Condition) -> Html:
    """Results over the rho of training, where a method was trained with several; one curve for each setting of the other keys."""
    found: dict[str, list[Look]] = {}
    for look in looks(condition):
        if "rho" in look.row.optimizer.used_keys and look.row.finished:
            found.setdefault(repr(replace(look.row.optimizer, rho=0.0)), []).append(look)
    swept = [of for of in found.values() if len(of) > 1]
    if not swept:
        return Html("")
    first = next(iter(families(condition.runs).items()), None)
    measures = [("test_accuracy", "Final test accuracy", "%"), ("gap", "Generalisation gap", "nats")]
    if first is not None and _unit(first[0]):
        rho, name = next(iter(first[1].items()))
        measures.append((name, f"{spoken(first[0])}, measured at ρ = {rho:g}", "nats"))
    styles = [replace(of[0].style, label=_without_rho(of), dash=i % 4) for i, of in enumerate(swept)]
    charts, drawn = [], list[Curve]()
    for name, title, unit in measures:
        points = [[([o.row.optimizer.rho], [run.measures.get(name)]) for o in of for run in o.row.finished.values()] for of in swept]
        curves = [mean_curve(style, pairs) for style, pairs in zip(styles, points, strict=True)]
        if any(c.x for c in curves):
            drawn += curves
            across = Axis("ρ of training", log=wide([x for c in curves for x in c.x], 4))
            y = Axis(f"{title} ({unit})", log=name != "test_accuracy" and wide([v for c in curves for v in c.y], 30))
            charts.append(panel(title, chart(f"{title} over the rho of training, {condition.label}", across, y, curves)))
    return el(
        "figure",
        el("div", *charts, class_="charts"),
        legend(styles, {s.label: f" ({_seeds(of)})" for s, of in zip(styles, swept, strict=True)}),
        el("figcaption", f"Results over the radius ρ that was trained with. {BAND}{left_out(drawn)}"),
    )


def _without_rho(of: Sequence[Look]) -> str:
    """The method, and what tells this setting from others beside rho."""
    label = of[0].style.label
    inside = re.search(r"\((.*)\)$", label)
    rest = [part for part in (inside[1].split(", ") if inside else []) if not part.startswith("rho ")]
    return method_name(of[0].row.optimizer) + (f" ({', '.join(rest)})" if rest else "")


def _seeds(of: Sequence[Look]) -> str:
    counts = sorted({len(look.row.finished) for look in of})
    return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "") + f" for each of {len(of)} ρ"
