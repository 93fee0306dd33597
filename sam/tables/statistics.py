"""Statistics over seeds, as plain numbers in the unit of the values. Missing and non-finite values are never averaged, only counted.

An interval is Student's t of the seeds' values on a scale: as they are, their logarithms (log), or log(v / (top - v)) of a share of `top`
(logit); its ends are transformed back. On another scale it is the interval of the back-transformed mean, near the median, which lies within
the bounds of the measure and not in the middle of the interval.

Rank correlations are of all runs, within rows (a method in one setting), and between them: they may differ in sign (Simpson's paradox).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from scipy.special import expit, logit, nctdtrinc, stdtr, stdtrit  # scipy.stats holds Student's t too and takes far longer to import

CONFIDENCE = 0.95
Pairs = Mapping[str, Mapping[int, tuple[float, float]]]  # row -> seed -> (x, y), all finite

Z = 1.959963984540054  # 97.5% point of the normal distribution
MIN_POINTS = 4  # three points have six orders: a rank correlation of them says nothing, and its interval does not exist
MIN_SEEDS = 3  # with two seeds the variation from seed to seed cannot be told: no interval
MIN_RUNS = 40  # of a rank correlation that is printed: with 15 its interval spans most of what is possible
SCALES: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {  # of an interval: there, and back
    "": (np.positive, np.positive),
    "log": (np.log, np.exp),
    "logit": (logit, expit),
}


@dataclass(frozen=True)
class Summary:
    """n finite values: mean (None for n = 0), sample standard deviation (ddof = 1; None for n < 2) and 95% confidence interval (n - 1
    degrees of freedom; None for n < 3, and where a value is at an end of the scale). excluded: number of missing or non-finite values.

    low, high  smallest and largest value. scale: of the interval, a key of SCALES.
    """

    n: int
    mean: float | None
    std: float | None
    ci_low: float | None
    ci_high: float | None
    excluded: int = 0
    low: float | None = None
    high: float | None = None
    scale: str = ""


@dataclass(frozen=True)
class Paired(Summary):
    """a - b over common seeds. p: of the two-sided paired t test; None for n < 2, and if all differences are equal (0/0 or infinite): nor
    is there an interval then, since equal differences tell nothing of their spread."""

    p: float | None = None
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho of n points with its 95% interval; rho is None for fewer than four points or a constant measure, the interval at
    rho = ±1 (its standard error is unknown, not 0) and for too few seeds."""

    rho: float | None
    ci_low: float | None
    ci_high: float | None
    n: int


def is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def summarize(values: Iterable[float | None], scale: str = "", top: float = 100.0) -> Summary:
    """Summarise finite values. scale: of the interval; log falls back to none where a value is not positive. top: what logit takes as 1."""
    everything = list(values)
    kept = [float(v) for v in everything if is_finite(v)]
    n, excluded, low, high = len(kept), len(everything) - len(kept), min(kept, default=None), max(kept, default=None)
    if n < 2 or low == high:  # np.std of equal numbers may be 1e-17
        end = low if n >= MIN_SEEDS else None
        return Summary(n, low, 0.0 if n > 1 else None, end, end, excluded, low, high)
    scale = "" if scale == "log" and min(kept) <= 0 else scale
    ends = interval_of(kept, scale, top) if n >= MIN_SEEDS else (None, None)
    return Summary(n, math.fsum(kept) / n, float(np.std(kept, ddof=1)), ends[0], ends[1], excluded, low, high, scale)


def interval_of(values: Sequence[float], scale: str, top: float) -> tuple[float, float] | tuple[None, None]:
    """Ends of the interval of at least two unequal values; None where one of them is at an end of the scale (an accuracy of 100%)."""
    there, back = SCALES[scale]
    unit = top if scale == "logit" else 1.0
    moved = there(np.asarray(values) / unit)
    if not np.isfinite(moved).all():
        return None, None
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * np.std(moved, ddof=1) / math.sqrt(len(values))
    low, high = sorted(float(end) for end in unit * back(np.mean(moved) + np.array([-half, half])))
    return low, high


def finite_pairs(a: Mapping[int, float | None], b: Mapping[int, float | None]) -> dict[int, tuple[float, float]]:
    """Seed -> both values, where both are finite."""
    return {seed: (float(x), float(y)) for seed in sorted(a.keys() & b.keys()) if is_finite(x := a[seed]) and is_finite(y := b[seed])}


