"""Pictures of panels, all by matplotlib: SVG for the page, PDF and PNG for a paper's column.

The page admits no style from outside its own sheet and has two themes, so its SVG's colours become the page's variables.
"""

import functools
import hashlib
import io
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from fontTools import subset
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import PathPatch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Affine2D, IdentityTransform

from sam.report.html import Html, el, join
from sam.report.looks import COLOURS, LINES, MARKERS, Style
from sam.report.panels import Axis, Panel, Series, counts, panel_csv
from sam.tables.statistics import is_finite
from sam.text import printable

VERSION = 2  # raise it where a picture of the same panel changes: those that lie in a folder are then drawn again
INK, SOFT, GRID, PAGE = "#1c1e21", "#5a6068", "#e7eaee", "#fffffe"  # as in page.css
BLACK, WHITE = "#000001", "#ffffff"  # on a surface, in both themes
THEME = {INK: "text", SOFT: "soft", GRID: "grid", PAGE: "page"} | {colour.lower(): f"c{i}" for i, colour in enumerate(COLOURS)}
Look = dict[str, Any]  # colour and dash, as matplotlib wants them
INCH, WIDTH, HEIGHT = 72, 3.25, 2.2  # points; a paper's column, and the height without a legend or a list of names
LEVELS, CONTOURS = 24, 8
BESIDE = {"w": (-9, -11), "ascent point": (-14, -12), "α*": (5, 5)}  # where a named point's name stands, in points from it

