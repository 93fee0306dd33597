"""The perturbation built from a given list of gradients, by each step rule, against the rule written out."""

import numpy as np
import pytest
import torch

from sam.core.ascent import Ascent
from sam.core.settings import STEP_RULES as RULES

RHO = 0.5
START = np.array([1.0, 2.0, -1.0, 0.5, 3.0])


def gradients(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.RandomState(seed).standard_normal((count, 5)))


def split(x: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(x[:3]), torch.tensor(x[3:])]


def join(x: list[torch.Tensor]) -> np.ndarray:
    return torch.cat(x).numpy().copy()


@pytest.mark.parametrize("radii", [[RHO, RHO], [0.2, 0.7]])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("rule", RULES)
def test_points_after_every_step(rule: str, steps: int, radii: list[float]) -> None:
    """points = start + radius * u; the ball has radius 1 in the unit of each tensor's own rho."""
    start = split(START)
    ascent = Ascent(start, radii, steps=steps, rule=rule)
    scale, u = np.repeat(radii, [3, 2]), np.zeros(5)
    for n, g in enumerate(gradients(steps)):
        length = ascent.climb(split(g))
        assert length.item() == pytest.approx(np.linalg.norm(g), rel=1e-12)
        u = u + g / np.linalg.norm(g) / (steps if rule in ("split", "boundary") else 1)
        size = np.linalg.norm(u)
        if steps > 1 and rule == "project" and size > 1:
            u = u / size
        if steps > 1 and rule == "boundary" and n == steps - 1:
            u = u / size
        np.testing.assert_allclose(join(ascent.points), START + scale * u, rtol=1e-13)
    assert ascent.relative_length().item() == pytest.approx(np.linalg.norm(u), rel=1e-12)
    x = gradients(1, seed=1)[0]
    assert ascent.cosine(split(x)).item() == pytest.approx(x @ u / np.linalg.norm(x) / np.linalg.norm(u), rel=1e-12)
    direction = join(ascent.direction())
    np.testing.assert_allclose(direction / np.linalg.norm(direction), scale * u / np.linalg.norm(scale * u), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(join(start), START)


def test_opposite_gradients_cancel_without_a_nan() -> None:
    """boundary: a displacement of zero has no direction to be stretched along; it stays zero."""
    for rule in RULES:
        ascent = Ascent(split(START), [RHO, RHO], steps=2, rule=rule)
        g = gradients(1)[0]
        ascent.climb(split(g))
        ascent.climb(split(-g))
        np.testing.assert_allclose(join(ascent.points), START, atol=1e-15)


def test_zero_gradient() -> None:
    once = Ascent(split(START), [RHO, RHO])
    assert once.climb(split(np.zeros(5))).item() == 0 == once.relative_length().item() == once.cosine(split(START)).item()
    np.testing.assert_array_equal(join(once.points), START)
    for rule in RULES:
        ascent = Ascent(split(START), [RHO, RHO], steps=2, rule=rule)
        ascent.climb(split(np.zeros(5)))
        ascent.climb(split(np.zeros(5)))
        np.testing.assert_array_equal(join(ascent.points), START)