def paired_difference(a: Mapping[int, float | None], b: Mapping[int, float | None]) -> Paired:
    """a - b, each a map from seed to value. Seeds that only one of them has are not counted."""
    pairs = finite_pairs(a, b)
    differences, excluded = [x - y for x, y in pairs.values()], len(a.keys() & b.keys()) - len(pairs)
    if len(pairs) >= 2:
        # 97.1 - 97.0 and 96.4 - 96.3 differ in the last bits: differences that agree to the rounding of the inputs are equal.
        rounding = 4 * np.finfo(float).eps * max(abs(v) for pair in pairs.values() for v in pair)
        if max(differences) - min(differences) <= rounding:
            mean = math.fsum(differences) / len(differences)
            differences = [0.0 if abs(mean) <= rounding else mean] * len(pairs)
    s = summarize(differences)
    p = float(2 * stdtr(s.n - 1, -abs(s.mean) * math.sqrt(s.n) / s.std)) if s.mean is not None and s.std else None
    return Paired(**vars(s) | {"excluded": excluded} | ({"ci_low": None, "ci_high": None} if p is None else {}), p=p, seeds=tuple(pairs))


def decimals(spread: float | None, digits: int) -> int:
    """Decimals that show two significant digits of the spread (integer digits in any case), but at most `digits`; up to three more where
    not one digit of it would be shown, and `digits` again where these are not enough."""
    if not spread:
        return digits
    wanted = max(0, 1 - math.floor(math.log10(spread) + 1e-9))  # 0.99... of rounding is 1
    return min(wanted, digits) if spread >= 10**-digits or wanted > digits + 3 else wanted


def fixed(value: float, digits: int, sign: bool = False) -> str:
    """Print with `digits` decimals; a non-zero value that would print as zero keeps two significant digits."""
    kind = ".2g" if value != 0 and abs(value) < 0.5 * 10**-digits else f".{digits}f"
    return f"{value + 0.0:{'+' if sign else ''}{kind}}"


def rounded(value: float, digits: int, sign: bool = False) -> str:
    """Print with `digits` decimals; zero, and what rounds to it, has no sign."""
    near = round(value, digits)
    return f"{near:{'+' if sign else ''}.{digits}f}" if near else f"{0:.{digits}f}"


def summary_parts(s: Summary, digits: int) -> tuple[str, ...]:
    """Pieces of text, for separate lines if need be: "97.30 ± 0.08", "[97.10, 97.50]", "n = 3"; without an interval "97.10 to 97.50"."""
    if s.mean is None:
        return ("not measured",) if s.excluded else ()
    lost = (f"{s.excluded} without a finite value",) if s.excluded else ()
    if not s.std:
        return (fixed(s.mean, digits), *(("all seeds equal",) if s.n > 1 else ()), f"n = {s.n}", *lost)
    digits = decimals(s.std, digits)
    mean = rounded(s.mean, digits) if s.std >= 10**-digits else fixed(s.mean, digits)
    return (f"{mean} ± {fixed(s.std, digits)}", *interval(s, digits), f"n = {s.n}", *lost)


def interval(s: Summary | RankCorrelation, digits: int, sign: bool = False) -> tuple[str, ...]:
    """("[97.10, 97.50]",), where there is no interval the range of a summary ("97.10 to 97.50",), or ()."""
    if s.ci_low is not None and s.ci_high is not None:
        return (f"[{fixed(s.ci_low, digits, sign)}, {fixed(s.ci_high, digits, sign)}]",)
    if isinstance(s, Summary) and s.std and s.low is not None and s.high is not None:
        return (f"{fixed(s.low, digits, sign)} to {fixed(s.high, digits, sign)}",)
    return ()


def p_text(p: float) -> str:
    """ "= 0.12", or "< 0.001"."""
    return f"= {p:.{2 + (f'{p:.2g}' == '0.05')}g}" if p >= 0.001 else "< 0.001"


def p_short(p: float) -> str:
    """ "p 0.12", "p 2e-5"."""
    return p_text(p).replace("=", "p") if p >= 0.001 else f"p {p:.0e}".replace("e-0", "e-")


