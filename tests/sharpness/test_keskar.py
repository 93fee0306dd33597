"""Keskar's sharpness against closed forms in the box: linear, convex (corners) and concave losses, and what L-BFGS-B adds."""

import math

import numpy as np
import pytest
import torch
from sharpness_toys import OFFSET, fails_cleanly, hold_the_rules, measure, net_context, network, quadratic, random_problem, rise
from torch import nn

from sam.sharpness.context import Context, Sizes, Split
from sam.sharpness.keskar import work
from sam.sharpness.settings import KeskarConfig, SharpnessConfig

W = np.array([0.0, 1.5, 0.0, -2.0, 0.3, -0.01])
SIZE = np.abs(W) + 1


def base(h: np.ndarray, g: np.ndarray) -> float:
    """L(W) of the toy: its Hessian is h and its gradient at W is g."""
    return OFFSET + float(W @ h @ W / 2 + (g - h @ W) @ W)


def keskar(h: np.ndarray, g: np.ndarray, **settings: object) -> dict[str, float]:
    return measure("keskar", quadratic(h, g, W, n=4, keskar=KeskarConfig(**settings)))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("iterations", [1, 10])
def test_a_linear_loss_rises_to_the_corner(iterations: int) -> None:
    """100 E sum |g_i| (|w_i| + 1) / (1 + L), exactly zero weights included: their side of the box is E."""
    h, g = np.zeros((6, 6)), random_problem()[1]
    values = keskar(h, g, epsilon=[1e-3, 0.5], iterations=iterations)
    for epsilon in (1e-3, 0.5):
        expected = 100 * epsilon * (np.abs(g) * SIZE).sum() / (1 + base(h, g))
        assert values[f"keskar[epsilon={epsilon:g}]"] == pytest.approx(expected, rel=1e-9)
        assert values[f"keskar_sign[epsilon={epsilon:g}]"] == pytest.approx(expected, rel=1e-9)
        assert 0.3 * expected < values[f"keskar_lbfgsb[epsilon={epsilon:g}]"] <= expected * (1 + 1e-9)
    assert len(values) == 8


def test_a_convex_loss_has_its_maximum_at_a_corner() -> None:
    h, g, _ = random_problem(seed=2)
    h = h @ h + np.eye(6)
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T * 0.5 * SIZE
    brute = max(rise(h, g, corner) for corner in corners)
    values = keskar(h, g, epsilon=[0.5], iterations=30, restarts=6)
    assert values["keskar[epsilon=0.5]"] == pytest.approx(100 * brute / (1 + base(h, g)), rel=1e-9)


def test_a_hill_in_the_box_is_found_by_the_quasi_newton_search() -> None:
    """Signs jump from side to side of the top, and say so; L-BFGS-B finds it: without it the value would be too low."""
    h = -np.diag([8.0, 5.0, 3.0, 2.0, 1.0, 4.0])
    top = 0.4 * SIZE * np.array([1, -0.3, 0.7, 0.2, -0.9, 0.5])  # inside the box of 0.5
    g = -h @ top
    expected = 100 * rise(h, g, top) / (1 + base(h, g))
    values = keskar(h, g, epsilon=[0.5], iterations=20)
    assert values["keskar[epsilon=0.5]"] == pytest.approx(expected, rel=1e-7)
    assert values["keskar_lbfgsb[epsilon=0.5]"] == values["keskar[epsilon=0.5]"]
    assert values["keskar_sign[epsilon=0.5]"] < 0.9999 * expected
    alone = keskar(h, g, epsilon=[0.5], iterations=20, full_space=5)
    assert alone["keskar_lbfgsb[epsilon=0.5]"] is None
    assert alone["keskar[epsilon=0.5]"] == alone["keskar_sign[epsilon=0.5]"] == values["keskar_sign[epsilon=0.5]"]
    larger = keskar(h, g, epsilon=[1.2, 0.5], iterations=1, restarts=0)  # one step to the far corner fails, and is no loss
    assert larger["keskar_sign[epsilon=1.2]"] < 0
    assert larger["keskar[epsilon=1.2]"] >= larger["keskar[epsilon=0.5]"] > 0


