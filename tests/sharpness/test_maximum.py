"""L^Max against the trust-region solution by a dense eigendecomposition, against brute force, and against every point it must cover."""

import math

import numpy as np
import pytest
import torch
from sharpness_toys import fails_cleanly, hold_the_rules, measure, quadratic, random_problem, rise, trust_region
from torch import nn

from sam.config import ConfigError
from sam.sharpness.context import Context, Sizes, Split
from sam.sharpness.maximum import work
from sam.sharpness.projected_ascent import Ball, Search, ascend, ascents, checkpoints, search_balls
from sam.sharpness.settings import MaximumConfig, NStepConfig, SharpnessConfig

THOROUGH = MaximumConfig(steps=100, restarts=1)


def maximum(h: np.ndarray, g: np.ndarray, w: np.ndarray, rhos: list[float], settings: MaximumConfig = THOROUGH) -> dict[str, float]:
    return measure("maximum", quadratic(h, g, w, n=4, rho=rhos, maximum=settings))  # type: ignore[return-value]


def rotated(eigenvalues: list[float], seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    q = np.linalg.qr(np.random.RandomState(seed).randn(len(eigenvalues), len(eigenvalues)))[0]
    return q @ np.diag(eigenvalues) @ q.T, q


CASES = {
    "indefinite": ([-2.0, -1.0, 0.0, 0.5, 2.0, 4.0], 1.0),
    "convex": ([0.1, 0.2, 0.5, 1.0, 2.0, 3.0], 0.5),
    "concave": ([-4.0, -3.0, -2.5, -2.0, -1.5, -1.0], 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_off_a_minimum_it_is_the_trust_region_solution(case: str) -> None:
    eigenvalues, slope = CASES[case]
    h, g = rotated(eigenvalues)[0], slope * np.random.RandomState(0).randn(6)
    values = maximum(h, g, np.random.RandomState(9).randn(6), [0.05, 0.5, 3.0])
    for rho in (0.05, 0.5, 3.0):
        assert values[f"maximum[rho={rho:g}]"] == pytest.approx(trust_region(h, g, rho), rel=1e-5)
        assert values[f"maximum[rho={rho:g}]"] <= trust_region(h, g, rho) * (1 + 1e-9)  # a lower bound


def test_at_a_minimum_it_is_half_the_top_curvature() -> None:
    h = rotated([0.0, 0.1, 0.5, 1.0, 2.0, 3.0])[0]
    for w in (np.zeros(6), np.random.RandomState(9).randn(6)):  # the gradient is zero, or a rounding error
        values = maximum(h, np.zeros(6), w, [0.05, 2.0])
        assert values["maximum[rho=0.05]"] == pytest.approx(0.0025 * 1.5, rel=1e-5)
        assert values["maximum[rho=2]"] == pytest.approx(4 * 1.5, rel=1e-5)


def test_the_hard_case() -> None:
    """The gradient has no part along the top direction, so that no ascent from w finds it; the solution is not unique."""
    h, q = rotated([-1.0, 0.0, 0.5, 1.0, 2.0, 4.0])
    g = q[:, :5] @ np.array([0.3, -0.2, 0.1, 0.4, 0.2])
    assert trust_region(h, g, 1.0) > rise(h, g, q[:, 5]) > 1.9  # better than the top direction alone
    values = maximum(h, g, np.zeros(6), [0.05, 1.0], MaximumConfig(steps=200, restarts=1))
    for rho in (0.05, 1.0):
        assert values[f"maximum[rho={rho:g}]"] == pytest.approx(trust_region(h, g, rho), rel=1e-5)


def test_where_the_gradient_is_zero_random_starts_and_draws_remain() -> None:
    h, w = rotated([0.0, 0.1, 0.5, 1.0, 2.0, 3.0])[0], np.zeros(6)
    context = quadratic(h, np.zeros(6), w, rho=[1.0], maximum=MaximumConfig(restarts=0))
    context.train.inputs[:, :, -1] = 0  # exactly
    values = measure("maximum", context)
    assert values["maximum_ascent[rho=1]"] is None and values["maximum_spread[rho=1]"] is None
    assert 0 < values["maximum[rho=1]"] < 1.5  # type: ignore[operator]
    context.config = SharpnessConfig.of(rho=[1.0], maximum=MaximumConfig(restarts=1, steps=100))
    values = measure("maximum", context)
    assert values["maximum_ascent[rho=1]"] == pytest.approx(1.5, rel=1e-5) and values["maximum_spread[rho=1]"] is None


def test_a_linear_loss_rises_by_rho_times_its_slope() -> None:
    _, g, w = random_problem()
    for steps in (1, 20):  # one step is not damped by momentum
        values = maximum(np.zeros((6, 6)), g, w, [0.05, 1.0], MaximumConfig(steps=steps, restarts=0, draws=0, ascent_steps=1))
        for rho in (0.05, 1.0):
            assert values[f"maximum_ascent[rho={rho:g}]"] == pytest.approx(rho * np.linalg.norm(g), rel=1e-10)


class Logistic(nn.Module):
    """Two classes, two weights: the cross-entropy of logits (0, w'x)."""

    def __init__(self, w: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        s = inputs @ self.w
        return torch.stack([torch.zeros_like(s), s], dim=1)


@pytest.mark.parametrize("rho", [0.3, 2.0])
def test_a_cross_entropy_against_brute_force(rho: float) -> None:
    draw = np.random.RandomState(4)
    x, y, w = draw.randn(11, 2), draw.randint(2, size=11), np.array([0.7, -0.4])
    context = Context(
        Logistic(w.tolist()),
        Split(torch.from_numpy(x), torch.from_numpy(y)),
        None,
        SharpnessConfig.of(rho=[rho], maximum=THOROUGH, batch_size=4),
    )

    def losses(points: np.ndarray) -> np.ndarray:
        s = points @ x.T
        return np.logaddexp(0, np.where(y == 1, -s, s)).mean(axis=1)

    angle = np.linspace(0, 2 * np.pi, 200_001)  # a convex loss has its maximum on the circle
    brute = losses(w + rho * np.stack([np.cos(angle), np.sin(angle)], axis=1)).max() - losses(w[None])[0]
    assert measure("maximum", context)[f"maximum[rho={rho:g}]"] == pytest.approx(brute, rel=1e-7)


@pytest.mark.parametrize("steps", [1, 3])
def test_it_covers_every_other_notions_point(steps: int) -> None:
    """Whatever the ascents do: with one step of theirs, the other points decide, the smaller radius included."""
    for seed in range(6):
        h, g, w = random_problem(seed=seed)
        rhos = [2.0, 0.1, 0.5]  # in any order
        settings = MaximumConfig(steps=steps, restarts=0, ascent_steps=4, draws=3)
        context = quadratic(h, g, w, rho=rhos, maximum=settings, n_step=NStepConfig(steps=[1, 4], rules=["project"]))
        values, chain = measure("maximum", context), measure("n_step", context)
        below = 0.0
        for rho in sorted(rhos):
            value: float = values[f"maximum[rho={rho:g}]"]  # type: ignore[assignment]
            others = [chain[f"n_step[rho={rho:g},n={n},rule=project]"] for n in (1, 4)]
            others.append(values[f"maximum_ascent[rho={rho:g}]"])
            for k in range(3):
                stream = context.generator(f"maximum draw {k}")
                z = torch.cat([torch.randn(p.shape, generator=stream, dtype=p.dtype).flatten() for p in context.model.parameters()]).numpy()
                others += [rise(h, g, sign * rho * z / np.linalg.norm(z)) for sign in (1, -1)]
            assert all(value >= other - 1e-11 for other in others if other is not None)  # the tolerance is for rounding by hand
            assert value >= below >= 0
            assert value == pytest.approx(max(below, *(other for other in others if other is not None)), abs=1e-10)
            below = value


def test_a_failed_ascent_is_visible() -> None:
    """On the narrow top of a hill every direction leads down: the maximum is w itself, and what the ascent found says so."""
    h, g = -np.diag([50.0, 40.0, 30.0, 20.0, 10.0, 5.0]), 1e-3 * np.ones(6)
    settings = MaximumConfig(steps=1, restarts=0, draws=1)
    values = maximum(h, g, np.zeros(6), [1.0], settings)
    assert values["maximum[rho=1]"] == 0
    assert values["maximum_ascent[rho=1]"] < -2
    assert 0 < maximum(h, g, np.zeros(6), [1.0, 1e-5], settings)["maximum[rho=1]"] < 1e-7  # what the smaller radius found counts


def auto_pgd(h: np.ndarray, g: np.ndarray, begin: np.ndarray, steps: int, momentum: float) -> list[float]:
    """Croce & Hein 2020, Algorithm 1, for g'e + e'He/2 in the Euclidean unit ball; a direction is a gradient of norm 1."""

    def project(x: np.ndarray) -> np.ndarray:
        return x / max(1.0, np.linalg.norm(x))

    def direction(x: np.ndarray) -> np.ndarray:
        slope = g + h @ x
        return slope / np.linalg.norm(slope)

    iterates, values, eta, best, etas, bests = [begin], [rise(h, g, begin)], 2.0, begin, [2.0], [rise(h, g, begin)]
    last, mark, rising = None, 0, 0  # last: x_(k-1), None where there is nothing to carry on
    for k in range(1, steps + 1):
        x = iterates[-1]
        z = project(x + eta * direction(x))
        new = z if last is None else project(x + (1 - momentum) * (z - x) + momentum * (x - last))
        rising += rise(h, g, new) > rise(h, g, x)
        values.append(rise(h, g, new))
        best = new if values[-1] > rise(h, g, best) else best
        last = x
        iterates.append(new)
        if k in checkpoints(steps):
            first = rising < 0.75 * (k - mark)
            second = etas[-1] == eta and len(etas) > 1 and etas[-2] == eta and bests[-1] == rise(h, g, best)
            second = second or (len(etas) == 1 and bests[-1] == rise(h, g, best))
            etas.append(eta / 2 if first or second else eta)
            bests.append(rise(h, g, best))
            if first or second:
                eta, last = eta / 2, None
                iterates.append(best)
            mark, rising = k, 0
    return values


@pytest.mark.parametrize("seed", range(4))
def test_the_ascent_is_auto_pgd_step_by_step(seed: int) -> None:
    """After going back to its best point it does go on from there: on a hill in the ball (odd seeds) it overshoots and must."""
    h, g, w = random_problem(seed=seed)
    h, g = (-h @ h - np.eye(6), g) if seed % 2 else (h, g / 10)
    loss, begin = quadratic(h, g, w).loss(), np.random.RandomState(seed).randn(6) / 6
    with loss.around() as here:
        u = [torch.from_numpy(begin[:2].copy()), torch.from_numpy(begin[2:].copy().reshape(-1, 1))]
        zero, ball = [torch.zeros_like(p) for p in here.start], Ball("l2", 1.0)
        from_w, _ = ascend(here, ball, zero, (here.value.loss, here.gradient), steps=40, momentum=0.25)
        ball.move(here, u)
        there, gradient = loss.value_and_gradient()
        elsewhere, _ = ascend(here, ball, u, (there.loss, gradient), steps=40, momentum=0.25)
    assert np.array(from_w) - here.value.loss == pytest.approx(np.array(auto_pgd(h, g, np.zeros(6), 40, 0.25)), abs=1e-9)
    assert np.array(elsewhere) - here.value.loss == pytest.approx(np.array(auto_pgd(h, g, begin, 40, 0.25)), abs=1e-9)


def test_a_random_direction_is_looked_at_both_ways() -> None:
    _, g, w = random_problem()
    search = Search(steps=1, momentum=0.0, restarts=0, draws=1)
    with quadratic(np.zeros((6, 6)), g, w).loss().around() as here:
        here.gradient = [torch.zeros_like(p) for p in here.start]  # as if w had no gradient: the draw is all there is
        for k in range(6):
            stream = lambda name, k=k: torch.Generator().manual_seed(k)
            (found,) = search_balls(here, [Ball("l2", 0.5)], search, stream)
            generator = torch.Generator().manual_seed(k)
            z = torch.cat([torch.randn(p.shape, generator=generator, dtype=p.dtype).flatten() for p in here.start]).numpy()
            assert found.rise == pytest.approx(0.5 * abs(g @ z) / np.linalg.norm(z), rel=1e-9)
            assert found.ascent is None and found.spread is None


class Cliff(nn.Module):
    """Cross-entropy 4 + w_1 near w = 0; not a number, or infinite, farther than 1."""

    def __init__(self, beyond: float) -> None:
        super().__init__()
        self.w, self.beyond = nn.Parameter(torch.zeros(3, dtype=torch.float64)), beyond

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        s = torch.log(torch.expm1(4 + self.w[0] * inputs))
        right = torch.zeros_like(s) if self.w.detach().norm() <= 1 else torch.full_like(s, -self.beyond)
        return torch.stack([right, s], dim=1)


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_never_a_number(beyond: float) -> None:
    done: list[float] = []
    config = SharpnessConfig.of(rho=[2.0, 0.5, 3.0])
    data = Split(torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))
    values = measure("maximum", Context(Cliff(beyond), data, None, config, progress=done.append))
    assert values["maximum[rho=0.5]"] == pytest.approx(0.5, rel=1e-9)
    for rho in (2, 3):
        for name in ("maximum", "maximum_ascent"):
            value = values[f"{name}[rho={rho}]"]
            assert math.isnan(value) if math.isnan(beyond) else value == math.inf  # type: ignore[arg-type]
    assert sum(done) == work(Sizes(5, 0), config)  # though every ascent ended early


def test_a_network_without_errors_still_has_its_rise() -> None:
    """Every sample is right by a wide margin, at w and after the move: the rise is that of the loss, not of the error."""
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [1.1, -0.1]], dtype=torch.float64)
    context = Context(Logistic([4.0, 0.0]), Split(x, torch.ones(3, dtype=torch.int64)), None, SharpnessConfig.of(rho=[0.5]))
    at_w = torch.nn.functional.softplus(-(x @ torch.tensor([4.0, 0.0], dtype=torch.float64))).mean().item()
    angle = np.linspace(0, 2 * np.pi, 100_001)
    moved = np.array([[4.0, 0.0]]) + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    brute = np.logaddexp(0, -(moved @ x.numpy().T)).mean(axis=1).max() - at_w
    assert brute > 0
    assert measure("maximum", context)["maximum[rho=0.5]"] == pytest.approx(brute, rel=1e-7)


def test_the_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]  # Croce & Hein 2020, Eq. 3
    assert checkpoints(1) == [1]


