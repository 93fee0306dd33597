"""Means, intervals and paired tests against scipy and against numbers worked out by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special, stats

from sam.tables.statistics import decimals, fixed, p_short, paired_difference, paired_parts, rounded, summarize, summary_parts


def test_summary_by_hand() -> None:
    # mean 4, deviations -2, 0, 2: std = sqrt(8 / 2) = 2; t(0.975, 2) = 4.302653; half width = 4.302653 * 2 / sqrt(3)
    s = summarize([2.0, 4.0, 6.0])
    assert (s.n, s.mean, s.std, s.excluded) == (3, 4.0, 2.0, 0)
    assert s.ci_low == pytest.approx(4 - 4.968275, abs=1e-5)
    assert s.ci_high == pytest.approx(4 + 4.968275, abs=1e-5)


@pytest.mark.parametrize("n", [3, 5, 20])
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
    three = paired_difference({0: 97.1, 1: 96.4, 2: 95.0}, {0: 97.0, 1: 96.3, 2: 94.9})
    assert all(found.mean == pytest.approx(0.1) and found.ci_low is found.ci_high is None for found in (d, three))
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


# ------------------------------------------------------------------------------------------------------------- scales of intervals


@pytest.mark.parametrize(("scale", "there", "back"), [("log", np.log, np.exp), ("logit", special.logit, special.expit)])
def test_interval_on_a_scale_is_scipys_of_the_transformed_values(scale: str, there: Callable, back: Callable) -> None:
    values = np.array([99.1, 99.8, 99.95, 97.0])
    unit = 100 if scale == "logit" else 1
    moved = there(values / unit)
    low, high = back(np.array(stats.t.interval(0.95, 3, loc=moved.mean(), scale=stats.sem(moved)))) * unit
    s = summarize(values.tolist(), scale)
    assert (s.ci_low, s.ci_high, s.scale) == (pytest.approx(low), pytest.approx(high), scale)
    assert s.mean == pytest.approx(values.mean()) and s.std == pytest.approx(values.std(ddof=1))  # these stay as they are
    assert summarize(values.tolist()).ci_high > 100  # type: ignore[operator]  # where Student's t leaves what is possible
    assert s.ci_high is not None and (scale == "log" or s.ci_high < 100)


def test_positive_measures_have_positive_intervals_at_any_spread() -> None:
    s = summarize([0.001, 0.5, 20.0], "log")
    assert s.ci_low is not None and 0 < s.ci_low < 0.001 and summarize([0.001, 0.5, 20.0]).ci_low < 0  # type: ignore[operator]
    below = summarize([-0.001, 0.5, 20.0], "log")
    assert below.scale == "" and below.ci_low == summarize([-0.001, 0.5, 20.0]).ci_low


def test_accuracy_in_another_unit_has_the_same_interval() -> None:
    percent, share = summarize([97.0, 98.0, 98.5], "logit"), summarize([0.97, 0.98, 0.985], "logit", top=1.0)
    assert (share.ci_low, share.ci_high) == (pytest.approx((percent.ci_low or 0) / 100), pytest.approx((percent.ci_high or 0) / 100))


def test_where_no_interval_can_be_given_the_range_is() -> None:
    assert summary_parts(summarize([97.1, 97.5], "logit"), 2) == ("97.30 ± 0.28", "97.10 to 97.50", "n = 2")
    assert summary_parts(summarize([100.0, 99.9, 99.8], "logit"), 2) == ("99.90 ± 0.10", "99.80 to 100.00", "n = 3")
    assert paired_parts(paired_difference({0: 2.0, 1: 4.0}, {0: 1.0, 1: 1.0}), 1)[:2] == ("+2.0", "+1.0 to +3.0")
    assert summary_parts(summarize([100.0] * 3, "logit"), 2) == ("100.00", "all seeds equal", "n = 3")


# ---------------------------------------------------------------------------------------------------------------- honest digits


@pytest.mark.parametrize(
    ("spread", "digits", "shown"),
    [(0.26, 2, 2), (0.04, 2, 2), (1.24, 2, 1), (12.4, 2, 0), (543.0, 2, 0), (0.0123, 4, 3), (0.00003, 4, 6), (1e-9, 4, 4), (None, 2, 2)],
)
def test_decimals_by_the_spread(spread: float | None, digits: int, shown: int) -> None:
    assert decimals(spread, digits) == shown


def test_mean_and_spread_have_the_same_decimals() -> None:
    assert summary_parts(summarize([100.0, 600.0, 1400.0]), 2)[0] == "700 ± 656"
    assert summary_parts(summarize([0.00120, 0.00123, 0.00129]), 4)[0] == "0.001240 ± 0.000046"
    assert summary_parts(summarize([1.0, 1.0 + 1e-9]), 3)[0] == "1.000 ± 7.1e-10"
    assert summary_parts(summarize([1e-9, 3e-9]), 3)[0] == "2e-09 ± 1.4e-09"


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert [rounded(v, 2, sign=True) for v in (-0.004, -0.0, 0.004, -0.006, 0.006)] == ["0.00", "0.00", "0.00", "-0.01", "+0.01"]
    equal = paired_difference({0: 97.1 + 0.2, 1: 96.4}, {0: 97.3, 1: 96.4})  # 1e-14 apart
    assert equal.mean == 0 and paired_parts(equal, 2) == ("0.00", "n = 2, all equal")


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.1234, "p 0.12"),
        (0.048, "p 0.048"),
        (0.0504, "p 0.0504"),
        (0.0496, "p 0.0496"),
        (0.05, "p 0.05"),
        (2.1e-5, "p 2e-5"),
        (3e-12, "p 3e-12"),
        (1.0, "p 1"),
    ],
)
def test_short_p(p: float, text: str) -> None:
    assert p_short(p) == text


def test_seeds_without_a_value_are_no_missing_seeds() -> None:
    assert paired_parts(paired_difference({0: None, 1: 2.0}, {0: 1.0, 1: None}), 2) == ("–",)
    assert paired_parts(paired_difference({0: 1.0}, {1: 1.0}), 2) == ("no common seed",)
