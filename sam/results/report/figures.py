"""Which figures a set of runs gives: curves over training, sharpness against gap, curves over rho, XSAM's alpha."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sam.results.figures import MethodSeries, method_name, method_series
from sam.results.report.chart import Curve, Dot, Style, chart, legend, shown
from sam.results.report.html import Html, el
from sam.results.report.scale import Axis
from sam.results.statistics import summarize
from sam.results.tables import Context, Group, RunRow

Anchors = Mapping[str, str]  # folder of a run -> id of its entry in the page

BAND = "Mean over the finished seeds; band: ± one sample standard deviation (none for n = 1)."
TRAINING = (  # column of metrics.csv, what it is, unit
    ("test_accuracy", "Test accuracy", "%"),
    ("train_loss", "Training loss", "nats"),
    ("test_loss", "Test loss", "nats"),
)
_AT_RADIUS = re.compile(r"(\w+)\[rho=([^,\]]+)(?:,([^\]]*))?\]")
_SIDE = re.compile(r"_(stderr|spread|residual|std|draws)$")  # how sure a measure is: no measure of its own
FIRST = ("sharpness", "bn=eval,batch=all")
# Losses, or differences of losses.
_NATS = re.compile(r"sharpness|ascent_loss|(first|second)_order|average|maximum|n_step|adaptive|keskar|gap")


@dataclass(frozen=True)
class Look:
    """One method (one setting): its runs, and its look in every chart."""

    group: Group
    style: Style

    @property
    def n(self) -> str:
        lost = len(self.group.diverged)
        return f" (n = {len(self.group.finished)}{f', {lost} diverged and left out' if lost else ''})"


def looks(context: Context) -> list[Look]:
    def look(s: MethodSeries) -> Look:
        return Look(s.group, Style(s.group.label, s.slot, s.setting, s.slot + s.setting))

    return [look(s) for s in method_series(context)]


def figure(charts: Sequence[Html], caption: object, of: Iterable[Look]) -> Html:
    """Charts side by side, one legend, one caption; nothing if there is no chart."""
    if not charts:
        return Html("")
    listed = list(of)
    names = legend([look.style for look in listed], {look.style.label: look.n for look in listed})
    return el("figure", el("div", *charts, class_="charts"), names, el("figcaption", caption))


def panel(title: str, drawn: Html) -> Html:
    return el("div", el("h4", title), drawn, class_="panel")


# ------------------------------------------------------------------------------------------------------------------- curves


def mean_curve(style: Style, curves: Iterable[tuple[Sequence[float | None], Sequence[float | None]]]) -> Curve:
    """The mean of (x, y) curves at every x that one of them has, and its sample standard deviation; what is not finite is left out."""
    by_x: dict[float, list[float]] = {}
    for xs, ys in curves:
        for x, y in zip(xs, ys, strict=True):
            if x is not None and y is not None and shown(x) and shown(y):
                by_x.setdefault(x, []).append(y)
    order = sorted(by_x)
    points = [summarize(by_x[x]) for x in order]
    return Curve(style, order, [p.mean for p in points], [p.std for p in points])


def wide(values: Iterable[float | None], factor: float) -> bool:
    """Whether all values are positive and span more than `factor`: a logarithmic axis then hides none of them."""
    kept = [v for v in values if v is not None and shown(v)]
    return bool(kept) and min(kept) > 0 and max(kept) > factor * min(kept)


def _over_epochs(look: Look, column: str) -> Curve:
    runs = look.group.finished.values()
    return mean_curve(look.style, [([row.get("epoch") for row in run.epochs], [row.get(column) for row in run.epochs]) for run in runs])


def training(context: Context) -> Html:
    """Test accuracy and losses over epochs."""
    charts, cut = [], False
    for column, title, unit in TRAINING:
        curves = [c for c in (_over_epochs(look, column) for look in looks(context)) if c.x]
        if not curves:
            continue
        values = [v for c in curves for v in c.y]
        low, high = _late(curves) if column == "test_accuracy" else (None, None)
        cut = cut or low is not None
        y = Axis(f"{title} ({unit})", log=column != "test_accuracy" and wide(values, 20), low=low, high=high)
        charts.append(
            panel(title, chart(f"{title} over epochs, {context.label}. {_ends(curves, unit)}", Axis("Epoch", whole=True), y, curves))
        )
    note = " The accuracy axis is cut below, where the first climb would flatten what tells the methods apart." if cut else ""
    said = f"Over training, by epoch. {BAND} Training loss: as met in training, over the epoch's own batches.{note}"
    return figure(charts, said, looks(context))


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


def _ends(curves: Sequence[Curve], unit: str) -> str:
    """The chart in words: where every curve ends."""
    ends = [f"{c.style.label} {c.y[-1]:.4g}" for c in curves if c.y and c.y[-1] is not None]
    return f"At the end, in {unit}: " + ", ".join(ends) + "."


def alphas(context: Context) -> Html:
    """XSAM's alpha over epochs: any run whose metrics hold one."""
    having = [(look, curve) for look in looks(context) if (curve := _over_epochs(look, "alpha")).x]
    if not having:
        return Html("")
    drawn = chart(f"Alpha over epochs, {context.label}", Axis("Epoch", whole=True), Axis("α"), [curve for _, curve in having])
    said = f"The α that the search last chose, by epoch (no unit; at α = 1 XSAM's step is SAM's). {BAND}"
    return figure([panel("α over training", drawn)], said, [look for look, _ in having])


