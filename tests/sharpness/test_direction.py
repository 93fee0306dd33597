"""XSAM's premise on exact quadratics: the best point against the trust region, directions against their closed forms, alpha* against brute
force and against what a quadratic predicts; and how means over batches are taken."""

import itertools
import math

import numpy as np
import pytest
import torch
from sharpness_toys import OFFSET, Quadratic, fails_cleanly, hold_the_rules, measure, problem, quadratic, random_problem, rise, trust_region

from sam.config import ConfigError
from sam.sharpness import direction
from sam.sharpness.context import Context, Measures, Sizes, Split
from sam.sharpness.settings import DirectionConfig, SharpnessConfig

FINE = tuple(k / 20 for k in range(61))
NAMES = ("g0", "g1", "arc", "plane", "random")


def convex(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    h, g, w = random_problem(seed=seed)
    return h @ h / 10, g, w


def one_batch(h: np.ndarray, g: np.ndarray, w: np.ndarray, rho: list[float], **settings: object) -> Measures:
    own = DirectionConfig(**({"steps": 60, "alphas": list(FINE)} | settings))  # type: ignore[arg-type]
    return measure("direction", quadratic(h, g, w, n=1, rho=rho, direction=own))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def ascent(h: np.ndarray, g: np.ndarray, rho: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(displacement, gradient there) of split steps."""
    e = np.zeros_like(g)
    for _ in range(steps):
        e = e + rho / steps * unit(g + h @ e)
    return e, g + h @ e


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("reach", [0.3, 1.0, 2.0])
def test_rises_shares_and_cosines_are_those_of_the_quadratic(steps: int, reach: float) -> None:
    h, g, w = convex()
    rho, radius = 0.4, 0.4 * reach
    values = one_batch(h, g, w, [rho], reach=[reach], ascent_steps=[steps], angles=360, rings=1)
    where = f"rho=0.4,reach={reach:g},k={steps}"
    best = trust_region(h, g, radius)
    assert values[f"direction_best[rho=0.4,reach={reach:g}]"] == pytest.approx(best, rel=1e-6)
    low, high = 0.0, 1e9  # the best point: (mu I - H) e = g
    top = np.linalg.eigvalsh(h)[-1]
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if np.linalg.norm(np.linalg.solve((top + mu) * np.eye(6) - h, g)) > radius else (low, mu)
    point = unit(np.linalg.solve((top + high) * np.eye(6) - h, g))
    d, end = ascent(h, g, rho, steps)
    first = unit(d)
    second = unit(end - (end @ first) * first)
    psi = math.atan2(unit(end) @ second, unit(end) @ first)
    at = lambda angle: radius * (math.cos(angle) * first + math.sin(angle) * second)
    star = max(FINE, key=lambda alpha: rise(h, g, at(alpha * psi)))
    round_ = max(np.linspace(0, 2 * math.pi, 1441), key=lambda angle: rise(h, g, at(angle)))
    expected = {"g0": unit(g), f"g{steps}": unit(end), "arc": at(star * psi) / radius, "plane": at(round_) / radius}
    assert values[f"direction_psi[rho=0.4,k={steps}]"] == pytest.approx(psi, rel=1e-6)
    assert values[f"direction_alpha[{where}]"] == star
    for v, u in expected.items():
        near = 3e-4 if v == "plane" else 1e-6  # a degree between its angles
        assert values[f"direction_rise[v={v},{where}]"] == pytest.approx(rise(h, g, radius * u), rel=near), v
        assert values[f"direction_share[v={v},{where}]"] == pytest.approx(rise(h, g, radius * u) / best, rel=near), v
        assert values[f"direction_cosine[v={v},{where}]"] == pytest.approx(u @ point, abs=2e-2), v
    arc, plane = (values[f"direction_rise[v={v},{where}]"] for v in ("arc", "plane"))
    assert values[f"direction_rise[v=g{steps},{where}]"] <= arc <= plane <= best * (1 + 1e-9)  # type: ignore[operator]
    low_share = values[f"direction_share[v=random,{where}]"] < 0.5  # type: ignore[operator]
    assert values[f"direction_low[v=random,{where}]"] == low_share


def test_the_best_rise_of_a_radius_is_that_of_its_own_ball() -> None:
    """Two radii, each with two reaches: 0.2, 0.4 twice, and 0.8."""
    h, g, w = convex()
    values = one_batch(h, g, w, [0.2, 0.4], reach=[1.0, 2.0], angles=36)
    for rho, reach in itertools.product((0.2, 0.4), (1, 2)):
        best = trust_region(h, g, rho * reach)
        assert values[f"direction_best[rho={rho:g},reach={reach}]"] == pytest.approx(best, rel=1e-6)
        own = values[f"direction_rise[v=g1,rho={rho:g},reach={reach},k=1]"]
        assert values[f"direction_share[v=g1,rho={rho:g},reach={reach},k=1]"] == pytest.approx(own / best, rel=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_at_small_rho_a_quadratic_wants_alpha_as_far_as_the_radius_reaches(steps: int) -> None:
    """alpha* -> (r - a) / (1 - a), a = (k - 1) / (2 k): with one step, r = R / rho itself."""
    h, g, w = convex()
    reach, a = [0.5, 1.0, 1.5, 2.0], (steps - 1) / (2 * steps)
    values = one_batch(h, g, w, [0.003], reach=reach, ascent_steps=[steps], steps=2, restarts=0, angles=4)
    for r in reach:
        wanted = max((r - a) / (1 - a), 0.0)
        assert values[f"direction_alpha[rho=0.003,reach={r:g},k={steps}]"] == pytest.approx(wanted, abs=0.06)
    assert values[f"direction_edge[rho=0.003,reach=2,k={steps}]"] == 0
    short = one_batch(h, g, w, [0.003], reach=[2.0], ascent_steps=[steps], steps=2, restarts=0, angles=4, alphas=[0.0, 0.5])
    assert short[f"direction_edge[rho=0.003,reach=2,k={steps}]"] == 1


def test_the_gradient_at_the_ascent_point_wins_from_half_the_radius_on() -> None:
    """2 |g| (1 - cos psi) / (R(g_1) - R(g_0)), R(u) = u'Hu / u'u: a little below rho / 2 here."""
    h, g, w = convex()
    for rho in (0.003, 0.3):
        end = ascent(h, g, rho, 1)[1]
        curvature = lambda u: u @ h @ u / (u @ u)
        threshold = 2 * np.linalg.norm(g) * (1 - unit(g) @ unit(end)) / (curvature(end) - curvature(g)) / rho
        assert 0.4 < threshold < 0.51
        reach = [0.98 * threshold, 1.02 * threshold]
        values = one_batch(h, g, w, [rho], reach=reach, steps=1, restarts=0, alphas=[1.0], angles=4)
        assert [values[f"direction_wins[rho={rho:g},reach={r:g},k=1]"] for r in reach] == [0, 1]


def several(n: int = 3) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray, torch.Tensor]:
    """(each sample's Hessian and gradient at w, w, the samples)."""
    h, g, w = convex()
    inputs = problem(h, g, w, n)
    a, b = inputs[:, :, :-1].numpy(), inputs[:, :, -1].numpy()
    return [(a[i], a[i] @ w + b[i]) for i in range(n)], w, inputs


def test_means_over_batches_and_transfer_to_the_next_one() -> None:
    parts, w, inputs = several(4)
    config = SharpnessConfig.of(
        rho=[0.3], direction=DirectionConfig(batches=2, batch_size=2, reach=[1.0], steps=100, alphas=[0.0, 0.5, 1.0])
    )
    context = Context(Quadratic(w), Split(inputs, torch.zeros(4, dtype=torch.int64)), None, config)
    values = measure("direction", context)
    order = torch.randperm(4, generator=context.generator("direction")).view(2, 2).tolist()
    batches = [(np.mean([parts[i][0] for i in pair], 0), np.mean([parts[i][1] for i in pair], 0)) for pair in order]
    assert values["direction_batches"] == values["direction_batch_size"] == 2
    tops = [trust_region(h, g, 0.3) for h, g in batches]
    ways = [0.3 * unit(ascent(h, g, 0.3, 1)[1]) for h, g in batches]
    shares = [rise(*batches[i], ways[i]) / tops[i] for i in (0, 1)]
    onward = [rise(*batches[1 - i], ways[i]) / tops[1 - i] for i in (0, 1)]
    where = "[v=g1,rho=0.3,reach=1,k=1]"
    for name, sample in (("share", shares), ("transfer", onward)):
        assert values[f"direction_{name}{where}"] == pytest.approx(np.mean(sample), rel=1e-6)
        assert values[f"direction_{name}_stderr{where}"] == pytest.approx(np.std(sample, ddof=1) / math.sqrt(2), rel=1e-5)
    assert values["direction_best[rho=0.3,reach=1]"] == pytest.approx(np.mean(tops), rel=1e-6)
    assert values["direction_alpha_std[rho=0.3,reach=1,k=1]"] == pytest.approx(
        math.sqrt(2) * values["direction_alpha_stderr[rho=0.3,reach=1,k=1]"]  # type: ignore[operator]
    )
    assert values["direction_loss"] == pytest.approx(OFFSET + np.mean([(w @ h @ w) / 2 + (g - h @ w) @ w for h, g in batches]))


def test_what_one_batch_does_not_define_has_no_mean() -> None:
    _, w, inputs = several(4)
    own = DirectionConfig(batches=2, batch_size=2, reach=[1.0], steps=2, alphas=[0.0, 1.0], angles=4)
    context = Context(Quadratic(w), Split(inputs, torch.zeros(4, dtype=torch.int64)), None, SharpnessConfig.of(rho=[0.3], direction=own))
    inputs[torch.randperm(4, generator=context.generator("direction"))[:2]] = 0  # no gradient
    values = measure("direction", context)
    for name in ("share[v=g1,rho=0.3,reach=1,k=1]", "wins[rho=0.3,reach=1,k=1]", "alpha[rho=0.3,reach=1,k=1]"):
        assert values[f"direction_{name}"] is None and values[f"direction_{name.replace('[', '_stderr[', 1)}"] is None
    assert values["direction_loss"] is not None


def test_with_one_batch_there_is_no_transfer_and_no_error() -> None:
    values = one_batch(*convex(), [0.1])
    empty = {name.partition("[")[0] for name, value in values.items() if value is None}
    assert empty and all(name.endswith(("_stderr", "_std")) or name == "direction_transfer" for name in empty)


def test_on_a_linear_loss_every_direction_but_a_random_one_is_the_best() -> None:
    """Gradients are parallel: XSAM acts as SAM, and no alpha is found."""
    values = one_batch(np.zeros((6, 6)), np.arange(1.0, 7), np.zeros(6), [0.1], reach=[1.0])
    for v in ("g0", "g1", "arc", "plane"):
        assert values[f"direction_share[v={v},rho=0.1,reach=1,k=1]"] == pytest.approx(1, abs=1e-9)
        assert values[f"direction_cosine[v={v},rho=0.1,reach=1,k=1]"] == pytest.approx(1, abs=1e-6)
    assert values["direction_alpha[rho=0.1,reach=1,k=1]"] is None and values["direction_psi[rho=0.1,k=1]"] == pytest.approx(0, abs=1e-6)


def test_where_the_gradient_is_zero_nothing_is_said_but_of_random_directions() -> None:
    flat = quadratic(np.eye(6), np.zeros(6), np.zeros(6), n=1, rho=[0.5], direction=DirectionConfig(reach=[1.0]))
    flat.train.inputs[:, :, -1] = 0
    values = measure("direction", flat)
    assert values["direction_share[v=random,rho=0.5,reach=1,k=1]"] == pytest.approx(1, rel=1e-6)
    for name in (*(f"direction_share[v={v},rho=0.5,reach=1,k=1]" for v in NAMES[:-1]), "direction_wins[rho=0.5,reach=1,k=1]"):
        assert values[name] is None


@pytest.mark.parametrize("batchnorm", ["eval", "train"])
def test_the_rules_of_measuring(batchnorm: str) -> None:
    own = DirectionConfig(batches=2, reach=[2.0], ascent_steps=[2], alphas=[0.0, 1.0], angles=4, rings=1, steps=2, batchnorm=batchnorm)
    options = {"rho": [0.5], "m": 5, "direction": own}
    hold_the_rules("direction", **options)
    fails_cleanly("direction", **options)


def test_the_work_foretold_is_counted_by_hand() -> None:
    own = DirectionConfig(batches=3, reach=[1.0, 2.0], alphas=[0.0, 1.0], angles=4, rings=1, steps=2, restarts=0)
    config = SharpnessConfig.of(rho=[0.1, 0.2], direction=own)  # radii 0.1, 0.2, 0.4
    assert direction.work(Sizes(100, 0, batch=20), config) == 60 * (3 + 3 * (4 + 2) + 2 * (3 + 2 * (1 + 2 + 4 + 5)))


@pytest.mark.parametrize("settings", [{"reach": []}, {"reach": [0.0]}, {"ascent_steps": []}, {"alphas": []}, {"angles": 3}, {"rings": 0}])
def test_settings_that_cannot_be_used_are_refused_by_name(settings: dict[str, object]) -> None:
    (key,) = settings
    with pytest.raises(ConfigError, match=rf"^sharpness\.direction\.{key}="):
        DirectionConfig(**settings)  # type: ignore[arg-type]
