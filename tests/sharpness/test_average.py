"""L^Avg against rho² Tr H / (2d), its error bar against 200 seeds, and each pair against the loss by hand."""

import math

import numpy as np
import pytest
import torch
from sharpness_toys import fails_cleanly, hold_the_rules, measure, quadratic, random_problem
from torch import nn

from sam.sharpness.context import Context, Split
from sam.sharpness.settings import AverageConfig, SharpnessConfig

RHOS = [0.05, 0.5, 3.0]


def average(h: np.ndarray, g: np.ndarray, w: np.ndarray, rhos: list[float], draws: int, seed: int = 0) -> dict[str, float]:
    return measure("average", quadratic(h, g, w, rho=rhos, seed=seed, average=AverageConfig(draws=draws)))  # type: ignore[return-value]


def test_an_isotropic_bowl_is_exact_off_its_minimum_too() -> None:
    """Every direction has the same curvature, so that nothing is left to chance but the slope, which the pairs cancel."""
    _, g, w = random_problem()
    values = average(3 * np.eye(6), g, w, RHOS, 4)
    for rho in RHOS:
        assert values[f"average[rho={rho:g}]"] == pytest.approx(rho**2 * 18 / 12, rel=1e-10)
        assert values[f"average_stderr[rho={rho:g}]"] < 1e-11
    assert len(values) == 6


def test_a_linear_loss_does_not_rise_on_average() -> None:
    _, g, w = random_problem()
    values = average(np.zeros((6, 6)), 5 * g, w, RHOS, 4)
    assert all(abs(value) < 1e-12 for value in values.values())


class Bowl(nn.Module):
    """One sample of cross-entropy g'w + w'Hw/2 + 50 with a diagonal H: quick, for many seeds."""

    def __init__(self, diagonal: list[float], slope: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(slope), dtype=torch.float64))
        self.h, self.g = torch.tensor(diagonal, dtype=torch.float64), torch.tensor(slope, dtype=torch.float64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        q = 50 + (self.g + self.h * self.w / 2) @ self.w  # log(1 + exp(q)) = q to 1e-22
        return torch.stack([torch.zeros_like(q), q])[None]


@pytest.mark.slow
def test_the_error_bar_is_calibrated() -> None:
    """z over 200 seeds has mean 0 and, with 25 pairs, a standard deviation of sqrt(24 / 22) = 1.04."""
    diagonal, scores = [5.0, 3.0, 1.0, 0.5, 0.0, -1.0, -2.0, 2.0], []
    model, split = Bowl(diagonal, [1.0] * 8), Split(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
    for seed in range(200):
        context = Context(model, split, None, SharpnessConfig.of(rho=[0.5], seed=seed, average=AverageConfig(draws=25)))
        values = measure("average", context)
        scores.append((values["average[rho=0.5]"] - 0.25 * sum(diagonal) / 16) / values["average_stderr[rho=0.5]"])  # type: ignore[operator]
    assert abs(np.mean(scores)) < 0.22  # three standard errors
    assert 0.88 < np.std(scores, ddof=1) < 1.2


def test_all_radii_see_the_same_directions_whatever_the_list() -> None:
    h, g, w = random_problem()
    together = average(h, g, w, RHOS, 3)
    for rho in RHOS:
        assert {k: v for k, v in together.items() if f"={rho:g}]" in k} == average(h, g, w, [rho], 3)
        assert together[f"average[rho={rho:g}]"] / rho**2 == pytest.approx(together["average[rho=3]"] / 9, rel=1e-7)  # quadratic in rho


def test_each_pair_is_the_loss_by_hand() -> None:
    """The draws written out: the stream of the seed, normalised over all tensors together."""
    h, g, w = random_problem()
    context = quadratic(h, g, w, rho=[0.7], average=AverageConfig(draws=3))
    stream, rises = context.generator("average"), []
    for _ in range(3):
        z = torch.cat([torch.randn(p.shape, generator=stream, dtype=p.dtype).flatten() for p in context.model.parameters()]).numpy()
        rises.append(0.49 * z @ h @ z / (z @ z) / 2)
    values = measure("average", context)
    assert values["average[rho=0.7]"] == pytest.approx(np.mean(rises), rel=1e-10)
    assert values["average_stderr[rho=0.7]"] == pytest.approx(np.std(rises, ddof=1) / math.sqrt(3), rel=1e-9)
    other = average(h, g, w, [0.7], 3, seed=1)
    assert abs(other["average[rho=0.7]"] - values["average[rho=0.7]"]) > 1e-3  # type: ignore[operator]


class Cliff(nn.Module):
    """Cross-entropy 1 for w <= 1; not a number, or infinite, beyond."""

    def __init__(self, beyond: float) -> None:
        super().__init__()
        self.w, self.beyond = nn.Parameter(torch.zeros(3, dtype=torch.float64)), beyond

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        s = math.log(math.e - 1) + inputs * 0 + self.w.sum() * 0
        s = torch.where(self.w.norm() > 1, torch.full_like(s, self.beyond), s)
        return torch.stack([torch.zeros_like(s), s], dim=1)


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_never_a_number(beyond: float) -> None:
    config = SharpnessConfig.of(rho=[0.5, 2.0], average=AverageConfig(draws=2))
    context = Context(Cliff(beyond), Split(torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)), None, config)
    values = measure("average", context)
    assert values["average[rho=0.5]"] == pytest.approx(0.0, abs=1e-14)
    assert not math.isfinite(values["average[rho=2]"]) and not math.isfinite(values["average_stderr[rho=2]"])  # type: ignore[arg-type]


@pytest.mark.parametrize("subset", [None, 5])
def test_the_rules_of_measuring(subset: int | None) -> None:
    hold_the_rules("average", rho=[0.05, 0.5], average=AverageConfig(draws=3, subset=subset))
    fails_cleanly("average", rho=[0.05, 0.5], average=AverageConfig(draws=2, subset=subset))


def test_a_subset_is_said_in_the_name() -> None:
    h, g, w = random_problem()
    context = quadratic(h, g, w, rho=[0.5], average=AverageConfig(subset=4))
    assert set(measure("average", context)) == {"average[rho=0.5,subset=4]", "average_stderr[rho=0.5,subset=4]"}
