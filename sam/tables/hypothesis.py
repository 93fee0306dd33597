"""Tests beside the paired t test: Holm's correction, Welch's test, equivalence, and the minimum detectable difference.

All of them take values by seed, or a `Paired` difference, and return plain numbers in the unit of the values. Student's t comes from
scipy.special: scipy.stats holds the same functions and takes far longer to import.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import nctdtrinc, stdtr, stdtrit

from sam.tables.statistics import Paired, summarize


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for testing all of them (Holm 1979), in the order given.

    Calling those <= alpha significant keeps the chance of any false one at alpha or below, whatever the tests' dependence.

    The i-th smallest of m is multiplied by m - i + 1, made non-decreasing, and capped at 1. None is no test: it stays None and is not
    counted in m.
    """
    adjusted: list[float | None] = [None] * len(p_values)
    tests = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, i) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * p))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Welch:
    """Two-sided t test of two means with unequal variances and without pairing (Welch 1947): p value and degrees of freedom."""

    p: float
    df: float


def welch(a: Iterable[float | None], b: Iterable[float | None]) -> Welch | None:
    """None where a sample has fewer than two finite values, or neither has any spread."""
    x, y = summarize(a), summarize(b)
    if x.mean is None or y.mean is None or x.std is None or y.std is None or x.std == y.std == 0:
        return None
    u, v = x.std**2 / x.n, y.std**2 / y.n
    df = (u + v) ** 2 / (u**2 / (x.n - 1) + v**2 / (y.n - 1))
    return Welch(float(2 * stdtr(df, -abs(x.mean - y.mean) / math.sqrt(u + v))), df)


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided paired t tests (Schuirmann 1987) of "the mean difference lies within ± margin".

    p      the larger of the two one-sided p values; None for n < 2, and when all differences are equal.
    shown  whether p <= alpha: both "it is below -margin" and "it is above +margin" are then rejected.
    ci_*   the 1 - 2 alpha confidence interval of the mean difference (90% for alpha 0.05): `shown` is the same as lying inside ± margin.
    """

    margin: float
    p: float | None
    shown: bool
    ci_low: float | None
    ci_high: float | None


def equivalence(difference: Paired, margin: float, alpha: float) -> Equivalence:
    """margin > 0, in the unit of the difference."""
    mean, std, n = difference.mean, difference.std, difference.n
    if mean is None or not std or difference.p is None:
        return Equivalence(margin, None, False, None, None)
    error = std / math.sqrt(n)
    p = max(float(stdtr(n - 1, -(mean + margin) / error)), float(stdtr(n - 1, (mean - margin) / error)))
    half = float(stdtrit(n - 1, 1 - alpha)) * error
    return Equivalence(margin, p, p <= alpha, mean - half, mean + half)


def smallest_detectable(std: float | None, n: int, alpha: float, power: float) -> float | None:
    """The true mean difference that the two-sided paired t test at level `alpha` finds with probability `power`, given n pairs.

    std: standard deviation of the differences, taken as the true one, though it is itself estimated from n pairs. From the non-central t
    distribution; rejecting in the wrong direction, of probability < 1e-4 for power >= 0.5, is not counted. None for n < 2 or std 0.
    """
    if n < 2 or not std:
        return None
    shift = float(nctdtrinc(n - 1, 1 - power, stdtrit(n - 1, 1 - alpha / 2)))
    return shift * std / math.sqrt(n) if math.isfinite(shift) else None
