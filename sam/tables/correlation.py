"""Rank correlation of two measures over seeds and methods: of all runs, within methods, and between methods.

The three answer different questions, and may differ in sign (Simpson's paradox). Two measures can rise together from method to method
and still say nothing about which seed of a method generalises better. A row here is a method in one setting.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

Pairs = Mapping[str, Mapping[int, tuple[float, float]]]  # row -> seed -> (x, y), all finite

Z = 1.959963984540054  # 97.5% point of the normal distribution
MIN_POINTS = 4  # three points have six orders: a rank correlation of them says nothing, and its interval does not exist
MIN_SEEDS = 3  # with two seeds the variation from seed to seed cannot be told


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho of n points with its 95% interval; rho is None for fewer than four points or a constant measure.

    The interval is None at rho = ±1 (its standard error is unknown, not 0), and for too few seeds.
    """

    rho: float | None
    ci_low: float | None
    ci_high: float | None
    n: int


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks 1 .. n; tied values share the average of theirs."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _all_rho(rows: Pairs) -> float | None:
    points = [point for seeds in rows.values() for point in seeds.values()]
    return _within_rho({"": dict(enumerate(points))})


def _within_rho(rows: Pairs) -> float | None:
    """Correlate ranks taken and centred within each row (the blocked Spearman coefficient of Taylor 1987, Biometrics 43).

    Without ties this is the mean of the rows' coefficients with weights n (n² - 1).
    """
    members = [list(seeds.values()) for seeds in rows.values() if seeds]
    if not members:
        return None
    x, y = (np.concatenate([ranks([point[k] for point in row]) - (len(row) + 1) / 2 for row in members]) for k in (0, 1))
    size = math.sqrt(float(x @ x) * float(y @ y))
    return None if size == 0 else max(-1.0, min(1.0, float(x @ y) / size))


def _fisher(rho: float | None, n: int, error: float | None, quantile: float = Z) -> RankCorrelation:
    if rho is None or error is None or abs(rho) > 1 - 1e-12:
        return RankCorrelation(rho, None, None, n)
    z, half = math.atanh(rho), quantile * error
    return RankCorrelation(rho, math.tanh(z - half), math.tanh(z + half), n)


def _bonett_wright(rho: float, free: int) -> float | None:
    """Standard error of Fisher's z of a Spearman coefficient (Bonett & Wright 2000): sqrt((1 + rho²/2) / (n - 3)), free = n - 3."""
    return math.sqrt((1 + rho**2 / 2) / free) if free > 0 else None


def _jackknife(statistic: Callable[[Pairs], float | None], rows: Pairs) -> float | None:
    """Half width, on Fisher's scale, of the interval from leaving out one seed at a time in all rows (Student's t, seeds - 1)."""
    seeds = sorted({seed for members in rows.values() for seed in members})
    if len(seeds) < MIN_SEEDS:
        return None
    left = []
    for out in seeds:
        rho = statistic({name: {s: p for s, p in members.items() if s != out} for name, members in rows.items()})
        if rho is None:
            return None
        left.append(math.atanh(max(-0.99, min(0.99, rho))))  # a coefficient of 1 out of two or three seeds is common, and not infinite
    n = len(seeds)
    return float(stdtrit(n - 1, 0.975)) * math.sqrt((n - 1) / n * float(np.sum((np.array(left) - np.mean(left)) ** 2)))


def _over_seeds(statistic: Callable[[Pairs], float | None], rows: Pairs, free: int) -> RankCorrelation:
    """Take the wider interval of two: runs independent (Bonett & Wright), or seeds independent (jackknife), since methods share them."""
    n = sum(map(len, rows.values()))
    rho = statistic(rows) if n >= MIN_POINTS else None
    if rho is None:
        return RankCorrelation(None, None, None, n)
    one, other = _bonett_wright(rho, free), _jackknife(statistic, rows)
    return _fisher(rho, n, None if one is None or other is None else max(Z * one, other), 1.0)


def across(rows: Pairs) -> RankCorrelation:
    """Spearman's coefficient over all runs, whatever their row; interval over new seeds of the same rows."""
    return _over_seeds(_all_rho, rows, sum(map(len, rows.values())) - 3)


def within(rows: Pairs) -> RankCorrelation:
    """Coefficient of the ranks within each row, over all rows; interval over new seeds of the same rows.

    Rows of one run are left out, of n too. Every row costs one degree of freedom.
    """
    kept = {name: seeds for name, seeds in rows.items() if len(seeds) > 1}
    return _over_seeds(_within_rho, kept, sum(len(seeds) - 1 for seeds in kept.values()) - 2)


def between(rows: Pairs) -> RankCorrelation:
    """Spearman's coefficient of the rows' means; n counts rows, interval over new rows (Fisher's z, Bonett & Wright).

    An approximation for few rows: its coverage is checked at 6 and 10 rows, and with four it spans nearly everything.
    """
    means = {"": {i: _mean(list(seeds.values())) for i, seeds in enumerate(rows.values()) if seeds}}
    n = len(means[""])
    rho = _all_rho(means) if n >= MIN_POINTS else None
    return _fisher(rho, n, None if rho is None else _bonett_wright(rho, n - 3))


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return math.fsum(x for x, _ in points) / len(points), math.fsum(y for _, y in points) / len(points)
