"""One picture of a set of runs: curves, final accuracy, sharpness, and sharpness against the generalisation gap.

Matplotlib is imported when a figure is drawn, with the Agg backend: no display is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sam.config import METHODS, OptimizerConfig, RowConfig
from sam.tables.conditions import Condition, RunRow, TableRow, conditions, table_rows
from sam.tables.statistics import summarize

# Okabe & Ito's colours, which stay apart for colour-blind readers; the yellow is left out, as too pale on white.
# One for each name in ORDER, grey for the other settings of those methods, and the rest for methods that are not known here.
COLOURS = (
    *("#000000", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#7F7F7F"),
    *("#7B3FA0", "#8B5A2B", "#6B7A00", "#A3123A", "#008C95"),
)
ORDER = ("SGD", "Rand-SAM", "SAM N=1", "SAM N=2", "SAM N=3", "SAM N=5", "XSAM")
KNOWN = ("sgd", "rand_sam", "sam", "xsam")
RHO_MARKERS = ("o", "s", "^", "D", "v", "P")
DPI = 150


def method_name(optimizer: OptimizerConfig) -> str:
    """ "SGD", "SAM N=2", "XSAM", "XSAM k=2"."""
    method = METHODS[optimizer.method]
    steps = optimizer.ascent_steps if "ascent_steps" in method.keys else 1
    name = f"{method.label} {'k' if optimizer.method == 'xsam' else 'N'}={steps}"  # XSAM's paper calls it k
    return name if steps > 1 or name in ORDER else method.label


def _slot(optimizer: OptimizerConfig) -> int:
    """The place among the colours; it does not depend on which other methods are shown."""
    name, others = method_name(optimizer), [method for method in METHODS if method not in KNOWN]
    if name in ORDER:
        return ORDER.index(name)
    return len(ORDER) if optimizer.method in KNOWN else len(ORDER) + 1 + others.index(optimizer.method)


@dataclass(frozen=True)
class MethodSeries:
    """A method (one setting) with the look that it has in every panel and chart.

    slot     its place among the colours: 0 to 6 as in ORDER, 7 for other settings of those methods, 8 and more for other methods.
    setting  its number among those in this slot, from 0: tells them apart by dash and marker.
    """

    row: TableRow
    slot: int
    setting: int

    @property
    def look(self) -> tuple[int, int, int]:
        """Numbers of its colour, dash and marker. Methods that are not known here start with another dash than the known ones."""
        known = len(ORDER) + 1
        new = self.slot - known
        if new < 0:
            return self.slot, self.setting % 4, (self.slot + self.setting) % 8
        return known + new % (len(COLOURS) - known), (new + 1 + self.setting) % 4, (self.slot + self.setting) % 12

    @property
    def colour(self) -> str:
        return COLOURS[self.look[0]]

    @property
    def line(self) -> str:
        return ("-", "--", ":", "-.")[self.look[1]]

    @property
    def label(self) -> str:
        n, lost = len(self.row.finished), len(self.row.diverged)
        return f"{self.row.label} (n = {n}{f', {lost} diverged' if lost else ''})"


def method_series(condition: Condition) -> list[MethodSeries]:
    """The methods of a condition in a fixed order; settings of one method share its colour and differ in line style."""
    by_name: dict[tuple[int, int, int, str], list[RunRow]] = {}
    for run in condition.runs:
        own = run.config.optimizer
        by_name.setdefault((_slot(own), list(METHODS).index(own.method), own.ascent_steps, method_name(own)), []).append(run)
    found: list[MethodSeries] = []
    for (slot, _, _, name), runs in sorted(by_name.items()):
        taken = sum(series.slot == slot for series in found)
        found += [MethodSeries(row, slot, i) for i, row in enumerate(table_rows(RowConfig(label=name), runs), taken)]
    return found


def overview(runs: Sequence[RunRow], rhos: Sequence[float], path: str | Path | BinaryIO) -> None:
    """Write a PNG with a row of four panels per condition.

    Test accuracy over epochs (mean over the finished seeds, band of one sample standard deviation), final accuracy and sharpness of every
    seed (at each of `rhos`, BatchNorm in eval mode, whole training set), and sharpness against gap, both in nats.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = conditions(runs)
    if not found:
        raise ValueError("overview: no runs to draw.")
    size = (20, sum(_height(method_series(c)) for c in found) + 0.3)
    ratios = [_height(method_series(c)) for c in found]
    with plt.rc_context({"font.size": 11, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "text.parse_math": False}):
        figure = plt.figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1)  # type: ignore[union-attr, call-arg]
        bands = figure.subfigures(len(found), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for band, condition in zip(bands, found, strict=True):
            series = method_series(condition)
            band.suptitle(condition.label, fontsize=13, fontweight="bold")
            axes = band.subplots(1, 4, gridspec_kw={"width_ratios": [1.15, 1, 1, 1]})
            _draw_curves(axes[0], series)
            _draw_accuracy(axes[1], series)
            _draw_sharpness(axes[2], series, rhos)
            _draw_scatter(axes[3], series, rhos)
            lines = [axes[0].plot([], [], color=s.colour, linestyle=s.line, linewidth=2.2)[0] for s in series]
            place = {"loc": "outside lower center", "ncols": min(7, len(series))}
            band.legend(lines, [s.label for s in series], **place, frameon=False, fontsize=10)
        figure.savefig(path, dpi=DPI)
        plt.close(figure)


def _height(series: Sequence[MethodSeries]) -> float:
    """Inches: room for one line per method in the panels that list them, and for the legend's rows."""
    return max(4.4, 1.6 + 0.36 * len(series)) + 0.2 * math.ceil(len(series) / 7)


def _draw_curves(axes: Any, series: Sequence[MethodSeries]) -> None:
    late: list[float] = []
    for s in series:
        by_epoch: dict[float, list[float]] = {}
        for run in s.row.finished.values():
            for row in run.epochs:
                value = row.get("test_accuracy")
                if value is not None and math.isfinite(value):
                    by_epoch.setdefault(row["epoch"], []).append(value)
        epochs = sorted(by_epoch)
        points = [summarize(by_epoch[e]) for e in epochs]
        means, spreads = [p.mean or 0.0 for p in points], [p.std or 0.0 for p in points]
        axes.plot(epochs, means, color=s.colour, linestyle=s.line, linewidth=1.6)
        low, high = ([m + sign * d for m, d in zip(means, spreads, strict=True)] for sign in (-1, 1))
        axes.fill_between(epochs, low, high, color=s.colour, alpha=0.12, linewidth=0)
        late += [m for e, m in zip(epochs, means, strict=True) if e >= epochs[-1] / 4]
    if late and max(late) > min(late):  # the first climb would flatten what tells the methods apart
        margin = 0.08 * (max(late) - min(late))
        axes.set_ylim(min(late) - margin, max(late) + margin)
    axes.set(
        title="Test accuracy over training\n(mean over seeds, band: ± std, axis cut below)", xlabel="Epoch", ylabel="Test accuracy (%)"
    )


def _list_methods(axes: Any, series: Sequence[MethodSeries]) -> None:
    """Methods from top to bottom, one line each."""
    axes.set_yticks(range(len(series)), [s.row.label for s in series])
    axes.set_ylim(len(series) - 0.5, -0.5)


def _points(row: TableRow, measure: str, scale: float = 1.0) -> list[float]:
    return [v for v in row.values(measure, scale).values() if v is not None and math.isfinite(v)]


def _draw_accuracy(axes: Any, series: Sequence[MethodSeries]) -> None:
    for i, s in enumerate(series):
        values = _points(s.row, "test_accuracy")
        axes.scatter(values, [i] * len(values), color=s.colour, s=34, alpha=0.75, linewidths=0)
        if values:
            axes.plot([sum(values) / len(values)] * 2, [i - 0.32, i + 0.32], color=s.colour, linewidth=2)
    _list_methods(axes, series)
    axes.set(title="Final test accuracy\n(points: seeds, bar: mean)", xlabel="Test accuracy (%)")


def sharpness_key(rho: float) -> str:
    return f"sharpness[rho={rho:g},bn=eval,batch=all]"


def _log_axis(axes: Any) -> None:
    """A logarithmic x axis with a few plain numbers; matplotlib's own labels overlap within a decade."""
    from matplotlib import ticker

    if not any(len(points.get_offsets()) for points in axes.collections):
        return  # nothing to show: a logarithmic axis would have no limits
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5) if high / low < 5 else ticker.LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _hidden_note(hidden: int) -> str:
    return f"; {hidden} values ≤ 0 not shown" if hidden else ""


