"""Figures of the page: curves over training, series of the notions, measures over radii and against the gap."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sam.report.chart import Axis, Curve, Dot, chart, legend
from sam.report.html import Html, el
from sam.report.looks import Look, Style, looks, method_name
from sam.schema import to_dict
from sam.tables.conditions import Condition, RunRow
from sam.tables.statistics import is_finite, summarize
from sam.text import counted

BAND = "Mean over the finished seeds; band: ± one sample standard deviation (none for n = 1)."
TRAINING = (  # column of metrics.csv, what it is, unit
    ("test_accuracy", "Test accuracy", "%"),
    ("train_loss", "Training loss", "nats"),
    ("test_loss", "Test loss", "nats"),
)

Tally = Mapping[str, int]  # label of a method -> how many of its runs a chart shows
Panel = tuple[str, str, Axis, Axis, list[Curve]]  # title, words for a screen reader, x, y, curves
Columns = Mapping[str, Sequence[float | None]]
Anchors = Mapping[str, str]  # folder of a run -> id of its entry in the page


def figure(charts: Sequence[Html], caption: str, of: Iterable[Look], tallies: Sequence[Tally]) -> Html:
    """Charts side by side with one legend of the methods shown and one caption; empty without charts."""
    if not charts:
        return Html("")
    listed = [look for look in of if any(look.style.label in tally for tally in tallies)]
    names = legend([look.style for look in listed], {look.style.label: _shown_runs(look, tallies) for look in listed})
    return el("figure", el("div", *charts, class_="charts"), names, el("figcaption", caption))


def _shown_runs(look: Look, tallies: Iterable[Tally]) -> str:
    """Number of the method's runs in the figure's charts, as text for the legend."""
    counts = sorted({tally[look.style.label] for tally in tallies if look.style.label in tally})
    lost = len(look.row.diverged)
    words = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"
    return f" (n = {words}{f', {lost} diverged and left out' if lost else ''})"


def curves_figure(panels: Sequence[Panel], caption: str, of: Iterable[Look]) -> Html:
    """One chart per panel; the caption counts the values that are in no mean."""
    charts, tallies = [], []
    for title, words, x, y, curves in panels:
        charts.append(panel(title, chart(words, x, y, curves)))
        tallies.append(Counter[str]())
        for curve in curves:
            tallies[-1][curve.style.label] += curve.n
    return figure(charts, caption + left_out(curve for *_, curves in panels for curve in curves), of, tallies)


def left_out(curves: Iterable[Curve]) -> str:
    """Sentence that counts values without a place in any mean."""
    lost = sum(curve.lost for curve in curves)
    return f" {lost} value{'s that are' if lost > 1 else ' that is'} not finite: in no mean." if lost else ""


def panel(title: str, drawn: Html) -> Html:
    return el("div", el("h4", title), drawn, class_="panel")


# ------------------------------------------------------------------------------------------------------------------- curves


def mean_curve(style: Style, curves: Iterable[tuple[Sequence[float | None], Sequence[float | None]]]) -> Curve:
    """Average (x, y) curves at every x, with sample standard deviation; values that are not finite are only counted."""
    by_x: dict[float, list[float]] = {}
    n = lost = 0
    for xs, ys in curves:
        pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if is_finite(x)]
        good = [(x, y) for x, y in pairs if is_finite(y)]
        for x, y in good:
            by_x.setdefault(x, []).append(y)
        n, lost = n + bool(good), lost + len(pairs) - len(good)
    order = sorted(by_x)
    points = [summarize(by_x[x]) for x in order]
    return Curve(style, order, [p.mean for p in points], [p.std for p in points], n, lost)


def wide(values: Iterable[float | None], factor: float) -> bool:
    """True if all values are positive and span more than `factor`, so that a logarithmic axis hides none."""
    kept = list(filter(is_finite, values))
    return bool(kept) and min(kept) > 0 and max(kept) > factor * min(kept)


def over_epochs(look: Look, column: str) -> Curve:
    """Average a column of metrics.csv over the finished seeds; epochs without it are skipped."""
    having = [[row for row in run.epochs if column in row] for run in look.row.finished.values()]
    return mean_curve(look.style, [([row.get("epoch") for row in rows], [row[column] for row in rows]) for rows in having])


def training(condition: Condition) -> Html:
    """Curves of test accuracy and losses over epochs."""
    panels, of, cut = list[Panel](), looks(condition), False
    for column, title, unit in TRAINING:
        curves = [curve for look in of if (curve := over_epochs(look, column)).x]
        if not curves:
            continue
        low, high = _late(curves) if column == "test_accuracy" else (None, None)
        cut = cut or low is not None
        y = Axis(f"{title} ({unit})", log=column != "test_accuracy" and wide((v for c in curves for v in c.y), 20), low=low, high=high)
        ends = ", ".join(f"{c.style.label} {c.y[-1]:.4g}" for c in curves if c.y and c.y[-1] is not None)
        words = f"{title} over epochs, {condition.label}. At the end, in {unit}: {ends}."
        panels.append((title, words, Axis("Epoch", whole=True), y, curves))
    note = " The accuracy axis is cut below, where the first climb would flatten what tells the methods apart." if cut else ""
    caption = f"Over training, by epoch. {BAND} Training loss: as met in training, over the epoch's own batches.{note}"
    return curves_figure(panels, caption, of)


def _late(curves: Sequence[Curve]) -> tuple[float | None, float | None]:
    """Axis limits for the last three quarters of the curves with their bands; None if they would cut nothing."""
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
    """Curve of XSAM's alpha over epochs, for any run whose metrics have one."""
    of = looks(condition)
    curves = [curve for look in of if (curve := over_epochs(look, "alpha")).x]
    drawn = ("α over training", f"Alpha over epochs, {condition.label}", Axis("Epoch", whole=True), Axis("α"), curves)
    caption = f"The α that the search last chose, by epoch (no unit; at α = 1 XSAM's step is SAM's). {BAND}"
    return curves_figure([drawn] if curves else [], caption, of)


