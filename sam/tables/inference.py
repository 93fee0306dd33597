"""Tests of the ledger: an effect with its p value and its interval at any level; Fieller's ratio; Holm's intervals; tau within axes.

Simultaneous intervals are the intersection of two regions, each of which holds all parameters with 1 - level (docs/claims.md): Holm's, for
two-sided tests after Strassburger & Bretz 2008 and Guilbaud 2008, and Bonferroni's, which can never move an end across the null value.
Whether a test is rejected, on which side, and whether what is not rejected ends below a margin is read from Holm's alone. That the sides
are covered has a proof for independent tests (Shaffer 1980); for tests that share arms it is simulated (results/claims).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from sam.tables.statistics import Paired, holm

Ends = tuple[float, float]  # of a confidence set; low > high: all numbers but those between them (Fieller's complement)
NOWHERE: Ends = (-math.inf, math.inf)
DRAWS = 2000  # of a bootstrap


@dataclass(frozen=True)
class Effect:
    """An estimate of n units, its two-sided p value against `null` (None: no test is possible), and alpha -> its 1 - alpha interval."""

    estimate: float | None
    n: int
    null: float
    p: float | None
    at: Callable[[float], Ends] = lambda alpha: NOWHERE


@dataclass(frozen=True)
class Simultaneous:
    """side: 1 above the null value, -1 below it, 0 not told from it; p_holm: adjusted for all tests, also those that were not run."""

    low: float
    high: float
    side: int
    p_holm: float


def of_mean(d: Paired, null: float = 0.0, end: int = 0) -> Effect:
    """Student's t of paired differences; units that are all alike have none. Of shares, which lie between 0 and `end` (1, or -1), no end is
    nearer than the exact bound: what the mean may be if 1 - (alpha / 2)^(1 / n) of all units are unlike these n, and were not met."""
    if d.mean is None or not (d.std or end):
        return Effect(d.mean, d.n, null, None)
    mean, n, error = d.mean, d.n, (d.std or 0.0) / math.sqrt(d.n)
    low, high = (min(end, 0), max(end, 0)) if end else (mean, mean)
    t = lambda alpha: float(stdtrit(n - 1, 1 - alpha / 2)) * error if error else 0.0
    half = lambda alpha, end: max(t(alpha), (1 - (alpha / 2) ** (1 / n)) * abs(end - mean))
    out, room = abs(null - mean), abs((high if null > mean else low) - mean)
    p = max(2 * (1 - out / room) ** n if out < room else float(not out), _p(out, error, n - 1) if error else 0.0)
    return Effect(mean, n, null, min(1.0, p), lambda alpha: (mean - half(alpha, low), mean + half(alpha, high)))


def _p(distance: float, error: float, df: int) -> float:
    return float(2 * stdtr(df, -abs(distance) / error))


def of_ratio(y: Sequence[float], x: Sequence[float], null: float) -> Effect:
    """mean(y) / mean(x) of paired samples, by Fieller (1954): the test of a ratio r is Student's t of y - r x. No estimate where the
    gain x is not told from 0, or is a loss: of that nothing can be retained."""
    n, mean = len(y), (float(np.mean(y)), float(np.mean(x)))
    rest = np.asarray(y) - null * np.asarray(x)
    error = float(np.std(rest, ddof=1)) / math.sqrt(n) if np.ptp(rest) > 1e-9 * np.abs([y, x]).max() else 0.0  # less is rounding
    ends = lambda alpha: fieller(mean, np.cov([y, x]) / n, n - 1, alpha)
    estimate = mean[0] / mean[1] if mean[1] > 0 and error > 0 and -math.inf < ends(0.05)[0] <= ends(0.05)[1] else None
    return Effect(estimate, n, null, _p(float(np.mean(rest)), error, n - 1), ends) if error else Effect(estimate, n, null, None)


def fieller(means: Ends, covariance: np.ndarray, df: float, alpha: float) -> Ends:
    """The 1 - alpha set of means[0] / means[1], whose estimates have this covariance: an interval; if the denominator is not told from 0,
    the complement of one (low > high) or all numbers."""
    q = float(stdtrit(df, 1 - alpha / 2)) ** 2
    a, b, c = means[1] ** 2 - q * covariance[1, 1], means[0] * means[1] - q * covariance[0, 1], means[0] ** 2 - q * covariance[0, 0]
    root = b * b - a * c  # a r^2 - 2 b r + c <= 0
    if a == 0 or (a < 0 and root <= 0):
        return NOWHERE
    half = math.sqrt(max(root, 0.0))
    return (b - half) / a, (b + half) / a


def simultaneous(effects: Sequence[Effect], tests: int, level: float) -> list[Simultaneous]:
    """Holm's decisions and the intervals that match them. tests: in the family; those that are no effect here were not run: p = 1."""
    m = max(tests, len(effects))
    p_values = [1.0 if effect.p is None else effect.p for effect in effects]
    adjusted = [p or 0.0 for p in holm([*p_values, *[1.0] * (m - len(effects))])]
    order = sorted(range(len(effects)), key=lambda i: p_values[i])
    rejected = {i: level / (m - rank) for rank, i in enumerate(order) if adjusted[i] <= level}  # test -> the level of its step
    found = []
    for i, effect in enumerate(effects):
        low, high = effect.at(rejected.get(i, level / max(m - len(rejected), 1)))
        side = int(low > effect.null) - int(high < effect.null) if i in rejected and low <= high else 0
        if side:
            low, high = outer if (outer := effect.at(level / m))[0] <= outer[1] else NOWHERE
            low, high = (max(low, effect.null), high) if side > 0 else (low, min(high, effect.null))
        found.append(Simultaneous(low, high, side, adjusted[i]))
    return found