def _draw_sharpness(axes: Any, series: Sequence[MethodSeries], rhos: Sequence[float]) -> None:
    hidden = 0
    for j, rho in enumerate(rhos):
        offset = 0.44 * ((j + 0.5) / len(rhos) - 0.5)
        for i, s in enumerate(series):
            values = _points(s.row, sharpness_key(rho), 1000)
            shown = [v for v in values if v > 0]
            hidden += len(values) - len(shown)
            marker = RHO_MARKERS[j % len(RHO_MARKERS)]
            axes.scatter(shown, [i + offset] * len(shown), color=s.colour, s=34, alpha=0.75, linewidths=0, marker=marker)
    _log_axis(axes)
    _list_methods(axes, series)
    axes.set(title=f"Sharpness\n(points: seeds{_hidden_note(hidden)})", xlabel="Sharpness × 10³ (nats, log scale)")
    for j, rho in enumerate(rhos):
        axes.scatter([], [], color="0.35", s=34, marker=RHO_MARKERS[j % len(RHO_MARKERS)], label=f"ρ = {rho:g}")
    if rhos:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=min(len(rhos), 6), fontsize=9, frameon=False, handletextpad=0.2)


def _draw_scatter(axes: Any, series: Sequence[MethodSeries], rhos: Sequence[float]) -> None:
    """At the first radius only: the same gap at several radii would draw every run several times."""
    if not rhos:
        return
    hidden = 0
    for s in series:
        pairs = [(run.measures.get(sharpness_key(rhos[0])), run.measures.get("gap")) for run in s.row.finished.values()]
        both = [(x * 1000, y * 1000) for x, y in pairs if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)]
        good = [(x, y) for x, y in both if x > 0]
        hidden += len(both) - len(good)
        axes.scatter([x for x, _ in good], [y for _, y in good], color=s.colour, s=40, alpha=0.75, linewidths=0)
    _log_axis(axes)
    axes.set(
        title=f"Sharpness against generalisation gap\n(points: seeds, ρ = {rhos[0]:g}{_hidden_note(hidden)})",
        xlabel=f"Sharpness × 10³ at ρ = {rhos[0]:g} (nats, log scale)",
        ylabel="Generalisation gap × 10³ (nats)",
    )