# ------------------------------------------------------------------------------------------------------------------- series


def names(condition: Condition, *columns: str) -> list[str]:
    """Names of the series that have these columns, in order of appearance."""
    found = {name: series for run in condition.runs for name, series in run.series.items()}
    return [name for name, series in found.items() if set(columns) <= set(series)]


def _curves(look: Look, name: str, x: str, y: str) -> list[Curve]:
    """Mean and band if all seeds share their x; else one thin line per seed."""
    found = [run.series[name] for run in look.row.finished.values() if name in run.series]
    if found and all(list(s[x]) == list(found[0][x]) for s in found):
        return [mean_curve(look.style, [(s[x], s[y]) for s in found])]
    return [replace(mean_curve(look.style, [(s[x], s[y])]), spread=(), thin=True) for s in found]


@dataclass(frozen=True)
class Kind:
    """A kind of series drawn as curves y over x: columns, axis labels, caption.

    decades: where to cut a logarithmic y axis, below the peak; None: logarithmic only if that hides nothing.
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
    """One chart per series of this kind."""
    panels, of = list[Panel](), looks(condition)
    for name in names(condition, kind.x, kind.y):
        if curves := [c for look in of for c in _curves(look, name, kind.x, kind.y) if c.x]:
            words = f"{name}, {condition.label}: {kind.y_label} over {kind.x_label}"
            panels.append((name, words, Axis(kind.x_label), _y_axis(kind, curves), curves))
    return curves_figure(panels, f"{kind.caption} {_MEAN_OR_EACH}", of)


def _y_axis(kind: Kind, curves: Sequence[Curve]) -> Axis:
    values = [v for c in curves for v in c.y if v is not None]
    if kind.decades is None or max(values) <= 0:
        return Axis(kind.y_label, log=kind.decades is None and wide(values, 30))
    return Axis(kind.y_label, log=True, low=max(values) * 10.0**-kind.decades)


# -------------------------------------------------------------------------------------------------------------------- radii

_AT_RADIUS = re.compile(r"(\w+)\[rho=([^,\]]+)(?:,([^\]]*))?\]")
_SIDE = re.compile(r"_(stderr|spread|residual|std|draws)$")  # how sure a measure is: no measure of its own
FIRST = "sharpness (bn=eval, batch=all)"
# Losses, or differences of losses; the length and the cosine of n_step's path are none.
_NATS = re.compile(r"sharpness|ascent loss|(first|second) order|average|maximum|n step(?! length| cosine)|adaptive|gap")


def families(runs: Iterable[RunRow]) -> dict[str, dict[float, str]]:
    """Measures taken at radii, the primary sharpness first: name in figures (like `FIRST`) -> radius -> measure."""
    found: dict[str, dict[float, str]] = {FIRST: {}}
    for run in runs:
        for name, value in run.measures.items():
            match = _AT_RADIUS.fullmatch(name)
            if match and is_finite(value) and not _SIDE.search(match[1]):
                rest = f" ({match[3].replace(',', ', ')})" if match[3] else ""
                found.setdefault(match[1].replace("_", " ") + rest, {})[float(match[2])] = name
    return {spoken: dict(sorted(names.items())) for spoken, names in found.items() if names}


def _unit(spoken: str) -> str:
    """ " (nats)" if the measure is known to be a loss; else nothing is claimed."""
    return " (nats)" if _NATS.match(spoken) else ""


def gap_scatter(condition: Condition, anchors: Anchors, spoken: str, names: Mapping[float, str]) -> Html:
    """Scatter of a measure against the gap at each radius, one linked point per finished run."""
    charts, tallies, of = [], [], looks(condition)
    hidden = 0
    for rho, name in names.items():
        dots = []
        for look in of:
            for seed, run in look.row.finished.items():
                x, y = run.measures.get(name), run.measures.get("gap")
                if is_finite(x) and is_finite(y):
                    words = f"{look.style.label}, seed {seed}: {name} {x:.4g}, gap {y:.4g}"
                    dots.append(Dot(look.style, x, y, words, f"#{anchors[run.folder]}"))
                else:
                    hidden += 1
        if dots:
            tallies.append(Counter(dot.style.label for dot in dots))
            across = Axis(f"{spoken} at ρ = {rho:g}{_unit(spoken)}", log=wide((d.x for d in dots), 10))
            drawn = chart(f"{name} against generalisation gap, {condition.label}", across, Axis("Gap (nats)"), dots=dots)
            charts.append(panel(f"ρ = {rho:g}", drawn))
    lost = f" Not shown, without a finite value: {counted(hidden, 'point')}." if hidden else ""
    caption = f"{spoken.capitalize()}{_unit(spoken)} against the generalisation gap (nats); a point is a run and leads to it.{lost}"
    return figure(charts, caption, of, tallies)


def measured_radii(condition: Condition, spoken: str, names: Mapping[float, str]) -> Html:
    """Curves of a measure over the radii at which it was taken, if there are several."""
    of, radii = [look for look in looks(condition) if look.row.finished], list(names)
    curves = [mean_curve(o.style, [(radii, [r.measures.get(n) for n in names.values()]) for r in o.row.finished.values()]) for o in of]
    y = Axis(f"{spoken}{_unit(spoken)}", log=wide((v for c in curves for v in c.y), 10))
    words = f"{spoken} over the measured radius, {condition.label}"
    drawn = (f"{spoken} over ρ", words, Axis("measured ρ", log=wide(radii, 4)), y, curves)
    caption = f"{spoken.capitalize()} of the trained weights over the radius ρ at which it was measured{_unit(spoken)}. {BAND}"
    return curves_figure([drawn] if len(names) > 1 else [], caption, of)


def trained_radii(condition: Condition) -> Html:
    """Curves of results over the rho of training, one per setting of the other keys, where several rho were trained."""
    found: dict[str, list[Look]] = {}
    for look in looks(condition):
        if "rho" in look.row.optimizer.used_keys and look.row.finished:
            found.setdefault(repr({k: v for k, v in to_dict(look.row.optimizer).items() if k != "rho"}), []).append(look)
    swept = [of for of in found.values() if len(of) > 1]
    if not swept:
        return Html("")
    spoken, names = next(iter(families(condition.runs).items()), ("", {}))
    measures = [("test_accuracy", "Final test accuracy", "%"), ("gap", "Generalisation gap", "nats")]
    if _unit(spoken):
        rho, name = next(iter(names.items()))
        measures.append((name, f"{spoken}, measured at ρ = {rho:g}", "nats"))
    styles = [replace(of[0].style, label=_without_rho(of), dash=i % 4) for i, of in enumerate(swept)]
    charts, drawn = [], list[Curve]()
    for name, title, unit in measures:
        points = [[([o.row.optimizer.rho], [run.measures.get(name)]) for o in of for run in o.row.finished.values()] for of in swept]
        curves = [mean_curve(style, pairs) for style, pairs in zip(styles, points, strict=True)]
        if any(c.x for c in curves):
            drawn += curves
            across = Axis("ρ of training", log=wide((x for c in curves for x in c.x), 4))
            y = Axis(f"{title} ({unit})", log=name != "test_accuracy" and wide((v for c in curves for v in c.y), 30))
            charts.append(panel(title, chart(f"{title} over the rho of training, {condition.label}", across, y, curves)))
    return el(
        "figure",
        el("div", *charts, class_="charts"),
        legend(styles, {s.label: f" ({_seeds(of)})" for s, of in zip(styles, swept, strict=True)}),
        el("figcaption", f"Results over the radius ρ that was trained with. {BAND}{left_out(drawn)}"),
    )


def _without_rho(of: Sequence[Look]) -> str:
    """Label of the method and its settings except rho."""
    label = of[0].style.label
    inside = re.search(r"\((.*)\)$", label)
    rest = [part for part in (inside[1].split(", ") if inside else []) if not part.startswith("rho ")]
    return method_name(of[0].row.optimizer) + (f" ({', '.join(rest)})" if rest else "")


def _seeds(of: Sequence[Look]) -> str:
    counts = sorted({len(look.row.finished) for look in of})
    return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "") + f" for each of {len(of)} ρ"
