"""Maps of the loss over planes through the weights, with contour lines and marks.

A plane is a series whose columns are x, y, loss on a full grid; other (x, y) points are drawn on the plane whose name they share after
the first underscore (marks_xsam[rho=0.05] on plane_xsam[rho=0.05]).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sam.report.chart import HEIGHT, LEFT, MARKERS, RIGHT, TOP, WIDTH, Axis, Scale, frame, shown
from sam.report.figures import Columns, names, panel, wide
from sam.report.html import Html, el, join
from sam.report.looks import looks
from sam.tables.conditions import Condition
from sam.tables.statistics import is_finite

Points = dict[tuple[float, float], float | None]

PLANE = 300  # pixels
MARK_NAMES = ("w", "ascent point", "α*")
LEVELS = 8  # contour lines


@dataclass(frozen=True)
class Plane:
    """A loss surface: ascending xs and ys of the grid, loss[(x, y)], and points to draw on it, by name; None: undefined."""

    xs: list[float]
    ys: list[float]
    loss: Points
    overlays: dict[str, list[tuple[float, float] | None]]


def plane_of(series: Mapping[str, Columns], name: str) -> Plane | None:
    """The plane of this name in a run's series, with points to draw on it; None if it is no full grid."""
    columns = series.get(name, {})
    if not {"x", "y", "loss"} <= set(columns):
        return None
    loss = {(x, y): v for x, y, v in zip(columns["x"], columns["y"], columns["loss"], strict=True) if x is not None and y is not None}
    xs, ys = sorted({x for x, _ in loss}), sorted({y for _, y in loss})
    if len(xs) < 2 or len(ys) < 2 or len(loss) != len(xs) * len(ys):
        return None
    overlays: dict[str, list[tuple[float, float] | None]] = {}
    for other, points in series.items():
        if other != name and other.partition("_")[2] == name.partition("_")[2] and {"x", "y"} <= set(points):
            pairs = zip(points["x"], points["y"], strict=True)
            overlays[other] = [(x, y) if x is not None and y is not None else None for x, y in pairs]
    return Plane(xs, ys, loss, overlays)


def landscapes(condition: Condition) -> Html:
    """One panel per plane and method, of the lowest seed that has it."""
    return join(*(_landscape(condition, name) for name in names(condition, "x", "y", "loss")))


def _landscape(condition: Condition, name: str) -> Html | None:
    found = []
    for look in looks(condition):
        planes = [(seed, plane) for seed, run in look.row.finished.items() if (plane := plane_of(run.series, name)) is not None]
        if planes:
            found.append((look, *planes[0], len(planes)))
    values = [v for _, _, plane, _ in found for v in plane.loss.values() if is_finite(v)]
    if not values:
        return None
    colours = Scale(min(values), max(max(values), min(values) + 1e-12), 0.0, 1.0, log=wide(values, 5))
    drawn = [(look.style.label, seed, _draw_plane(f"{name}, {look.style.label}", plane, colours)) for look, seed, plane, _ in found]
    charts = [panel(f"{label}, seed {seed}", chart) for label, seed, chart in drawn]
    more = sum(count - 1 for *_, count in found)
    marks = "; ".join(f"{shape} {mark}" for shape, mark in zip(("●", "■", "▲"), MARK_NAMES, strict=True))
    words = (
        f"{name}: training loss (nats{', colours logarithmic' if colours.log else ''}) over a plane through the trained weights, with"
        f" {LEVELS} contour lines; one colour scale for all panels."
        + (f" Marks: {marks}." if any(p.overlays for _, _, p, _ in found) else "")
        + (f" {more} further seeds are in the runs' sharpness.json." if more else "")
    )
    return el("figure", el("div", *charts, class_="charts planes"), _colour_bar(colours), el("figcaption", words))


def shade(part: float) -> str:
    """Colour at `part` (0 to 1) of viridis, which rises evenly in lightness and stays legible to colour-blind readers and in grey."""
    import matplotlib
    from matplotlib.colors import to_hex

    return to_hex(matplotlib.colormaps["viridis"](part))