def paired_parts(d: Paired, digits: int, p_holm: float | None = None) -> tuple[str, ...]:
    """Pieces of text: "+0.10", "[-0.05, +0.25]", "n = 3, p = 0.12 (Holm 0.24)"; below three pairs "-0.05 to +0.25"."""
    if d.mean is None:
        return ("–",) if d.excluded else ("no common seed",)
    digits = decimals(d.std, digits)
    parts = (rounded(d.mean, digits, sign=True), *(interval(d, digits, sign=True) if d.std else ()))
    if d.p is None:
        return (*parts, f"n = {d.n}" + (", all equal" if d.n > 1 else ""))
    corrected = "" if p_holm is None else f" (Holm {p_text(p_holm).removeprefix('= ')})"
    return (*parts, f"n = {d.n}, p {p_text(d.p)}{corrected}")


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values for testing all of them (Holm 1979); input order is kept, None is no test. The i-th smallest of m is multiplied by
    m - i + 1, made non-decreasing, and capped at 1; the tests may depend on each other."""
    tests = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    steps = np.maximum.accumulate([min(1.0, (len(tests) - rank) * p) for rank, (p, _) in enumerate(tests)]).tolist()
    adjusted = dict(zip((i for _, i in tests), steps, strict=True))
    return [adjusted.get(i) for i in range(len(p_values))]


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

    p      the larger of the two p values; None for n < 2, and when all differences are equal. shown: p <= alpha.
    ci_*   the 1 - 2 alpha confidence interval of the mean difference: `shown` is the same as lying inside ± margin.
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
    """Minimum detectable difference: the true mean that the two-sided paired t test finds with probability `power`, given n pairs whose
    differences have the true standard deviation `std`, by the non-central t distribution (one side). None for n < 2 or std 0."""
    if n < 2 or not std:
        return None
    shift = float(nctdtrinc(n - 1, 1 - power, stdtrit(n - 1, 1 - alpha / 2)))
    return shift * std / math.sqrt(n) if math.isfinite(shift) else None


def _within_rho(rows: Pairs) -> float | None:
    """The blocked Spearman coefficient (Taylor 1987, Biometrics 43): without ties, the mean of the rows' with weights n (n² - 1)."""
    from scipy.stats import rankdata  # tied values share the average of their ranks

    members = [list(seeds.values()) for seeds in rows.values() if seeds]
    if not members:
        return None
    x, y = (np.concatenate([rankdata([point[k] for point in row]) - (len(row) + 1) / 2 for row in members]) for k in (0, 1))
    size = math.sqrt(float(x @ x) * float(y @ y))
    return None if size == 0 else max(-1.0, min(1.0, float(x @ y) / size))


def _jackknife(statistic: Callable[[Pairs], float | None], rows: Pairs) -> float | None:
    """Half width, on Fisher's scale, of the interval from leaving out one seed at a time in all rows (Student's t, seeds - 1)."""
    seeds = sorted({seed for members in rows.values() for seed in members})
    left = [statistic({name: {s: p for s, p in members.items() if s != out} for name, members in rows.items()}) for out in seeds]
    moved = [math.atanh(max(-0.99, min(0.99, rho))) for rho in left if rho is not None]  # 1 of few seeds is not infinite
    if (n := len(seeds)) < MIN_SEEDS or len(moved) < n:
        return None
    return float(stdtrit(n - 1, 0.975)) * math.sqrt((n - 1) / n * float(np.sum((np.array(moved) - np.mean(moved)) ** 2)))


def _coefficient(statistic: Callable[[Pairs], float | None], rows: Pairs, lost: int, over_seeds: bool = True) -> RankCorrelation:
    """A coefficient and its interval, symmetric on Fisher's scale: with the standard error of Bonett & Wright 2000 for independent points,
    sqrt((1 + rho²/2) / (n - lost)), lost = 3; over_seeds: the wider of it and the jackknife's, since methods share their seeds."""
    n = sum(map(len, rows.values()))
    rho = statistic(rows) if n >= MIN_POINTS else None
    jackknife = _jackknife(statistic, rows) if over_seeds else 0.0
    if rho is None or jackknife is None or n <= lost or abs(rho) > 1 - 1e-12:
        return RankCorrelation(rho, None, None, n)
    z, half = math.atanh(rho), max(Z * math.sqrt((1 + rho**2 / 2) / (n - lost)), jackknife)
    return RankCorrelation(rho, math.tanh(z - half), math.tanh(z + half), n)


def across(rows: Pairs) -> RankCorrelation:
    """Spearman's coefficient over all runs, whatever their row; interval over new seeds of the same rows."""
    as_one_row = lambda own: {"": dict(enumerate(point for seeds in own.values() for point in seeds.values()))}
    return _coefficient(lambda own: _within_rho(as_one_row(own)), rows, 3)


def within(rows: Pairs) -> RankCorrelation:
    """Coefficient of the ranks within each row of several runs, each costing a degree of freedom; interval over new seeds of the rows."""
    kept = {name: seeds for name, seeds in rows.items() if len(seeds) > 1}
    return _coefficient(_within_rho, kept, len(kept) + 2)


def between(rows: Pairs) -> RankCorrelation:
    """Spearman's coefficient of the rows' means; n counts rows, interval over new rows (Fisher's z, Bonett & Wright): an approximation,
    whose coverage is checked at 6 and 10 rows; with four it spans nearly everything."""
    mean = lambda seeds, k: math.fsum(point[k] for point in seeds.values()) / len(seeds)
    means = {"": {i: (mean(seeds, 0), mean(seeds, 1)) for i, seeds in enumerate(rows.values()) if seeds}}
    return _coefficient(_within_rho, means, 3, over_seeds=False)
