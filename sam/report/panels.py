"""What a figure shows, as plain data: panels of series over two axes, and their CSV. `drawing` makes pictures of them."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sam.report.looks import Style
from sam.tables.conditions import Condition, RunRow, grouped
from sam.tables.render import inert
from sam.tables.statistics import is_finite, summarize
from sam.text import printable

Values = Sequence[float | None]


@dataclass(frozen=True)
class Axis:
    """log: logarithmic, without values <= 0; whole: ticks at whole numbers; low, high: limits, None: from the values; names: what stands at
    0, 1, ... from the top, in place of numbers."""

    label: str
    log: bool = False
    whole: bool = False
    low: float | None = None
    high: float | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """Values of one method (or of none, without a label).

    kind          line (low, high: its band) | thin (one of several lines, or a path on a surface) | points | whiskers (low, high: along x)
                  | level (a horizontal line at y[0], low, high: its band) | mark (a vertical line at x[0]) | surface (z on a full grid)
                  | named (points with their names).
    names, links  of each point: what it is, and the address in the page that it leads to.
    n             runs behind it; lost: values that are not finite, in no mean; diverged: runs that are left out.
    """

    style: Style
    kind: str
    x: Values
    y: Values
    low: Values = ()
    high: Values = ()
    z: Values = ()
    names: Sequence[str] = ()
    links: Sequence[str] = ()
    n: int = 1
    lost: int = 0
    diverged: int = 0


@dataclass(frozen=True)
class Panel:
    """One pair of axes. name: stem of its files; title, words: in plain text, words for a screen reader; z: colours of a surface."""

    name: str
    title: str
    words: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    z: Axis | None = None


def panel_csv(panel: Panel) -> str:
    """One row a point: series, kind, n, x, y, and low, high, z and name where a series has them; numbers at full precision."""
    columns = [c for c in ("low", "high", "z", "names") if any(getattr(series, c) for series in panel.series)]
    names = {"names": "name", "z": panel.z.label if panel.z else "z"}
    rows: list[list[Any]] = [["series", "kind", "n", panel.x.label or "x", panel.y.label or "y", *(names.get(c, c) for c in columns)]]
    for series in panel.series:
        values = [getattr(series, c) or [None] * len(series.x) for c in columns]
        rows += [[series.style.label, series.kind, series.n, *point] for point in zip(series.x, series.y, *values, strict=True)]
    text, clean = io.StringIO(), lambda value: inert(printable(value)) if isinstance(value, str) else value
    csv.writer(text, lineterminator="\n").writerows([*map(clean, row)] for row in rows)
    return text.getvalue()


def stem(*words: str) -> str:
    """File stem: "digits demo, label_noise=0.2" -> "digits-demo-label-noise-0.2"; always plain characters, and never empty."""
    plain = (word.lower().replace("ρ", "rho").replace("λ", "lambda").replace("α", "alpha") for word in words)
    return "-".join(filter(None, (re.sub(r"[^a-z0-9.]+", "-", word).strip("-.")[:60] for word in plain))) or "figure"


def wide(values: Iterable[float | None], factor: float) -> bool:
    """True if all values are positive and span more than `factor`, so that a logarithmic axis hides none."""
    kept = list(filter(is_finite, values))
    return bool(kept) and min(kept) > 0 and max(kept) > factor * min(kept)


def spread(values: Iterable[float | None], log: bool, whole_range: bool = False) -> tuple[float | None, float | None, float | None]:
    """(mean, lower, upper edge of the band): mean ± one sample standard deviation; of the logarithms on a logarithmic axis, where the band
    then never falls to zero. whole_range: from the smallest to the largest value. The edges are None for n < 2."""
    kept = [v for v in values if is_finite(v) and (v > 0 or not log)]
    back: Callable[[float], float] = math.exp if log else float
    s = summarize(map(math.log, kept) if log else kept)
    if s.mean is None or s.std is None:
        return kept[0] if kept else None, None, None
    return back(s.mean), *((min(kept), max(kept)) if whole_range else (back(s.mean - s.std), back(s.mean + s.std)))


def averaged(style: Style, curves: Iterable[tuple[Values, Values]], log: bool = False, diverged: int = 0) -> Series:
    """Average (x, y) curves at every x, with a band; values that are not finite are only counted."""
    pairs = [[(x, y) for x, y in zip(xs, ys, strict=True) if is_finite(x)] for xs, ys in curves]
    good = [[(x, y) for x, y in own if is_finite(y)] for own in pairs]
    by_x = sorted(grouped(chain(*good), lambda point: point[0]).items())
    edges = [spread([y for _, y in points], log) for _, points in by_x]
    mean, low, high = zip(*edges, strict=True) if edges else ((), (), ())
    n, lost = sum(map(bool, good)), sum(map(len, pairs)) - sum(map(len, good))
    return Series(style, "line", [x for x, _ in by_x], mean, low, high, n=n, lost=lost, diverged=diverged)


def names_of(condition: Condition, *columns: str) -> list[str]:
    """Names of the series that have these columns, in order of appearance."""
    found = {name: series for run in condition.runs for name, series in run.series.items()}
    return [name for name, series in found.items() if set(columns) <= set(series)]


_AT_RADIUS = re.compile(r"(\w+)\[rho=([^,\]]+),?([^\]]*)\]")
# How sure a measure is, which is no measure of its own; the loss after the ascent, which is sharpness plus L(w); what has its own figures.
_SIDE = re.compile(r"_(stderr|spread|residual|std|draws)$|^ascent_loss$|^direction_")
FIRST = "sharpness[bn=eval,batch=all]"


def families(runs: Iterable[RunRow]) -> dict[str, dict[float, str]]:
    """Measures taken at radii, the primary sharpness first: name without the radius -> radius -> measure."""
    found: dict[str, dict[float, str]] = {FIRST: {}}
    for run in runs:
        for name, value in run.measures.items():
            match = _AT_RADIUS.fullmatch(name)
            if match and is_finite(value) and not _SIDE.search(match[1]):
                found.setdefault(match[1] + (f"[{match[3]}]" if match[3] else ""), {})[float(match[2])] = name
    return {family: dict(sorted(names.items())) for family, names in found.items() if names}


def first_named(runs: Iterable[RunRow], base: str, part: str = "") -> list[str]:
    """The first measure with this name before its brackets, and this part in them; empty if there is none."""
    known = dict.fromkeys(name for run in runs for name, value in run.measures.items() if is_finite(value))
    return [name for name in known if name.partition("[")[0] == base and (not part or part in re.split(r"[\[\],]", name))][:1]


# -------------------------------------------------------------------------------------------------------------------- words

_BASES = {
    "n_step": "{n}-step ascent",
    "n_step_share": "share of the maximum that {n}-step ascent finds",
    "n_step_gain": "share that {n}-step ascent adds to one step's",
    "interior_ray": "share of batches with an interior maximum on the ascent ray",
    "interior_ball": "share of batches with an interior maximum in the ball",
    "direction_share": "share of the best rise along {v}",
    "direction_wins": "share of batches on which g_k rises above g_0",
    "direction_alpha": "α* of single batches",
    "eigenvalue": "λ{k} of the Hessian",
    "train_loss": "training loss L(w)",
    "val_accuracy": "validation accuracy",
    "gap": "generalisation gap",
    "cos_gradient_top": "|cos| of the gradient and the top eigenvector",
    "spectrum_density": "spectral density of the Hessian",
    "line_gradient": "along the gradient",
    "line_n_step": "along the {n}-step perturbation",
    "line_top_eigenvector": "along the top eigenvector of the Hessian",
    "line_random": "along a random direction",
    "plane_random": "plane of two random directions",
    "plane_eigenvectors": "plane of the top two eigenvectors",
    "plane_xsam": "plane of XSAM's search",
}
_PARTS = {  # "": a default that goes without saying
    **{"bn=eval": "", "batch=all": "", "bn": "{}-mode BatchNorm", "batch": "batches of {}", "rho": "ρ {}", "subset": "{} images"},
    "bn=recalibrated": "BatchNorm recalibrated",
    **{"rule": "{} rule", "norm": "{} norm", "logits": "{} logits", "n": "N = {}", "k": "k = {}", "reach": "radius {} ρ"},
}


def in_words(name: str) -> str:
    """Name of a measure or series in words: "n_step[rho=0.05,n=3,subset=1024]" -> "3-step ascent, ρ 0.05, 1,024 images"."""
    base, _, inside = name.removesuffix("]").partition("[")
    parts = dict(part.partition("=")[::2] for part in inside.split(",") if "=" in part)
    words = [_BASES.get(base, base.replace("_", " "))]
    for key, value in parts.items():
        shown = f"{int(value):,}" if key == "subset" and value.isdecimal() else value.replace("_", " ")
        words.append("" if f"{{{key}}}" in words[0] else _PARTS.get(f"{key}={value}", _PARTS.get(key, f"{key} {{}}")).replace("{}", shown))
        words[0] = words[0].replace(f"{{{key}}}", shown)
    return printable(", ".join(filter(None, words)).replace("{n}", "N"))


# Losses, or differences of losses; length, cosine and shares of n_step are none.
_NATS = re.compile(r"sharpness|(first|second)_order|average|maximum|n_step(?!_[lcsg])|adaptive|gap|(train|test|val)_loss")


def label(name: str, unit: str | None = None) -> str:
    """A measure in words with a capital letter and its unit, if that is known; else nothing is claimed."""
    words = in_words(name)
    own = " (nats)" if _NATS.match(name) else " (%)" if name.partition("[")[0].endswith("accuracy") else ""
    return (words[:1].upper() if words[:1].isascii() else words[:1]) + words[1:] + (own if unit is None else unit)


def panel(condition: str, title: str, x: Axis, y: Axis, series: Sequence[Series], z: Axis | None = None) -> list[Panel]:
    """The panel without what has no values; [] if nothing has. Its title is its file's name and what a screen reader says."""
    drawn = [one for one in series if one.kind == "mark" or any(map(is_finite, one.y))]
    words = f"{title}, {condition}: {y.label or 'methods'} over {x.label}"
    return [Panel(stem(condition, title), title, words, x, y, drawn, z)] if any(one.kind != "mark" for one in drawn) else []


def counts(panels: Iterable[Panel]) -> dict[Style, str]:
    """For a legend: each method shown in these panels, with the number of its runs in a panel."""
    found: dict[Style, list[int]] = {}
    lost: dict[Style, int] = {}
    for panel in panels:
        styles = dict.fromkeys(one.style for one in panel.series if one.style.label and not panel.y.names)
        for style in styles:
            own = [one for one in panel.series if one.style == style]
            found.setdefault(style, []).append(sum(one.n for one in own))
            lost[style] = max([lost.get(style, 0), *(one.diverged for one in own)])
    words = {style: " to ".join(map(str, dict.fromkeys((min(n), max(n))))) for style, n in found.items()}
    return {style: f"(n = {n}{f', {lost[style]} diverged and left out' if lost[style] else ''})" for style, n in words.items()}