def _edges(places: Sequence[float]) -> list[float]:
    """Borders of the cells around these places."""
    between = [(a + b) / 2 for a, b in itertools.pairwise(places)]
    return [2 * places[0] - between[0], *between, 2 * places[-1] - between[-1]]


def _draw_plane(name: str, plane: Plane, colours: Scale) -> Html:
    ex, ey = _edges(plane.xs), _edges(plane.ys)
    width, height = LEFT + PLANE + RIGHT, PLANE + TOP + HEIGHT - 256
    across, down = Scale(ex[0], ex[-1], LEFT, LEFT + PLANE), Scale(ey[0], ey[-1], TOP + PLANE, TOP)
    cells = []
    for i, x in enumerate(plane.xs):
        for j, y in enumerate(plane.ys):
            value = plane.loss[x, y]
            fill = shade(colours(value)) if shown(value, colours.log) else "none"
            left, top = across(ex[i]), down(ey[j + 1])
            size = {"width": f"{across(ex[i + 1]) - left + 0.3:.1f}", "height": f"{down(ey[j]) - top + 0.3:.1f}"}
            cells.append(el("rect", x=f"{left:.1f}", y=f"{top:.1f}", fill=fill, **size))
    marks = [part for points in plane.overlays.values() for part in _draw_overlay(points, across, down)]
    axes = frame(Axis("x"), Axis("y"), across, down)
    contours = el("path", d=_contours(plane, colours, across, down), class_="contour")
    finite = [v for v in plane.loss.values() if is_finite(v)]
    words = f"{name}: loss from {min(finite, default=math.nan):.4g} to {max(finite, default=math.nan):.4g} nats"
    return el("svg", axes, *cells, contours, *marks, viewBox=f"0 0 {width} {height}", class_="chart", role="img", aria_label=words)


def _contours(plane: Plane, colours: Scale, across: Scale, down: Scale) -> str:
    """Path of contour lines at even steps of the colour scale, within this plane's range."""
    import contourpy  # comes with matplotlib
    import numpy as np

    rows = [[plane.loss[x, y] for x in plane.xs] for y in plane.ys]
    z = np.array([[colours(v) if shown(v, colours.log) else math.nan for v in row] for row in rows])
    generator: Any = contourpy.contour_generator(plane.xs, plane.ys, np.ma.masked_invalid(z))
    levels: Any = np.linspace(float(np.nanmin(z)), float(np.nanmax(z)), LEVELS + 2)[1:-1] if np.isfinite(z).any() else []
    lines = (line for level in levels for line in generator.lines(float(level)))
    return "".join("M" + "L".join(f"{across(float(x)):.1f} {down(float(y)):.1f}" for x, y in line) for line in lines)


def _draw_overlay(points: Sequence[tuple[float, float] | None], across: Scale, down: Scale) -> list[Html]:
    """Draw few points as named marks, more as a path."""
    inside = [None if point is None else f"{across(point[0]):.1f} {down(point[1]):.1f}" for point in points]
    if len(points) > len(MARK_NAMES):
        return [el("path", d="M" + "L".join(place for place in inside if place), class_="arc")] if any(inside) else []
    return [
        el("path", el("title", mark), d=shape, transform=f"translate({place}) scale(1.4)", class_="mark")
        for place, shape, mark in zip(inside, MARKERS, MARK_NAMES, strict=False)
        if place
    ]


def _colour_bar(colours: Scale) -> Html:
    steps, size = 40, (WIDTH - 2 * LEFT) / 40
    places = [{"x": f"{LEFT + i * size:.1f}", "width": f"{size + 0.5:.1f}", "fill": shade((i + 0.5) / steps)} for i in range(steps)]
    cells = [el("rect", y=2, height=12, **place) for place in places]
    bar = Scale(colours.low, colours.high, LEFT, WIDTH - LEFT, colours.log)
    ticks = [el("text", words, x=f"{bar(v):.1f}", y=30, text_anchor="middle") for v, words in bar.ticks]
    unit = el("text", "nats", x=WIDTH - LEFT + 8, y=13)
    words = f"Colours from {colours.low:.4g} (dark) to {colours.high:.4g} nats (bright)"
    return el("svg", *cells, *ticks, unit, viewBox=f"0 0 {WIDTH} 36", class_="chart bar", role="img", aria_label=words)
