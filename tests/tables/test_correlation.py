"""Rank correlations against scipy.stats, Simpson's paradox, and how often their intervals hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from sam.tables.statistics import Pairs, across, between, within


def grouped(x: np.ndarray, y: np.ndarray) -> Pairs:
    """Groups are rows, seeds are columns."""
    return {
        f"m{i}": {s: (float(a), float(b)) for s, (a, b) in enumerate(zip(u, v, strict=True))}
        for i, (u, v) in enumerate(zip(x, y, strict=True))
    }


def test_tied_values_share_their_rank() -> None:
    x, y = np.array([[3.0, 1.0, 3.0, 2.0]]), np.array([[3.5, 1.0, 3.5, 2.0]])  # the values and their ranks
    assert within(grouped(x, y)).rho == pytest.approx(1) and within(grouped(x, np.array([[3.5, 1.0, 3.6, 2.0]]))).rho == pytest.approx(
        0.9**0.5
    )


@pytest.mark.parametrize("tied", [False, True])
def test_all_runs_is_scipys_spearman(tied: bool) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    x, y = (np.round(x), np.round(y)) if tied else (x, y)
    assert across(grouped(x, y)).rho == pytest.approx(stats.spearmanr(x.ravel(), y.ravel()).statistic)
    assert across(grouped(x, y)).n == 20


def test_within_is_the_weighted_mean_of_the_methods_own_coefficients() -> None:
    rng = np.random.default_rng(2)
    sizes = (2, 3, 5, 8)
    points = {str(n): {s: (float(a), float(b)) for s, (a, b) in enumerate(rng.normal(size=(n, 2)))} for n in sizes}
    own = [stats.spearmanr(*zip(*points[str(n)].values(), strict=True)).statistic for n in sizes]
    assert within(points).rho == pytest.approx(np.average(own, weights=[n * (n * n - 1) for n in sizes]))
    alone = points | {"alone": {0: (9.0, 9.0)}}
    assert within(alone) == within(points) and within(points).n == 18  # a method with one run says nothing


def test_between_is_of_the_means() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    found = between(grouped(x, y))
    assert found.rho == pytest.approx(stats.spearmanr(x.mean(1), y.mean(1)).statistic) and found.n == 6


def test_simpsons_paradox_is_seen() -> None:
    """Between methods both rise together; within each method one falls as the other rises."""
    rng = np.random.default_rng(4)
    level, own = np.arange(6.0)[:, None] * 10, rng.normal(size=(6, 5))
    pairs = grouped(level + own, level - own + 0.4 * rng.normal(size=(6, 5)))
    assert (between(pairs).rho or 0) == 1.0 and (within(pairs).rho or 0) < -0.9 and (across(pairs).rho or 0) > 0.9
    low, high = within(pairs).ci_low, within(pairs).ci_high
    assert low is not None and high is not None and low < high < 0


def test_between_has_bonett_and_wrights_interval() -> None:
    x, y = np.arange(10.0)[:, None], np.array([2.0, 1, 4, 3, 6, 5, 8, 7, 10, 9])[:, None]
    found = between(grouped(x, y))
    rho = stats.spearmanr(x[:, 0], y[:, 0]).statistic
    half = stats.norm.ppf(0.975) * math.sqrt((1 + rho**2 / 2) / 7)
    assert found.ci_low == pytest.approx(math.tanh(math.atanh(rho) - half)) and found.ci_high == pytest.approx(
        math.tanh(math.atanh(rho) + half)
    )


def test_what_cannot_be_said_is_not_said() -> None:
    rng = np.random.default_rng(5)
    three = grouped(rng.normal(size=(1, 3)), rng.normal(size=(1, 3)))
    assert across(three).rho is None and across({}).rho is None and between({}).n == 0
    constant = grouped(np.ones((4, 3)), rng.normal(size=(4, 3)))
    assert (across(constant).rho, within(constant).rho, between(constant).rho) == (None, None, None)
    two_seeds = across(grouped(rng.normal(size=(4, 2)), rng.normal(size=(4, 2))))
    assert two_seeds.rho is not None and two_seeds.ci_low is None
    line = np.arange(12.0).reshape(4, 3)
    assert [(r.rho, r.ci_low) for r in (across(grouped(line, line)), between(grouped(line, -line)))] == [(1.0, None), (-1.0, None)]


@pytest.mark.parametrize("groups", [6, 10])
def test_interval_between_methods_covers(groups: int) -> None:
    """Bivariate normal means with correlation 0.6: Spearman's coefficient is 6/pi asin(0.3)."""
    rng, truth = np.random.default_rng(groups), 6 / math.pi * math.asin(0.3)
    draws = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], (500, groups))
    found = [between(grouped(d[:, :1], d[:, 1:])) for d in draws]
    kept = [r for r in found if r.ci_low is not None and r.ci_high is not None]
    assert np.mean([r.ci_low <= truth <= r.ci_high for r in kept]) > 0.93  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_interval_within_methods_covers_zero_however_much_of_a_seed_the_methods_share(seeds: int, share: float) -> None:
    """share: how much of a run's deviation comes from its seed alone. Taking runs as independent would cover 60% at share 1, 5 seeds."""
    rng = np.random.default_rng(int(10 * share) + seeds)
    missed = 0
    for _ in range(300):
        x, y = (math.sqrt(share) * rng.normal(size=seeds) + math.sqrt(1 - share) * rng.normal(size=(4, seeds)) for _ in "xy")
        found = within(grouped(x, y))
        missed += found.ci_low is not None and found.ci_high is not None and not found.ci_low <= 0 <= found.ci_high
    assert missed / 300 < 0.09


def test_within_pays_a_degree_of_freedom_for_each_row() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 4))
    found = within(grouped(x, x + 2 * rng.normal(size=(20, 4))))
    assert found.rho is not None and found.ci_low is not None
    half = stats.norm.ppf(0.975) * math.sqrt((1 + found.rho**2 / 2) / (80 - 20 - 2))
    assert found.ci_low == pytest.approx(math.tanh(math.atanh(found.rho) - half))
