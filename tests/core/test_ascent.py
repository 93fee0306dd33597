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


# ------------------------------------------------------------------------------------------- a normalisation of the method's own


def shares(x: np.ndarray, scope: str) -> np.ndarray:
    """x with the length of x, shared equally by its two tensors (of one row each, so that layer and filter are the same)."""
    if scope == "global":
        return x
    parts = [part / np.linalg.norm(part) / np.sqrt(2) for part in (x[:3], x[3:])]
    return np.concatenate(parts) * np.linalg.norm(x)


@pytest.mark.parametrize("scope", ["global", "layer", "filter"])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_asam_divides_by_the_norm_of_t_g(rule: str, steps: int, scope: str) -> None:
    """Kwon et al. 2021, Eq. 6: eps = rho T² g / ||T g|| with T = |w|; the T of every step is that of w."""
    ascent, t, eps = Ascent(split(START), [RHO, RHO], steps=steps, rule=rule, scope=scope), np.abs(START), np.zeros(5)
    for n, g in enumerate(gradients(steps)):
        divisor = torch.tensor(np.linalg.norm(t * g))
        assert ascent.climb(split(t**2 * g), divisor) is divisor
        eps = eps + RHO * shares(t**2 * g, scope) / np.linalg.norm(t * g) / (steps if rule in ("split", "boundary") else 1)
        if steps > 1 and rule == "project":
            eps = eps / max(1.0, np.linalg.norm(eps) / RHO)
        if rule == "boundary" and n == 1:
            eps = RHO * eps / np.linalg.norm(eps)
        np.testing.assert_allclose(join(ascent.points), START + eps, rtol=1e-13)
    assert [float(length) for length in ascent.lengths] == pytest.approx([np.linalg.norm(t * g) for g in gradients(steps)])
    assert ascent.relative_length().item() == pytest.approx(np.linalg.norm(eps) / RHO, rel=1e-12)
    x = gradients(1, seed=1)[0]
    assert ascent.cosine(split(x)).item() == pytest.approx(x @ eps / np.linalg.norm(x) / np.linalg.norm(eps), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("scope", ["global", "layer", "filter"])
def test_a_norm_that_is_known_is_only_spared(scope: str, steps: int) -> None:
    told, alone = (Ascent(split(START), [RHO, RHO], steps=steps, scope=scope) for _ in range(2))
    for g in gradients(steps):
        x = split(g)
        assert torch.equal(
            told.climb(split(g), norm=torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in x]))), alone.climb(x)
        )
    assert all(map(torch.equal, told.points, alone.points))


def test_a_step_without_normalisation_and_one_that_is_void() -> None:
    """USAM divides by nothing; a divisor of zero with a direction of zero makes no step; one that is not finite is kept."""
    g = gradients(1)[0]
    plain = Ascent(split(START), [RHO, RHO])
    plain.climb(split(g), torch.ones((), dtype=torch.float64))
    np.testing.assert_allclose(join(plain.points), START + RHO * g, rtol=1e-14)
    for scope in ("global", "layer"):
        still = Ascent(split(START), [RHO, RHO], scope=scope)
        still.climb(split(np.zeros(5)), torch.zeros((), dtype=torch.float64))
        np.testing.assert_array_equal(join(still.points), START)
    void = Ascent(split(START), [RHO, RHO])
    void.climb(split(g), torch.tensor(float("inf"), dtype=torch.float64))
    assert not torch.stack(void.lengths).isfinite().all()


def test_the_cosine_of_a_tiny_gradient() -> None:
    for length in (1e-3, 1e-7, 1e-9):  # the product of two norms is far below the smallest number that counts as a length
        ascent = Ascent(split(START), [RHO, RHO])
        g = split(gradients(1)[0] * length)
        ascent.climb([t.clone() for t in g])
        assert ascent.cosine(g).item() == pytest.approx(1.0, abs=1e-9)