@pytest.mark.parametrize("subset", [None, 5])
def test_the_rules_of_measuring(subset: int | None) -> None:
    hold_the_rules("maximum", rho=[0.5, 0.05], maximum=MaximumConfig(steps=6, subset=subset))
    fails_cleanly("maximum", rho=[0.5, 0.05], maximum=MaximumConfig(steps=4, subset=subset))


def test_a_subset_is_said_in_the_name() -> None:
    h, g, w = random_problem()
    values = measure("maximum", quadratic(h, g, w, rho=[0.5], maximum=MaximumConfig(steps=2, subset=4)))
    assert set(values) == {f"maximum{kind}[rho=0.5,subset=4]" for kind in ("", "_ascent", "_spread")}


@pytest.mark.parametrize("settings", [{"steps": 0}, {"momentum": 1.0}, {"restarts": -1}, {"ascent_steps": 0}, {"draws": -1}, {"subset": 0}])
def test_settings_that_cannot_be_used_are_refused_by_name(settings: dict[str, float]) -> None:
    (key,) = settings
    with pytest.raises(ConfigError, match=rf"^sharpness\.maximum\.{key}="):
        MaximumConfig(**settings)  # type: ignore[arg-type]


def test_the_spread_is_what_the_worst_ascent_lacks() -> None:
    h, g, w = random_problem()
    search, ball = Search(steps=2, momentum=0.0, restarts=2), Ball("l2", 1.0)
    stream = lambda name: torch.Generator().manual_seed(sum(map(ord, name)))
    with quadratic(h, g, w).loss().around() as here:
        ends = [max(path[1:]) for path, _ in ascents(here, ball, search, stream)]
        (found,) = search_balls(here, [ball], search, stream)
    assert found.spread == pytest.approx(max(ends) - min(ends)) and found.spread > 0.01
