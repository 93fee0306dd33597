"""Axes: from values to pixels, and where the ticks stand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """What an axis shows. log: logarithmic (values <= 0 cannot be shown); whole: ticks at whole numbers only; low, high: limits, or None
    to take them from the values."""

    label: str
    log: bool = False
    whole: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Scale:
    """`low` is drawn at pixel `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        place = math.log10(value) if self.log else value
        return self.start + (place - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(value, text): about five."""
        decades = math.log10(self.high / self.low) if self.log else 0.0
        if self.log and decades >= 0.7:
            return _log_ticks(self.low, self.high, decades)
        return _linear_ticks(self.low, self.high, self.whole)


def scale(values: Iterable[float], axis: Axis, start: float, end: float) -> Scale:
    """A scale that holds the finite values, with a margin of 5% on sides that the axis does not fix."""
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
    """The values with as many decimals as the step needs; a common power of ten is used where they are tiny or huge."""
    largest = max((abs(v) for v in values), default=0.0)
    if largest and (largest >= 1e6 or step < 1e-4):
        return [f"{v + 0.0:.4g}" if abs(v) > step / 10 else "0" for v in values]
    digits = next((d for d in range(6) if math.isclose(step, round(step, d), rel_tol=1e-6)), 6)
    return [f"{v if abs(v) > step / 10 else 0.0:.{digits}f}" for v in values]