# ----------------------------------------------------------------------------------------------------------------- measures


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


def gap_scatter(context: Context, anchors: Anchors, family: tuple[str, str], names: Mapping[float, str]) -> Html:
    """A measure against the gap at each radius, a point for every finished run; a point leads to its run."""
    charts, used = [], []
    hidden = 0
    for rho, name in names.items():
        dots = []
        for look in looks(context):
            for seed, run in look.group.finished.items():
                x, y = run.measures.get(name), run.measures.get("gap")
                if x is None or y is None or not shown(x) or not shown(y):
                    hidden += 1
                    continue
                said = f"{look.style.label}, seed {seed}: {name} {x:.4g}, gap {y:.4g}"
                dots.append(Dot(look.style, x, y, said, f"#{anchors[run.folder]}"))
                used.append(look)
        if dots:
            across = Axis(f"{spoken(family)} at ρ = {rho:g}{_unit(family)}", log=wide([d.x for d in dots], 10))
            drawn = chart(f"{name} against generalisation gap, {context.label}", across, Axis("Gap (nats)"), dots=dots)
            charts.append(panel(f"ρ = {rho:g}", drawn))
    lost = f" {hidden} runs without a finite value are not shown." if hidden else ""
    said = f"{spoken(family).capitalize()}{_unit(family)} against the generalisation gap (nats); a point is a run and leads to it.{lost}"
    return figure(charts, said, [look for look in looks(context) if look in used])


def measured_radii(context: Context, family: tuple[str, str], names: Mapping[float, str]) -> Html:
    """A measure over the radii at which it was taken, where there are several."""
    if len(names) < 2:
        return Html("")
    radii = list(names)
    of = [look for look in looks(context) if look.group.finished]
    curves = [mean_curve(o.style, [(radii, [r.measures.get(n) for n in names.values()]) for r in o.group.finished.values()]) for o in of]
    y = Axis(f"{spoken(family)}{_unit(family)}", log=wide([v for c in curves for v in c.y], 10))
    drawn = chart(f"{spoken(family)} over the measured radius, {context.label}", Axis("measured ρ", log=wide(radii, 4)), y, curves)
    said = f"{spoken(family).capitalize()} of the trained weights over the radius ρ at which it was measured{_unit(family)}. {BAND}"
    return figure([panel(f"{spoken(family)} over ρ", drawn)], said, of)


SWEPT: tuple[tuple[str, str, str], ...] = (("test_accuracy", "Final test accuracy", "%"), ("gap", "Generalisation gap", "nats"))


def trained_radii(context: Context) -> Html:
    """Results over the rho of training, where a method was trained with several; one curve for each setting of the other keys."""
    found: dict[str, list[Look]] = {}
    for look in looks(context):
        if "rho" in look.group.optimizer.used_keys and look.group.finished:
            found.setdefault(repr(replace(look.group.optimizer, rho=0.0)), []).append(look)
    swept = [of for of in found.values() if len(of) > 1]
    if not swept:
        return Html("")
    first = next(iter(families(context.runs).items()), None)
    measures = list(SWEPT)
    if first is not None:
        rho, name = next(iter(first[1].items()))
        measures.append((name, f"{spoken(first[0])}, measured at ρ = {rho:g}", "nats"))
    styles = [replace(of[0].style, label=_without_rho(of), dash=i % 4) for i, of in enumerate(swept)]
    charts = []
    for name, title, unit in measures:
        curves = [_over_trained_rho(style, of, name) for style, of in zip(styles, swept, strict=True)]
        if any(c.x for c in curves):
            across = Axis("ρ of training", log=wide([x for c in curves for x in c.x], 4))
            y = Axis(f"{title} ({unit})", log=name != "test_accuracy" and wide([v for c in curves for v in c.y], 30))
            charts.append(panel(title, chart(f"{title} over the rho of training, {context.label}", across, y, curves)))
    return el(
        "figure",
        el("div", *charts, class_="charts"),
        legend(styles, {s.label: f" ({_seeds(of)})" for s, of in zip(styles, swept, strict=True)}),
        el("figcaption", f"Results over the radius ρ that was trained with. {BAND}"),
    )


def _over_trained_rho(style: Style, of: Sequence[Look], name: str) -> Curve:
    pairs: list[tuple[list[float | None], list[float | None]]] = []
    for look in of:
        pairs += [([look.group.optimizer.rho], [run.measures.get(name)]) for run in look.group.finished.values()]
    return mean_curve(style, pairs)


def _without_rho(of: Sequence[Look]) -> str:
    """The method, and what tells this setting from others beside rho."""
    label = of[0].style.label
    inside = re.search(r"\((.*)\)$", label)
    rest = [part for part in (inside[1].split(", ") if inside else []) if not part.startswith("rho ")]
    return method_name(of[0].group.optimizer) + (f" ({', '.join(rest)})" if rest else "")


def _seeds(of: Sequence[Look]) -> str:
    counts = sorted({len(look.group.finished) for look in of})
    return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "") + f" for each of {len(of)} ρ"
