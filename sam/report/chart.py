"""Charts as inline SVG: axes, curves with bands, and points that link to their runs. Colours are classes, set by the page's theme."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from sam.report.html import Html, el, join, text
from sam.report.looks import Style
from sam.tables.statistics import is_finite


@dataclass(frozen=True)
class Axis:
    """An axis. log: logarithmic, without values <= 0; whole: ticks at whole numbers only; low, high: limits, None: from the values."""

    label: str
    log: bool = False
    whole: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Scale:
    """Map from values to pixels: `low` is drawn at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        position = math.log10(value) if self.log else value
        return self.start + (position - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """About five ticks: (value, text)."""
        decades = math.log10(self.high / self.low) if self.log else 0.0
        if self.log and decades >= 0.7:
            return _log_ticks(self.low, self.high, decades)
        return _linear_ticks(self.low, self.high, self.whole)


def scale(values: Iterable[float], axis: Axis, start: float, end: float) -> Scale:
    """Scale that holds all finite values, with a margin of 5% on sides without a fixed limit."""
    kept = [v for v in values if math.isfinite(v) and (v > 0 or not axis.log)]
    low, high = min(kept, default=1.0 if axis.log else 0.0), max(kept, default=10.0 if axis.log else 1.0)
    if axis.log:
        grow = max((high / low) ** 0.05, 1.02)
        low, high = low / grow, high * grow
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
        low, high = low - margin, high + margin
    low, high = low if axis.low is None else axis.low, high if axis.high is None else axis.high
    return Scale(low, high if high > low else low + 1, start, end, axis.log, axis.whole)


def _linear_ticks(low: float, high: float, whole: bool) -> list[tuple[float, str]]:
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    step = max(1.0, round(step)) if whole else step
    values = [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return list(zip(values, plain_numbers(values, step), strict=True))


def _log_ticks(low: float, high: float, decades: float) -> list[tuple[float, str]]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if decades < 1.6 else (1, 3) if decades < 2.5 else (1,)  # further apart than their texts are wide
    every = math.ceil(decades / 6) if decades >= 2.5 else 1
    values = [m * 10.0**p for p in powers for m in steps if p % every == 0]
    return [(v, f"{v:g}") for v in values if low <= v <= high]


def plain_numbers(values: list[float], step: float) -> list[str]:
    """Numbers with as many decimals as the step needs, or in scientific notation if tiny or huge."""
    largest = max((abs(v) for v in values), default=0.0)
    if largest and (largest >= 1e6 or step < 1e-4):
        return [f"{v + 0.0:.4g}" if abs(v) > step / 10 else "0" for v in values]
    digits = next((d for d in range(6) if math.isclose(step, round(step, d), rel_tol=1e-6)), 6)
    return [f"{v if abs(v) > step / 10 else 0.0:.{digits}f}" for v in values]


WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 26, 44  # the y axis' label stands above the plot
DASHES = (None, "7 4", "2 3", "8 3 2 3")
# Outlines around (0, 0), about 4 pixels in radius.
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.5 -3.5h7v7h-7z",
    "M0 -4.6L4.4 3.4H-4.4z",
    "M0 -5L4.4 0L0 5L-4.4 0z",
    "M0 4.6L4.4 -3.4H-4.4z",
    "M-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M0 -5L1.4 -1.6L5 -1.5L2.2 0.8L3.1 4.4L0 2.4L-3.1 4.4L-2.2 0.8L-5 -1.5L-1.4 -1.6z",
    "M-4.5 -4.5L0 -1.6L4.5 -4.5L1.6 0L4.5 4.5L0 1.6L-4.5 4.5L-1.6 0z",
    "M-3.4 -4.4L4.6 0L-3.4 4.4z",
    "M3.4 -4.4L-4.6 0L3.4 4.4z",
    "M0 -4.6L4.4 -1.4L2.7 3.7H-2.7L-4.4 -1.4z",
    "M-1.4 -5h2.8v10h-2.8z",
)


@dataclass(frozen=True)
class Curve:
    """A line with a band of ± `spread`; y is None where there is no finite value.

    n     number of runs averaged; lost: number of their values that are not finite.
    thin  one of several runs that are drawn separately.
    """

    style: Style
    x: Sequence[float]
    y: Sequence[float | None]
    spread: Sequence[float | None] = ()
    n: int = 1
    lost: int = 0
    thin: bool = False


@dataclass(frozen=True)
class Dot:
    """A point with a tooltip (`title`, also for screen readers) and a link (`href`)."""

    style: Style
    x: float
    y: float
    title: str
    href: str


def shown(value: float | None, log: bool) -> TypeGuard[float]:
    """True if the axis can show the value."""
    return is_finite(value) and (value > 0 or not log)


def chart(name: str, x: Axis, y: Axis, curves: Sequence[Curve] = (), dots: Sequence[Dot] = ()) -> Html:
    """Draw an <svg>; `name` is for screen readers. Values that an axis cannot show are left out."""
    good = [d for d in dots if shown(d.x, x.log) and shown(d.y, y.log)]
    xs = [d.x for d in good] + [v for c in curves for v in c.x]
    ys = [d.y for d in good] + [v for c in curves for v in _reach(c, y.log)]
    across, down = scale(xs, x, LEFT, WIDTH - RIGHT), scale(ys, y, HEIGHT - BOTTOM, TOP)
    drawn = [part for c in curves for part in _draw_curve(c, across, down)]
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    # A nested <svg> clips what leaves the plot, where an axis is cut.
    inner = el("svg", *drawn, x=LEFT, y=TOP, width=width, height=height, viewBox=f"{LEFT} {TOP} {width} {height}")
    points = [el("a", el("title", d.title), marker(d.style, across(d.x), down(d.y)), href=d.href) for d in good]
    role = "group" if dots else "img"  # an image to a screen reader, unless there is something in it to reach
    attributes = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "class_": "chart", "role": role, "aria_label": name}
    return el("svg", frame(x, y, across, down), inner, *points, **attributes)


