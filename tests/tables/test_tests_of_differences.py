"""Holm, Welch, equivalence and detectable differences against scipy.stats, against numbers worked out by hand, and against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from sam.tables.statistics import Paired, equivalence, holm, paired_difference, smallest_detectable, welch


def seeded(values: np.ndarray) -> dict[int, float | None]:
    return {seed: float(v) for seed, v in enumerate(values)}


def difference(values: np.ndarray) -> Paired:
    return paired_difference(seeded(values), seeded(np.zeros(len(values))))


# --------------------------------------------------------------------------------------------------------------------- Holm


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.04 times 3, 2, 1 is 0.03, 0.04, 0.04
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    # 0.01 * 4 = 0.04, 0.03 * 3 = 0.09, 0.04 * 2 = 0.08 (raised to 0.09), 0.5
    assert holm([0.01, 0.03, 0.04, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.7, 0.9]) == [1.0, 1.0]


def test_holm_of_ties_and_of_tests_that_were_not_made() -> None:
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06, 0.06, 0.06])
    assert holm([None, 0.02, None, 0.03]) == [None, pytest.approx(0.04), None, pytest.approx(0.04)]  # two tests, not four
    assert holm([0.3]) == [0.3] and holm([]) == [] and holm([None]) == [None]


# -------------------------------------------------------------------------------------------------------------------- Welch


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 3), (3, 7), (20, 5)])
def test_welch_is_scipys(n: int, m: int) -> None:
    rng = np.random.default_rng(n * m)
    a, b = rng.normal(97, 0.5, n), rng.normal(96.7, 0.1, m)
    reference, found = stats.ttest_ind(a, b, equal_var=False), welch(a.tolist(), b.tolist())
    assert found is not None and found.p == pytest.approx(reference.pvalue) and found.df == pytest.approx(reference.df)


def test_welch_needs_two_values_each_and_some_spread() -> None:
    assert welch([1.0], [1.0, 2.0]) is None and welch([1.0, None], [1.0, 2.0]) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None
    assert welch([1.0, 1.0], [2.0, 3.0]) is not None


# -------------------------------------------------------------------------------------------------------------- equivalence


@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.1, 0.6])
def test_equivalence_is_two_one_sided_tests(shift: float) -> None:
    values = np.random.default_rng(5).normal(shift, 0.2, 6)
    found = equivalence(difference(values), 0.5, 0.05)
    above = stats.ttest_1samp(values, -0.5, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 0.5, alternative="less").pvalue
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert found.p == pytest.approx(max(above, below)) and found.shown == (max(above, below) <= 0.05)
    assert (found.ci_low, found.ci_high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.shown == (interval.low > -0.5 and interval.high < 0.5)


def test_equivalence_is_wrong_at_the_margin_as_often_as_alpha() -> None:
    """The difference is exactly the margin: equivalence is false, and shown in 5% of samples of any size."""
    rng = np.random.default_rng(6)
    for truth in (-0.5, 0.5):
        shown = [equivalence(difference(rng.normal(truth, 0.1, 5)), 0.5, 0.05).shown for _ in range(2000)]
        assert np.mean(shown) == pytest.approx(0.05, abs=0.015)  # three standard errors


def test_equivalence_needs_a_spread() -> None:
    for values in ([0.1], [0.1, 0.1, 0.1]):
        found = equivalence(difference(np.array(values)), 0.5, 0.05)
        assert found.p is None and not found.shown


# -------------------------------------------------------------------------------------------------------------------- power


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
def test_detectable_difference_has_the_power_it_is_named_for(n: int, alpha: float) -> None:
    found = smallest_detectable(0.3, n, alpha, 0.8)
    assert found is not None
    shift, critical = found * math.sqrt(n) / 0.3, stats.t.ppf(1 - alpha / 2, n - 1)
    assert stats.nct.sf(critical, n - 1, shift) == pytest.approx(0.8, abs=1e-5)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_detectable_difference_is_found_that_often_in_simulation(n: int) -> None:
    truth = smallest_detectable(0.3, n, 0.05, 0.8)
    assert truth is not None
    draws = np.random.default_rng(7).normal(truth, 0.3, (20_000, n))
    p = stats.ttest_1samp(draws, 0.0, axis=1).pvalue
    assert np.mean(p <= 0.05) == pytest.approx(0.8, abs=0.009)  # three standard errors


def test_no_detectable_difference_without_a_spread() -> None:
    assert smallest_detectable(None, 1, 0.05, 0.8) is None and smallest_detectable(0.0, 3, 0.05, 0.8) is None
