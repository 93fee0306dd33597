"""The overview: accuracy curves, final accuracy, sharpness, and sharpness against the generalisation gap, as one PNG.

Matplotlib is imported when a figure is drawn, with the Agg backend: no display is needed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sam.report.figures import over_epochs
from sam.report.looks import COLOURS, LINES, Look, looks
from sam.tables.conditions import RunRow, conditions
from sam.tables.statistics import is_finite

RHO_MARKERS = ("o", "s", "^", "D", "v", "P")
DPI = 150


def overview(runs: Sequence[RunRow], rhos: Sequence[float], path: str | Path | BinaryIO) -> None:
    """Write a PNG with a row of four panels per condition.

    Test accuracy over epochs (mean over the finished seeds, band of one sample standard deviation), final accuracy and sharpness of every
    seed (at each of `rhos`, BatchNorm in eval mode, whole training set), and sharpness against gap, both in nats.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = [(condition.label, looks(condition)) for condition in conditions(runs)]
    if not found:
        raise ValueError("overview: no runs to draw.")
    # Inches: room for one line per method in the panels that list them, and for the legend's rows.
    heights = [max(4.4, 1.6 + 0.36 * len(methods)) + 0.2 * math.ceil(len(methods) / 7) for _, methods in found]
    with plt.rc_context({"font.size": 11, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "text.parse_math": False}):
        figure = plt.figure(figsize=(20, sum(heights) + 0.3), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1)  # type: ignore[union-attr, call-arg]
        bands = figure.subfigures(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
        for band, (label, methods) in zip(bands, found, strict=True):
            band.suptitle(label, fontsize=13, fontweight="bold")
            axes = band.subplots(1, 4, gridspec_kw={"width_ratios": [1.15, 1, 1, 1]})
            _draw_curves(axes[0], methods)
            _draw_accuracy(axes[1], methods)
            _draw_sharpness(axes[2], methods, rhos)
            _draw_scatter(axes[3], methods, rhos)
            lines = [axes[0].plot([], [], **_line(look), linewidth=2.2)[0] for look in methods]
            place = {"loc": "outside lower center", "ncols": min(7, len(methods))}
            band.legend(lines, [_legend(look) for look in methods], **place, frameon=False, fontsize=10)
        figure.savefig(path, dpi=DPI)
        plt.close(figure)


def _legend(look: Look) -> str:
    n, lost = len(look.row.finished), len(look.row.diverged)
    return f"{look.row.label} (n = {n}{f', {lost} diverged' if lost else ''})"


def _line(look: Look) -> dict[str, Any]:
    return {"color": COLOURS[look.style.colour], "linestyle": LINES[look.style.dash]}


def _dots(axes: Any, look: Look, x: Sequence[float], y: Sequence[float], size: int = 34, marker: str = "o") -> None:
    axes.scatter(x, y, color=COLOURS[look.style.colour], s=size, alpha=0.75, linewidths=0, marker=marker)


def _draw_curves(axes: Any, methods: Sequence[Look]) -> None:
    late: list[float] = []
    for look in methods:
        curve = over_epochs(look, "test_accuracy")
        means, spreads = (np.array([v or 0.0 for v in values]) for values in (curve.y, curve.spread))
        axes.plot(curve.x, means, **_line(look), linewidth=1.6)
        axes.fill_between(curve.x, means - spreads, means + spreads, color=COLOURS[look.style.colour], alpha=0.12, linewidth=0)
        late += [m for e, m in zip(curve.x, means, strict=True) if e >= curve.x[-1] / 4]
    if late and max(late) > min(late):  # the first climb would flatten what tells the methods apart
        margin = 0.08 * (max(late) - min(late))
        axes.set_ylim(min(late) - margin, max(late) + margin)
    title = "Test accuracy over training\n(mean over seeds, band: ± std, axis cut below)"
    axes.set(title=title, xlabel="Epoch", ylabel="Test accuracy (%)")


def _list_methods(axes: Any, methods: Sequence[Look]) -> None:
    """List the methods from top to bottom, one line each."""
    axes.set_yticks(range(len(methods)), [look.row.label for look in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)


def _draw_accuracy(axes: Any, methods: Sequence[Look]) -> None:
    for i, look in enumerate(methods):
        values = list(filter(is_finite, look.row.values("test_accuracy", 1.0).values()))
        _dots(axes, look, values, [i] * len(values))
        if values:
            axes.plot([sum(values) / len(values)] * 2, [i - 0.32, i + 0.32], color=COLOURS[look.style.colour], linewidth=2)
    _list_methods(axes, methods)
    axes.set(title="Final test accuracy\n(points: seeds, bar: mean)", xlabel="Test accuracy (%)")


def sharpness_key(rho: float) -> str:
    return f"sharpness[rho={rho:g},bn=eval,batch=all]"


def _log_axis(axes: Any) -> None:
    """Set a logarithmic x axis with a few plain numbers; matplotlib's own labels overlap within a decade."""
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


def _draw_sharpness(axes: Any, methods: Sequence[Look], rhos: Sequence[float]) -> None:
    hidden = 0
    markers = {rho: RHO_MARKERS[j % len(RHO_MARKERS)] for j, rho in enumerate(rhos)}
    for j, (rho, marker) in enumerate(markers.items()):
        offset = 0.44 * ((j + 0.5) / len(rhos) - 0.5)
        for i, look in enumerate(methods):
            values = list(filter(is_finite, look.row.values(sharpness_key(rho), 1000).values()))
            shown = [v for v in values if v > 0]
            hidden += len(values) - len(shown)
            _dots(axes, look, shown, [i + offset] * len(shown), marker=marker)
    _log_axis(axes)
    _list_methods(axes, methods)
    axes.set(title=f"Sharpness\n(points: seeds{_hidden_note(hidden)})", xlabel="Sharpness × 10³ (nats, log scale)")
    for rho, marker in markers.items():
        axes.scatter([], [], color="0.35", s=34, marker=marker, label=f"ρ = {rho:g}")
    if rhos:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=min(len(rhos), 6), fontsize=9, frameon=False, handletextpad=0.2)


def _draw_scatter(axes: Any, methods: Sequence[Look], rhos: Sequence[float]) -> None:
    """Draw the first radius only: the same gap at several radii would show every run several times."""
    if not rhos:
        return
    hidden = 0
    for look in methods:
        pairs = [(run.measures.get(sharpness_key(rhos[0])), run.measures.get("gap")) for run in look.row.finished.values()]
        both = [(x * 1000, y * 1000) for x, y in pairs if is_finite(x) and is_finite(y)]
        good = [(x, y) for x, y in both if x > 0]
        hidden += len(both) - len(good)
        _dots(axes, look, [x for x, _ in good], [y for _, y in good], size=40)
    _log_axis(axes)
    axes.set(
        title=f"Sharpness against generalisation gap\n(points: seeds, ρ = {rhos[0]:g}{_hidden_note(hidden)})",
        xlabel=f"Sharpness × 10³ at ρ = {rhos[0]:g} (nats, log scale)",
        ylabel="Generalisation gap × 10³ (nats)",
    )