STYLE: Any = {
    **{"font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7},
    **{"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "panel", "legend.frameon": False, "text.parse_math": False},
    **{"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": SOFT, "axes.linewidth": 0.6, "axes.facecolor": "none"},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.6},
    **{f"{axis}tick.{key}": value for axis in "xy" for key, value in (("color", SOFT), ("major.size", 0), ("major.pad", 3))},
    **{"axes.spines.top": False, "axes.spines.right": False},
}


# Left out of a font that is cut to a PDF's size: ligatures and kerning, for which a PDF has no use, and whose parsing takes longest.
subset.Options._drop_tables_default += ["GDEF", "GPOS", "GSUB", "kern"]


@matplotlib.rc_context(STYLE)
def draw(panel: Panel, form: str) -> bytes:
    """The panel as "svg" (a page has its legend beside it), "pdf" or "png"; the same panel gives the same bytes. The y axis' label stands
    above the plot, where it takes no width."""
    said = {} if form == "svg" else counts([panel])
    legend = {style: f"{style.label} {note}" if "diverged" in note else style.label for style, note in said.items()}
    names = [textwrap.fill(printable(name), 26) for name in panel.y.names]
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    widest = max((len(printable(text)) for text in legend.values()), default=0) + 7
    columns = max(1, int(55 / widest))
    rows = -(-len(legend) // columns)
    left, top, under = max(0.42, 0.06 + longest * 0.062), 0.22 if panel.y.label else 0.08, 0.36
    lines = len(names) * max([1.5, *(name.count("\n") + 1.4 for name in names)])  # each has as much room
    height = max(HEIGHT if not names else 0, top + under + 0.11 * lines) + 0.14 * rows
    right = 0.45 if panel.z else 0.14
    low = (under + 0.14 * rows) / height
    tall = 1 - low - top / height
    figure = Figure((WIDTH, height), dpi=INCH, facecolor=WHITE, frameon=form == "png")
    axes = figure.add_axes((left / WIDTH, low, 1 - (left + right) / WIDTH, tall))
    plot(axes, panel)
    axes.set_xlabel(printable(panel.x.label), ha="right" if names else "center")  # beside names the plot is narrower than its label
    axes.xaxis.set_label_coords(1 if names else 0.5, -0.2 / height / tall)
    axes.set_ylabel(printable(panel.y.label), rotation=0, ha="left", va="top")
    axes.yaxis.set_label_coords(0.04 / WIDTH, 1 - 0.03 / height, transform=figure.transFigure)
    for axis, text in ((axes.xaxis, panel.x.label), (axes.yaxis, panel.y.label)):  # a long one is written smaller, not cut
        axis.label.set_fontsize(min(8, 384 / max(48, len(text))))
    if names:
        axes.set_yticks(range(len(names)), names)
    if panel.z:
        add_bar(figure, panel.z, (1 - 0.4 / WIDTH, low, 0.07 / WIDTH, tall))
    if legend:
        handles = [Line2D([], [], label=printable(text), **_look(s), marker=MARKERS[s.marker], lw=1.1, ms=4) for s, text in legend.items()]
        figure.legend(handles=handles, loc="lower center", ncols=columns, borderaxespad=0.1, fontsize=min(7, 385 / widest))
    return saved(figure, form, MADE.decode() + stamp(panel))


def saved(figure: Figure, form: str, comment: str | None = None) -> bytes:
    """The figure as a file: without dates, a PNG with the comment."""
    picture = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Comment": comment}}[form]
    figure.savefig(picture, format=form, dpi=200 if form == "png" else INCH, metadata=metadata)
    return picture.getvalue()


def plot(axes: Any, panel: Panel) -> None:
    axes.set(xscale="log" if panel.x.log else "linear", yscale="log" if panel.y.log else "linear")
    for series in panel.series:
        DRAWN[series.kind](axes, series, panel, _look(series.style))
    scale(axes, "x", panel.x)
    scale(axes, "y", panel.y)


def _look(style: Style) -> Look:
    return {"color": COLOURS[style.colour], "linestyle": LINES[style.dash]}


def _numbers(*values: Sequence[float | None]) -> list[Any]:
    return [np.array(v, float) for v in values]  # None: NaN


def _draw_line(axes: Any, series: Series, panel: Panel, look: Look) -> None:
    """Line, broken at missing values, with few markers and its band."""
    x, y = _numbers(series.x, series.y)
    low, high = _numbers(series.low or [None] * len(x), series.high or [None] * len(x))
    for part in np.ma.clump_unmasked(np.ma.masked_invalid(low + high)):
        edge = [*low[part], *high[part][::-1]]
        alone = part.stop - part.start == 1  # a band without width is a line
        axes.fill([*x[part], *x[part][::-1]], edge, color=look["color"], alpha=0.5 if alone else 0.13, linewidth=1.2 * alone)
    step = max(1, -(-len(x) // 7))
    marks = {"markevery": (series.style.marker * step // 8 % step, step), "marker": MARKERS[series.style.marker], "markersize": 4.2}
    axes.plot(x, y, **look, **marks, linewidth=1.1, markeredgecolor=PAGE, markeredgewidth=0.5)


def _draw_thin(axes: Any, series: Series, panel: Panel, look: Look) -> None:
    on_surface = {"color": WHITE, "linestyle": (0, (3, 2)), "linewidth": 1.0}
    axes.plot(*_numbers(series.x, series.y), **(on_surface if panel.z else look | {"linewidth": 0.7}))


def _draw_points(axes: Any, series: Series, panel: Panel, look: Look) -> None:
    """Points that link to their runs, with whiskers along x."""
    x, y = _numbers(series.x, series.y)
    if series.kind == "whiskers":
        axes.hlines(y, *_numbers(series.low, series.high), color=look["color"], linewidth=1.2)
    urls = [f"{link} {printable(name)}" for link, name in zip(series.links, series.names, strict=True)] or None
    marks = {"marker": MARKERS[series.style.marker], "edgecolors": PAGE, "linewidths": 0.5, "zorder": 3}
    axes.scatter(x, y, s=20, color=look["color"], **marks, urls=urls)


def _draw_level(axes: Any, series: Series, panel: Panel, look: Look) -> None:
    """A horizontal line with its band, or a named vertical mark."""
    if series.kind == "mark":
        axes.axvline(series.x[0], color=SOFT, linewidth=0.8, linestyle=":")
        at = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 6.5}
        axes.annotate(printable("".join(series.names)), (series.x[0], 0), (2, 2), **at)
        return
    if is_finite(low := series.low[0]) and is_finite(high := series.high[0]):
        axes.axhspan(low, high, color=look["color"], alpha=0.1, linewidth=0)
    axes.axhline(series.y[0], **look, linewidth=1.1)


def _draw_surface(axes: Any, series: Series, panel: Panel, look: Look) -> None:
    """Filled contours on the panel's common colours, and contour lines at even steps within the surface's own range."""
    colours: Any = panel.z
    xs, ys = sorted(set(series.x)), sorted(set(series.y))  # type: ignore[type-var]
    order = np.lexsort(_numbers(series.x, series.y))
    z = np.ma.masked_invalid(_numbers(series.z)[0][order].reshape(len(ys), len(xs)))
    _fill(axes, colours, xs, ys, z)
    if z.count() and z.min() < z.max():
        own = _steps(colours, z.min(), z.max(), CONTOURS + 2)[1:-1]
        axes.contour(xs, ys, z, own, colors=WHITE, linewidths=0.5, alpha=0.6)


def _steps(z: Axis, low: Any, high: Any, number: int) -> Any:
    return (np.geomspace if z.log else np.linspace)(low, high, number)


def _fill(axes: Any, z: Axis, xs: Any, ys: Any, values: Any) -> None:
    filled = axes.contourf(xs, ys, values, _steps(z, z.low, z.high, LEVELS), norm=LogNorm() if z.log else None, cmap="viridis")
    filled.set(edgecolor="face", linewidth=0.4)  # closes the seams between neighbours


def add_bar(figure: Figure, z: Axis, place: tuple[float, float, float, float]) -> None:
    """A bar with the colours of the surfaces and what they mean, at a place in the figure."""
    bar: Any = figure.add_axes(place)
    bar.set(xticks=[], yscale="log" if z.log else "linear")
    bar.yaxis.tick_right()
    bar.spines[:].set_visible(False)
    levels = _steps(z, z.low, z.high, LEVELS)
    _fill(bar, z, [0, 1], levels, np.stack([levels, levels], 1))
    scale(bar, "y", z)


def _draw_named(axes: Any, series: Series, panel: Panel, look: Look) -> None:
    for x, y, name, shape in zip(series.x, series.y, series.names, MARKERS, strict=False):
        if is_finite(x) and is_finite(y):
            axes.plot(x, y, shape, color=WHITE, markeredgecolor=BLACK, markersize=4.5, markeredgewidth=0.6)
            box = {"boxstyle": "round,pad=0.1", "facecolor": WHITE, "edgecolor": "none", "alpha": 0.75}
            axes.annotate(printable(name), (x, y), BESIDE.get(name, (5, 5)), textcoords="offset points", color=BLACK, fontsize=7, bbox=box)


DRAWN: dict[str, Callable[[Any, Series, Panel, Look], None]] = {
    **{"line": _draw_line, "thin": _draw_thin, "points": _draw_points, "whiskers": _draw_points, "level": _draw_level, "mark": _draw_level},
    **{"surface": _draw_surface, "named": _draw_named},
}


def scale(axes: Any, which: str, axis: Axis) -> None:
    """Set limits and about five ticks with plain numbers (matplotlib's own overlap within a decade)."""
    line, limit = getattr(axes, f"{which}axis"), getattr(axes, f"set_{which}lim")
    line.set_minor_locator(NullLocator())
    if axis.names:
        limit(len(axis.names) - 0.5, -0.5)
        return
    low, high = limit(axis.low, axis.high)
    reach = high / low if axis.log else 1
    subs = (1, 2, 5) if reach < 40 else (1, 3) if reach < 300 else (1,)
    line.set_major_locator(LogLocator(subs=subs, numticks=7) if reach > 5 else MaxNLocator(5, integer=axis.whole, steps=[1, 2, 2.5, 5, 10]))
    line.set_major_formatter("{x:g}")


# ------------------------------------------------------------------------------------------------------------- SVG in the page

_TAG = re.compile(r"<[^!?][^>]*>")
_LINK = re.compile(r'<a xlink:href="(#[^" ]*) ([^"]*)"[^>]*>')
_DROPPED = re.compile(r"<\?xml.*?<svg[^>]*>|<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>|</svg>|\n\s*", re.DOTALL)


def svg(panel: Panel, prefix: str) -> Html:
    """Inline <svg> without style attributes or blocks; its ids begin with `prefix`, its colours are the page's variables, and what links to
    a run has a title."""
    words = join(el("title", printable(panel.title)), el("desc", printable(panel.words)))
    return _inline(draw(panel, "svg").decode(), prefix, "chart", words)


def _inline(source: str, prefix: str, class_: str, words: str = "") -> Html:
    box = re.search(r'viewBox="[^"]*"', source)
    used = set(re.findall(r"#(\w+)(?=[\")])", source))
    drawn = _TAG.sub(lambda tag: _tag(tag[0], used, prefix), _DROPPED.sub("", source))
    drawn = _LINK.sub(r'<a href="\1"><title>\2</title>', drawn)
    role = 'aria-hidden="true"' if not words else 'role="group"' if "<a " in drawn else 'role="img"'  # an image, unless it has links
    return Html(f'<svg {box[0] if box else ""} class="{class_}" {role} stroke-linejoin="round">{words}{drawn}</svg>')


def _tag(tag: str, used: set[str], prefix: str) -> str:
    """One tag of matplotlib's SVG in the page's terms."""
    tag = re.sub(r' style="([^"]*)"', lambda style: _attributes(style[1]), tag)
    tag = re.sub(r' id="([^"]*)"', lambda name: f' id="{prefix}-{name[1]}"' if name[1] in used else "", tag)
    tag = re.sub(r'(?:xlink:)?href="#(\w+)"', rf'href="#{prefix}-\1"', tag) if tag.startswith("<use") else tag
    tag = re.sub(r"url\(#(\w+)\)", rf"url(#{prefix}-\1)", tag)
    return re.sub(r"(\.\d\d)\d+", r"\1", tag) if tag.startswith(("<path", "<use", "<text", "<rect")) else tag


@functools.lru_cache(4096)
def _attributes(style: str) -> str:
    """ "fill: #1c1e21; font: 8px sans-serif" -> ' fill="var(--text)" font-size="8px"'."""
    found = dict(part.strip().split(": ", 1) for part in style.split(";") if ": " in part)
    if "font" in found:
        found["font-size"] = found.pop("font").split(" ")[0]
    return "".join(f' {key}="{f"var(--{THEME[value]})" if value in THEME else value}"' for key, value in found.items())


@functools.cache
def _swatch(style: Style) -> Html:
    """Line and marker of a legend's entry; without ids, as it is used again and again."""
    figure, marker = Figure((30 / INCH, 14 / INCH), dpi=INCH, frameon=False), MarkerStyle(MARKERS[style.marker])
    figure.add_artist(Line2D([0, 1], [0.5, 0.5], **_look(style), linewidth=1.8))
    shape = marker.get_path().transformed(Affine2D(marker.get_transform().get_matrix()).scale(7).translate(15, 7))
    figure.add_artist(PathPatch(shape, facecolor=COLOURS[style.colour], edgecolor=PAGE, linewidth=0.3, transform=IdentityTransform()))
    return _inline(saved(figure, "svg").decode(), "", "swatch")


def legend(panels: Sequence[Panel]) -> Html:
    """Line, marker, name and number of runs of each method in these panels, as a list."""
    return el("ul", *(el("li", _swatch(style), f"{style.label} {note}") for style, note in counts(panels).items()), class_="legend")


# --------------------------------------------------------------------------------------------------------- files of a folder


def stamp(panel: Panel) -> str:
    """What the picture shows, as a hash: the CSV and how it is drawn."""
    shown = panel_csv(panel), panel.x, panel.y, panel.z, [(series.style, series.diverged) for series in panel.series]
    return hashlib.sha256(repr((VERSION, shown)).encode("utf-8", "replace")).hexdigest()[:32]


ENDINGS, MADE = (".csv", ".pdf", ".png"), b"sharpness figure "  # the PNG is written last: with its stamp, all three are there


def files(panels: Iterable[Panel], folder: Path) -> Iterator[tuple[str, bytes | None]]:
    """Name and content of NAME.csv, NAME.pdf and NAME.png of each panel that is not in the folder already; None: remove this file."""
    names = set[str]()
    for panel in panels:  # a number where the name is another one's, once cleaned
        name = next(name for k in itertools.count(1) if (name := panel.name if k == 1 else f"{panel.name}-{k}") not in names)
        names.add(name)
        there = folder / f"{name}.png"
        if not (there.is_file() and stamp(panel).encode() in there.read_bytes() and all(there.with_suffix(s).is_file() for s in ENDINGS)):
            yield from ((f"{name}{end}", draw(panel, end[1:]) if end != ".csv" else panel_csv(panel).encode()) for end in ENDINGS)
    for old in sorted(folder.glob("*.png")):
        if old.stem not in names and MADE in old.read_bytes():
            yield from ((old.with_suffix(end).name, None) for end in ENDINGS)