def unpacked(series: Mapping[str, Sequence[float | None]]) -> np.ndarray:
    """Outcomes of the test images, (n,) true or false, from words of `sam.sharpness.outcomes`."""
    words = zip(series["images"], series["right"], strict=True)
    return np.array([int(right or 0) >> k & 1 for images, right in words for k in range(int(images or 0))], dtype=bool)


def over_seeds_and_images(
    arms: np.ndarray, estimate: Callable[[np.ndarray], np.ndarray], images: int | None, right: np.ndarray | None = None
) -> Ends | None:
    """95% percentile interval of an estimate from the arms' means (arms x draws -> draws), seeds drawn again for all arms together; arms: a
    row of values by seed each. right: which images each run got right (arms x seeds x images), and these are drawn again too, for all runs
    together. Without them, images: number of test images behind each accuracy in percent, which adds an arm's binomial error, the same for
    all its seeds, as if arms erred on unrelated images: too wide. None below three seeds."""
    count, n = arms.shape
    if n < 3:
        return None
    draw = np.random.default_rng(0)
    seeds = draw.integers(n, size=(DRAWS, n))
    if right is None:
        share = np.clip(arms.mean(axis=1) / 100, 0, 1)
        means = arms[:, seeds].mean(axis=2)
        means += 100 * (draw.binomial(images, share, (DRAWS, count)) / images - share).T if images else 0
    else:
        size, means = right.shape[2], np.empty((count, DRAWS))
        flat = right.reshape(count * n, size).astype(np.float32)
        for k, own in enumerate(seeds):
            often = np.bincount(draw.integers(size, size=size), minlength=size).astype(np.float32)
            means[:, k] = 100 * (flat @ often).reshape(count, n)[:, own].mean(axis=1) / size
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(estimate(means), [0.025, 0.975])
    return (float(low), float(high)) if math.isfinite(low + high) and high - low > 1e-12 else None  # a gain may be 0; all may be alike


def partial_tau(x: np.ndarray, y: np.ndarray, z: np.ndarray, pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of x and y, partial on z, over the pairs (n x n, true or false): a number a row of `weights` (how often each of the
    n points counts). z is taken away on Pearson's scale (Greiner: r = sin(pi tau / 2)), where two measures that follow z alone have 0, as
    they have not on Kendall's own (1942). NaN where it does not exist; a constant z takes nothing away."""
    signs = [np.sign(np.subtract.outer(v, v)) * pairs for v in (x, y, z)]
    total = lambda i, j: ((weights @ (signs[i] * signs[j])) * weights).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = lambda i, j: np.sin(np.pi / 2 * total(i, j) / np.sqrt(total(i, i) * total(j, j)))
        xy, xz, yz = r(0, 1), np.nan_to_num(r(0, 2)), np.nan_to_num(r(1, 2))
        partial = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
        return np.asarray(2 / np.pi * np.arcsin(np.clip(partial, -1, 1)))


def of_tau(settings: Sequence[Mapping[str, Any]], axes: Sequence[str], x: np.ndarray, y: np.ndarray, z: np.ndarray, sign: int) -> Effect:
    """Mean over the axes of `partial_tau` over the pairs of settings that differ in that axis alone (times sign), with a bootstrap over
    settings; an axis without such a pair is left out."""
    n = len(settings)
    words = [{name: repr(value) for name, value in setting.items()} for setting in settings]
    without = {axis: [repr(sorted((k, v) for k, v in own.items() if k != axis)) for own in words] for axis in axes}
    pairs = {axis: np.array([[a == b and i != j for j, b in enumerate(of)] for i, a in enumerate(of)]) for axis, of in without.items()}
    weights = np.vstack([np.ones(n), np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS)]) if n else np.ones((1, 0))
    each = [sign * partial_tau(x, y, z, of, weights) for of in pairs.values() if of.any()]
    exists = np.isfinite(each)
    if not each or not exists[:, 0].any():
        return Effect(None, n, 0.0, None)
    values = np.where(exists, each, 0).sum(axis=0) / np.maximum(exists.sum(axis=0), 1)
    drawn = values[1:][exists[:, 1:].any(axis=0)]
    least = min(2 / math.prod(map(math.factorial, Counter(of).values())) for of in without.values())  # one of all orders of the settings
    p = min(1.0, max(least, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (len(drawn) + 1)))
    ends = lambda alpha: (float(np.quantile(drawn, alpha / 2)), float(np.quantile(drawn, 1 - alpha / 2))) if alpha >= least else NOWHERE
    return Effect(float(values[0]), n, 0.0, p, ends)
