"""Statistics over seeds: mean, interval, paired difference, Holm, Welch, equivalence, minimum detectable difference.

Missing and non-finite values are never averaged, only counted (`excluded`). Results are plain numbers in the unit of the values.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from scipy.special import nctdtrinc, stdtr, stdtrit  # Student's t; scipy.stats holds the same functions and takes far longer to import

from sam.tables.correlation import RankCorrelation

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """n finite values: mean, sample standard deviation (ddof = 1), 95% confidence interval of the mean (Student's t, n - 1 degrees).

    mean is None for n = 0; std and the interval are None for n < 2. excluded: number of missing or non-finite values.
    """

    n: int
    mean: float | None
    std: float | None
    ci_low: float | None
    ci_high: float | None
    excluded: int = 0


@dataclass(frozen=True)
class Paired(Summary):
    """a - b over common seeds: as `Summary`, with the p value of the two-sided paired t test.

    p is None for n < 2, and if all differences are equal (the t statistic is then 0/0 or infinite).
    """

    p: float | None = None
    seeds: tuple[int, ...] = ()


def is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def summarize(values: Iterable[float | None]) -> Summary:
    """The `Summary` of `values`."""
    everything = list(values)
    kept = [float(v) for v in everything if is_finite(v)]
    n, excluded = len(kept), len(everything) - len(kept)
    if n < 2:
        return Summary(n, kept[0] if kept else None, None, None, None, excluded)
    if min(kept) == max(kept):  # np.std of equal numbers may be 1e-17
        return Summary(n, kept[0], 0.0, kept[0], kept[0], excluded)
    mean, std = math.fsum(kept) / n, float(np.std(kept, ddof=1))
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half, excluded)


def paired_difference(a: Mapping[int, float | None], b: Mapping[int, float | None]) -> Paired:
    """a - b, each a map from seed to value. Seeds that only one of them has are not counted."""
    common = sorted(a.keys() & b.keys())
    pairs = {seed: (float(x), float(y)) for seed in common if is_finite(x := a[seed]) and is_finite(y := b[seed])}
    differences = [x - y for x, y in pairs.values()]
    excluded = len(common) - len(pairs)
    if len(pairs) >= 2:
        # 97.1 - 97.0 and 96.4 - 96.3 differ in the last bits: differences that agree to the rounding of the inputs are equal.
        rounding = 4 * np.finfo(float).eps * max(abs(v) for pair in pairs.values() for v in pair)
        if max(differences) - min(differences) <= rounding:
            mean = math.fsum(differences) / len(differences)
            return Paired(len(pairs), mean, 0.0, mean, mean, excluded, None, tuple(pairs))
    s = summarize(differences)
    p = float(2 * stdtr(s.n - 1, -abs(s.mean) * math.sqrt(s.n) / s.std)) if s.mean is not None and s.std else None
    return Paired(s.n, s.mean, s.std, s.ci_low, s.ci_high, excluded, p, tuple(pairs))


def fixed(value: float, digits: int, sign: bool = False) -> str:
    """Print with `digits` decimals; a non-zero value that would print as zero keeps two significant digits."""
    plus = "+" if sign else ""
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return f"{value:{plus}.2g}"
    return f"{value:{plus}.{digits}f}"


def summary_parts(s: Summary, digits: int) -> tuple[str, ...]:
    """Pieces of text, for separate lines if need be: "97.30 ± 0.08", "[97.10, 97.50]", "n = 3"."""
    if s.mean is None:
        return ("not measured",) if s.excluded else ()
    mean = fixed(s.mean, digits) + (f" ± {fixed(s.std, digits)}" if s.std is not None else "")
    lost = (f"{s.excluded} without a finite value",) if s.excluded else ()
    return (mean, *interval(s, digits), f"n = {s.n}", *lost)


def interval(s: Summary | RankCorrelation, digits: int, sign: bool = False) -> tuple[str, ...]:
    """("[97.10, 97.50]",), or () without an interval."""
    return () if s.ci_low is None or s.ci_high is None else (f"[{fixed(s.ci_low, digits, sign)}, {fixed(s.ci_high, digits, sign)}]",)


def p_text(p: float) -> str:
    """ "= 0.12", or "< 0.001"."""
    return f"= {p:.2g}" if p >= 0.001 else "< 0.001"


def paired_parts(d: Paired, digits: int, p_holm: float | None = None) -> tuple[str, ...]:
    """Pieces of text: "+0.10", "[-0.05, +0.25]", "n = 3, p = 0.12 (Holm 0.24)"."""
    if d.mean is None:
        return ("no common seed",)
    parts = (fixed(d.mean, digits, sign=True), *interval(d, digits, sign=True))
    if d.p is None:
        return (*parts, f"n = {d.n}" + (", all equal" if d.n > 1 else ""))
    corrected = "" if p_holm is None else f" (Holm {p_text(p_holm).removeprefix('= ')})"
    return (*parts, f"n = {d.n}, p {p_text(d.p)}{corrected}")


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values for testing all of them (Holm 1979); input order is kept, None is no test.

    Calling those <= alpha significant keeps the chance of any false one at alpha or below, whatever the tests' dependence: the i-th
    smallest of m is multiplied by m - i + 1, made non-decreasing, and capped at 1.
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
    """p value and degrees of freedom of the two-sided t test with unequal variances, without pairing (Welch 1947)."""

    p: float
    df: float


def welch(a: Iterable[float | None], b: Iterable[float | None]) -> Welch | None:
    """Welch's test; None if a sample has fewer than two finite values, or neither has any spread."""
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
    """TOST of a paired difference; margin > 0, in its unit."""
    mean, std, n = difference.mean, difference.std, difference.n
    if mean is None or not std or difference.p is None:
        return Equivalence(margin, None, False, None, None)
    error = std / math.sqrt(n)
    p = max(float(stdtr(n - 1, -(mean + margin) / error)), float(stdtr(n - 1, (mean - margin) / error)))
    half = float(stdtrit(n - 1, 1 - alpha)) * error
    return Equivalence(margin, p, p <= alpha, mean - half, mean + half)


def smallest_detectable(std: float | None, n: int, alpha: float, power: float) -> float | None:
    """Minimum detectable difference: the true mean that the two-sided paired t test finds with probability `power`, given n pairs.

    std: standard deviation of the differences, taken as the true one. From the non-central t distribution; rejecting in the wrong
    direction (probability < 1e-4 for power >= 0.5) is not counted. None for n < 2 or std 0.
    """
    if n < 2 or not std:
        return None
    shift = float(nctdtrinc(n - 1, 1 - power, stdtrit(n - 1, 1 - alpha / 2)))
    return shift * std / math.sqrt(n) if math.isfinite(shift) else None