def test_every_point_lies_in_the_box_and_no_more_are_evaluated_than_were_foretold() -> None:
    h, g, _ = random_problem(seed=1)
    context, met, done = quadratic(h, 20 * g, W, keskar=KeskarConfig(epsilon=[0.5], iterations=3)), [], []
    context.progress = done.append
    context.model.register_forward_hook(lambda m, *_: met.append(torch.cat([p.detach().flatten() for p in m.parameters()]).numpy()))
    measure("keskar", context)
    relative = np.abs(np.array(met) - W) / SIZE
    assert 0.49 < relative.max() <= 0.5 * (1 + 1e-12)
    assert sum(done) == work(Sizes(7, 0, 6), context.config) == 7 * (3 + (3 * 2 + 1) + (3 * 3 + 1) + 3 * 6)


def test_a_search_that_goes_astray_is_cut_off() -> None:
    """A loss whose gradient points the wrong way: every line search fails, after 20 evaluations if nobody stops it."""

    class Liar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            s = inputs * (2 * self.w.detach() - self.w).sum()
            return torch.stack([torch.zeros_like(s), s], dim=1)

    done: list[float] = []
    split = Split(torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))
    config = SharpnessConfig.of(keskar=KeskarConfig(epsilon=[0.1], iterations=4))
    values = measure("keskar", Context(Liar(), split, None, config, progress=done.append))
    assert values["keskar_lbfgsb[epsilon=0.1]"] < 0  # type: ignore[operator]
    assert sum(done) == work(Sizes(5, 0, 3), config) and min(done) >= 0


def test_where_the_gradient_is_zero_random_starts_remain() -> None:
    h, done = np.diag([1.0, 2.0, 3.0, 1.0, 1.0, 1.0]), []
    context = quadratic(h, np.zeros(6), np.zeros(6), keskar=KeskarConfig(epsilon=[0.1]))
    context.train.inputs[:, :, -1], context.progress = 0, done.append
    values = measure("keskar", context)
    assert values["keskar_lbfgsb[epsilon=0.1]"] is None and values["keskar_spread[epsilon=0.1]"] is None
    assert values["keskar[epsilon=0.1]"] == pytest.approx(100 * 0.01 * 9 / 2 / (1 + OFFSET), rel=1e-9)  # any corner
    assert sum(done) == work(Sizes(7, 0, 6), context.config)


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_never_a_number(beyond: float) -> None:
    class Cliff(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            s = inputs * self.w.sum()
            right = -s if (self.w.detach() - 1).abs().max() < 1 else torch.full_like(s, -beyond)
            return torch.stack([right, s], dim=1)

    done: list[float] = []
    split = Split(torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))
    config = SharpnessConfig.of(keskar=KeskarConfig(epsilon=[1.0, 0.1]))
    values = measure("keskar", Context(Cliff(), split, None, config, progress=done.append))
    for kind in ("keskar", "keskar_lbfgsb", "keskar_sign"):
        assert math.isfinite(values[f"{kind}[epsilon=0.1]"])  # type: ignore[arg-type]
        value = values[f"{kind}[epsilon=1]"]
        assert math.isnan(value) if math.isnan(beyond) else value == math.inf  # type: ignore[arg-type]
    assert sum(done) == work(Sizes(5, 0, 3), config)


@pytest.mark.parametrize("subset", [None, 5])
def test_the_rules_of_measuring(subset: int | None) -> None:
    settings = KeskarConfig(epsilon=[0.02, 0.01], iterations=3, subset=subset)
    hold_the_rules("keskar", keskar=settings)
    hold_the_rules("keskar", keskar=KeskarConfig(epsilon=[0.02], iterations=3, full_space=10, subset=subset))
    fails_cleanly("keskar", keskar=settings)
    said = ",subset=5" if subset else ""
    assert f"keskar[epsilon=0.02{said}]" in measure("keskar", net_context(keskar=settings))


def test_single_precision_and_frozen_weights() -> None:
    net = network().float()
    context = net_context(net, keskar=KeskarConfig(epsilon=[0.02], subset=None))
    context.prepare = lambda x: (x.float() / 255 - 0.5) / 0.3
    frozen = net[6].weight.detach().clone()
    seen = []
    net.register_forward_hook(lambda m, *_: seen.append(torch.equal(m[6].weight, frozen)))
    values, exact = measure("keskar", context), measure("keskar", net_context(keskar=KeskarConfig(epsilon=[0.02], subset=None)))
    assert all(seen)
    assert values["keskar[epsilon=0.02]"] == pytest.approx(exact["keskar[epsilon=0.02]"], rel=0.05)
    assert values["keskar[epsilon=0.02]"] > 1  # type: ignore[operator]