def frame(x: Axis, y: Axis, across: Scale, down: Scale) -> Html:
    """Grid, ticks and labels."""
    bottom, top, left, right = down.start, down.end, across.start, across.end
    parts = []
    for value, words in across.ticks:
        at = _px(across(value))
        parts.append(el("line", x1=at, x2=at, y1=_px(top), y2=_px(bottom), class_="grid"))
        parts.append(el("text", words, x=at, y=_px(bottom + 16), text_anchor="middle"))
    for value, words in down.ticks:
        at = _px(down(value))
        parts.append(el("line", x1=_px(left), x2=_px(right), y1=at, y2=at, class_="grid"))
        parts.append(el("text", words, x=_px(left - 6), y=_px(down(value) + 4), text_anchor="end"))
    parts.append(el("path", d=f"M{_px(left)} {_px(top)}V{_px(bottom)}H{_px(right)}", class_="axis"))
    parts.append(el("text", x.label, x=_px((left + right) / 2), y=_px(bottom + 36), text_anchor="middle", class_="label"))
    parts.append(el("text", y.label, x=2, y=14, class_="label"))
    return el("g", *parts, aria_hidden="true")


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _points(curve: Curve) -> Iterable[tuple[float, float | None, float]]:
    """Iterate (x, y, spread), with spread 0 if there is none."""
    spreads = curve.spread or [None] * len(curve.y)
    return ((x, y, spread or 0.0) for x, y, spread in zip(curve.x, curve.y, spreads, strict=True))


def _reach(curve: Curve, log: bool) -> Iterable[float]:
    """Values that the y axis must hold: line and band."""
    reached = [v for _, y, spread in _points(curve) if shown(y, log) for v in (y, y - spread, y + spread)]
    return (v for v in reached if shown(v, log))


def _draw_curve(curve: Curve, across: Scale, down: Scale) -> list[Html]:
    """Draw band, line (broken at missing values) and a few markers."""
    colour, dash = f"c{curve.style.colour}", DASHES[curve.style.dash]
    pieces: list[list[tuple[float, float, float]]] = [[]]
    for x, y, spread in _points(curve):
        if shown(y, down.log) and shown(x, across.log):
            pieces[-1].append((x, y, spread))
        else:
            pieces.append([])
    pieces = [piece for piece in pieces if piece]
    parts = []
    for piece in pieces:
        if any(spread for *_, spread in piece):
            # On a logarithmic axis the lower edge may be <= 0: it then ends at the axis.
            floor = down.low if down.log else -math.inf
            edge = [(x, max(y - s, floor)) for x, y, s in piece] + [(x, y + s) for x, y, s in reversed(piece)]
            parts.append(el("path", d=_path(edge, across, down) + "z", class_=f"band {colour}"))
    for piece in pieces:
        d = _path([(x, y) for x, y, _ in piece], across, down)
        parts.append(el("path", d=d, class_=f"line {colour}", stroke_width="1" if curve.thin else "1.8", stroke_dasharray=dash))
    drawn = [point for piece in pieces for point in piece]
    step = max(1, math.ceil(len(drawn) / 7))
    first = curve.style.marker * step // 8 % step  # apart from method to method
    return parts + [marker(curve.style, across(x), down(y), 0.8) for x, y, _ in ([] if curve.thin else drawn[first::step])]


def _path(points: Sequence[tuple[float, float]], across: Scale, down: Scale) -> str:
    return "M" + "L".join(f"{_px(across(x))} {_px(down(y))}" for x, y in points)


def marker(style: Style, x: float, y: float, size: float = 1.0) -> Html:
    """Draw the style's marker at a pixel."""
    transform = f"translate({_px(x)} {_px(y)})" + (f" scale({size:g})" if size != 1 else "")
    return el("path", d=MARKERS[style.marker], transform=transform, class_=f"dot c{style.colour}")


def legend(styles: Iterable[Style], notes: dict[str, str] | None = None) -> Html:
    """Line, marker and name of each method; `notes`: text to append, by label."""
    items = []
    for style in dict.fromkeys(styles):
        line = el("path", d="M0 7H30", class_=f"line c{style.colour}", stroke_width="2", stroke_dasharray=DASHES[style.dash])
        swatch = el("svg", line, marker(style, 15, 7), viewBox="0 0 30 14", width=30, height=14, aria_hidden="true")
        items.append(el("li", swatch, join(" ", text(style.label), (notes or {}).get(style.label))))
    return el("ul", *items, class_="legend")
