"""Means, intervals and paired tests against scipy and against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from sam.tables.statistics import fixed, paired_difference, paired_parts, summarize, summary_parts


def test_summary_by_hand() -> None:
    # mean 4, deviations -2, 0, 2: std = sqrt(8 / 2) = 2; t(0.975, 2) = 4.302653; half width = 4.302653 * 2 / sqrt(3)
    s = summarize([2.0, 4.0, 6.0])
    assert (s.n, s.mean, s.std, s.excluded) == (3, 4.0, 2.0, 0)
    assert s.ci_low == pytest.approx(4 - 4.968275, abs=1e-5)
    assert s.ci_high == pytest.approx(4 + 4.968275, abs=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_summary_against_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(97, 0.1, n)
    s = summarize(values.tolist())
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert s.mean == pytest.approx(values.mean())
    assert s.std == pytest.approx(values.std(ddof=1))
    assert (s.ci_low, s.ci_high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_spread() -> None:
    s = summarize([97.3])
    assert (s.n, s.mean, s.std, s.ci_low, s.ci_high) == (1, 97.3, None, None, None)
    assert summary_parts(s, 2) == ("97.30", "n = 1")


def test_missing_and_infinite_values_are_counted_not_averaged() -> None:
    s = summarize([1.0, None, math.nan, 3.0, math.inf])
    assert (s.n, s.mean, s.excluded) == (2, 2.0, 3)
    assert summary_parts(s, 1)[-1] == "3 without a finite value"
    nothing = summarize([None, math.nan])
    assert (nothing.n, nothing.mean, nothing.excluded) == (0, None, 2)
    assert summary_parts(nothing, 1) == ("not measured",)


def test_equal_values_have_exactly_no_spread() -> None:
    s = summarize([0.1, 0.1, 0.1])
    assert (s.mean, s.std, s.ci_low, s.ci_high) == (0.1, 0.0, 0.1, 0.1)


def test_paired_by_hand() -> None:
    # differences 1, 2, 3: mean 2, std 1, t = 2 sqrt(3) = 3.4641 with 2 degrees of freedom: p = 0.0742
    d = paired_difference({0: 11.0, 1: 22.0, 2: 33.0, 9: 5.0}, {0: 10.0, 1: 20.0, 2: 30.0, 7: 1.0})
    assert (d.n, d.mean, d.std, d.seeds, d.excluded) == (3, 2.0, 1.0, (0, 1, 2), 0)
    assert d.p == pytest.approx(0.0741799, abs=1e-6)


def test_paired_against_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(97, 0.2, 8), rng.normal(96.8, 0.2, 8)
    d = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
    reference = stats.ttest_rel(a, b)
    interval = reference.confidence_interval(0.95)
    assert d.mean == pytest.approx((a - b).mean())
    assert d.p == pytest.approx(reference.pvalue)
    assert (d.ci_low, d.ci_high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_planted_effect_is_found_under_a_large_seed_effect() -> None:
    """Seeds differ by 5 points and the method by 0.2: only pairing sees it, and the unpaired intervals overlap."""
    rng = np.random.default_rng(1)
    seed_effect = rng.normal(90, 5, 12)
    a = seed_effect + 0.2 + rng.normal(0, 0.05, 12)
    d = paired_difference(dict(enumerate(a)), dict(enumerate(seed_effect)))
    assert d.ci_low is not None and d.ci_high is not None and d.p is not None
    assert 0 < d.ci_low < 0.2 < d.ci_high < 0.4 and d.p < 1e-4
    assert stats.ttest_ind(a, seed_effect).pvalue > 0.5


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    draws = [paired_difference(dict(enumerate(rng.normal(0.3, 1, 4))), dict.fromkeys(range(4), 0.0)) for _ in range(1500)]
    covered = np.mean([d.ci_low <= 0.3 <= d.ci_high for d in draws])  # type: ignore[operator]
    assert 0.93 < covered < 0.97


def test_equal_differences_have_no_p() -> None:
    d = paired_difference({0: 97.1, 1: 96.4}, {0: 97.0, 1: 96.3})  # 0.1 twice, apart in the last bits
    assert (d.n, d.std, d.p) == (2, 0.0, None)
    assert d.ci_low == d.mean == d.ci_high == pytest.approx(0.1)
    assert paired_parts(d, 2)[-1] == "n = 2, all equal"
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).mean == 0.0


def test_small_differences_are_not_taken_for_equal() -> None:
    d = paired_difference({0: 1e-3 + 1e-12, 1: 1e-3 + 3e-12}, {0: 1e-3, 1: 1e-3})
    assert d.p is not None and d.std == pytest.approx(math.sqrt(2) * 1e-12, rel=1e-3)


def test_too_few_pairs() -> None:
    one = paired_difference({0: 2.0, 1: 1.0}, {0: 1.5, 5: 0.0})
    assert (one.n, one.mean, one.std, one.ci_low, one.p) == (1, 0.5, None, None, None)
    none = paired_difference({0: 2.0}, {1: 1.5})
    assert (none.n, none.mean, none.p) == (0, None, None)
    assert paired_parts(none, 2) == ("no common seed",)
    lost = paired_difference({0: 2.0, 1: math.nan, 2: 4.0}, {0: 1.0, 1: 1.0, 2: None})
    assert (lost.n, lost.mean, lost.excluded, lost.seeds) == (1, 1.0, 2, (0,))


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(97.296, 2, "97.30"), (0.003, 2, "0.003"), (-0.004, 2, "-0.004"), (0.0, 2, "0.00"), (3.21e-5, 2, "3.2e-05"), (0.005, 2, "0.01")],
)
def test_fixed_never_turns_a_number_into_zero(value: float, digits: int, text: str) -> None:
    assert fixed(value, digits) == text
