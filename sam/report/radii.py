"""Figures of what was measured or trained at a radius: sharpness against gap, curves over the measured rho and over the rho of training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sam.report.chart import Curve, Dot, chart, legend, shown
from sam.report.figures import BAND, Look, figure, left_out, looks, mean_curve, panel, tally, wide
from sam.report.html import Html, el
from sam.report.overview import method_name
from sam.report.scale import Axis
from sam.schema import to_dict
from sam.tables.table import Context, RunRow
from sam.text import counted

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


def gap_scatter(context: Context, anchors: Anchors, family: tuple[str, str], names: Mapping[float, str]) -> Html:
    """A measure against the gap at each radius, a point for every finished run; a point leads to its run."""
    charts, tallies = [], []
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
        if dots:
            tallies.append(Counter(dot.style.label for dot in dots))
            across = Axis(f"{spoken(family)} at ρ = {rho:g}{_unit(family)}", log=wide([d.x for d in dots], 10))
            drawn = chart(f"{name} against generalisation gap, {context.label}", across, Axis("Gap (nats)"), dots=dots)
            charts.append(panel(f"ρ = {rho:g}", drawn))
    lost = f" Not shown, without a finite value: {counted(hidden, 'point')}." if hidden else ""
    said = f"{spoken(family).capitalize()}{_unit(family)} against the generalisation gap (nats); a point is a run and leads to it.{lost}"
    return figure(charts, said, looks(context), tallies)


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
    return figure([panel(f"{spoken(family)} over ρ", drawn)], said + left_out(curves), of, [tally(curves)])


def trained_radii(context: Context) -> Html:
    """Results over the rho of training, where a method was trained with several; one curve for each setting of the other keys."""
    found: dict[str, list[Look]] = {}
    for look in looks(context):
        if "rho" in look.group.optimizer.used_keys and look.group.finished:
            found.setdefault(repr({k: v for k, v in to_dict(look.group.optimizer).items() if k != "rho"}), []).append(look)
    swept = [of for of in found.values() if len(of) > 1]
    if not swept:
        return Html("")
    first = next(iter(families(context.runs).items()), None)
    measures = [("test_accuracy", "Final test accuracy", "%"), ("gap", "Generalisation gap", "nats")]
    if first is not None and _unit(first[0]):
        rho, name = next(iter(first[1].items()))
        measures.append((name, f"{spoken(first[0])}, measured at ρ = {rho:g}", "nats"))
    styles = [replace(of[0].style, label=_without_rho(of), dash=i % 4) for i, of in enumerate(swept)]
    charts, drawn = [], list[Curve]()
    for name, title, unit in measures:
        points = [[([o.group.optimizer.rho], [run.measures.get(name)]) for o in of for run in o.group.finished.values()] for of in swept]
        curves = [mean_curve(style, pairs) for style, pairs in zip(styles, points, strict=True)]
        if any(c.x for c in curves):
            drawn += curves
            across = Axis("ρ of training", log=wide([x for c in curves for x in c.x], 4))
            y = Axis(f"{title} ({unit})", log=name != "test_accuracy" and wide([v for c in curves for v in c.y], 30))
            charts.append(panel(title, chart(f"{title} over the rho of training, {context.label}", across, y, curves)))
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
    return method_name(of[0].group.optimizer) + (f" ({', '.join(rest)})" if rest else "")


def _seeds(of: Sequence[Look]) -> str:
    counts = sorted({len(look.group.finished) for look in of})
    return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "") + f" for each of {len(of)} ρ"
