"""Lengths and identities of the step rules of N-step ascent, norm scopes, and per-group radii."""

import numpy as np
import pytest
import torch
from optimizer_oracles import RULES, Bowl, Net, batch, flat, net_closure, same, unit
from torch import nn

from sam.core.passes import Passes
from sam.optimizers.sam import SAM

RHO = 0.4


def perturbations(bowl: Bowl, rho: float, start: np.ndarray | None = None, **options) -> list[np.ndarray]:
    """eps at every pass of one step."""
    parameters, seen = bowl.parameters(start), []
    inner, w = bowl.closure(parameters), flat(parameters)

    def closure(backward: bool = True):
        seen.append(flat(parameters) - w)
        return inner(backward)

    SAM(torch.optim.SGD(parameters, lr=0.0), rho=rho, **options).step(closure)
    return seen


@pytest.mark.parametrize("steps", [2, 3, 5, 10])
@pytest.mark.parametrize("seed", range(3))
def test_lengths(steps: int, seed: int) -> None:
    """||eps|| <= rho for split and project at every step, = rho at the end for boundary; accumulate may leave the ball."""
    norms = {rule: [np.linalg.norm(e) for e in perturbations(Bowl(seed, 1.0), RHO, steps=steps, rule=rule)] for rule in RULES}
    assert all(len(n) == steps + 1 and n[0] == 0 for n in norms.values())
    assert all(n <= RHO * k / steps * (1 + 1e-12) for k, n in enumerate(norms["split"]))
    assert norms["split"][-1] < RHO * (1 - 1e-6)
    assert max(norms["project"]) <= RHO * (1 + 1e-12) and norms["project"][1] == pytest.approx(RHO, rel=1e-12)
    assert norms["boundary"][-1] == pytest.approx(RHO, rel=1e-12)
    np.testing.assert_allclose(norms["boundary"][:-1], norms["split"][:-1], rtol=1e-12)
    assert norms["accumulate"][-1] > 1.5 * RHO


def test_project_acts_inside_too() -> None:
    """An ascent that turns back ends inside the ball: only what leaves it is shortened."""
    bowl = Bowl(quartic=0.0, shapes=((1, 2),), matrix=np.diag([-1.0, -1.0]))
    seen = perturbations(bowl, RHO, start=np.array([0.1, 0.0]), steps=2, rule="project")  # a hill: over its top and back
    np.testing.assert_allclose(seen[1], [-RHO, 0.0], atol=1e-15)
    np.testing.assert_allclose(seen[2], [0.0, 0.0], atol=1e-15)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_accumulate_is_split_of_n_times_the_radius(steps: int) -> None:
    bowl = Bowl(quartic=1.0)
    accumulate = perturbations(bowl, RHO / steps, steps=steps, rule="accumulate")
    np.testing.assert_allclose(accumulate, perturbations(bowl, RHO, steps=steps, rule="split"), rtol=1e-13, atol=1e-15)


def test_one_step_makes_all_rules_one() -> None:
    results = []
    for rule in RULES:
        model = Net(torch.float32)
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=RHO, rule=rule, descent_gradient="mean", passes=Passes(model))
        optimizer.step(net_closure(model, batch(dtype=torch.float32)))
        results.append([p.detach() for p in model.parameters()])
    assert all(same(r, results[0]) for r in results)


@pytest.mark.parametrize("steps", [2, 5])
def test_exact_recursion_on_a_quadratic(steps: int) -> None:
    """L = 1/2 w'Aw: g_{n+1} = (I + (rho/N)/||g_n|| A) g_n, so every gradient is a matrix product of the first."""
    bowl = Bowl(quartic=0.0)
    bowl.slope[:] = 0
    g = bowl.matrix @ bowl.start
    for _ in range(steps):
        g = (np.eye(len(g)) + RHO / steps / np.linalg.norm(g) * bowl.matrix) @ g
    parameters = bowl.parameters()
    SAM(torch.optim.SGD(parameters, lr=1.0), rho=RHO, steps=steps).step(bowl.closure(parameters))
    np.testing.assert_allclose(flat(parameters), bowl.start - g, rtol=1e-12)


def grouped(bowl: Bowl, keys: list[dict], **options) -> np.ndarray:
    """eps at the last pass, the first tensor in one parameter group and the others in a second."""
    parameters, seen = bowl.parameters(), []
    inner, w = bowl.closure(parameters), flat(parameters)

    def closure(backward: bool = True):
        seen.append(flat(parameters) - w)
        return inner(backward)

    base = torch.optim.SGD([{"params": parameters[:1], **keys[0]}, {"params": parameters[1:], **keys[1]}], lr=0.0)
    SAM(base, rho=RHO, **options).step(closure)
    return seen[-1]


def test_each_group_has_its_own_radius() -> None:
    """The direction is that of one norm over all; each group moves by its own rho along its part. A group of rho 0 stays."""
    bowl = Bowl()
    direction = unit(bowl.grad(bowl.start))
    scale = np.array([0.1] * 6 + [0.7] * 6)
    np.testing.assert_allclose(grouped(bowl, [{"rho": 0.1}, {"rho": 0.7}]), scale * direction, rtol=1e-12)
    still = grouped(bowl, [{"rho": 0.0}, {}])
    np.testing.assert_allclose(still, np.array([0.0] * 6 + [RHO] * 6) * direction, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_group_that_is_not_perturbed(steps: int) -> None:
    """`perturb` off: the norm is that of the rest, which then moves by the whole rho."""
    bowl = Bowl()
    eps, w = np.zeros(12), bowl.start
    for _ in range(steps):
        g = bowl.grad(w + eps)
        g[:6] = 0
        eps = eps + RHO / steps * unit(g)
    np.testing.assert_allclose(grouped(bowl, [{"perturb": False}, {}], steps=steps), eps, rtol=1e-12, atol=1e-16)
    assert not eps[:6].any()


def test_layer_scope() -> None:
    """Every tensor's part has length rho / sqrt(tensors), along its own gradient; together rho."""
    bowl = Bowl()
    g, eps = bowl.grad(bowl.start), perturbations(bowl, RHO, norm_scope="layer")[-1]
    expected = np.concatenate([unit(part) for part in np.split(g, [6, 10])]) * RHO / 3**0.5
    np.testing.assert_allclose(eps, expected, rtol=1e-12)
    assert np.linalg.norm(eps) == pytest.approx(RHO, rel=1e-12)


def test_filter_scope() -> None:
    """Every row (output filter) has length rho / sqrt(rows); a one-dimensional tensor is one row: 3 + 1 + 1 rows here."""
    bowl = Bowl()
    g, eps = bowl.grad(bowl.start), perturbations(bowl, RHO, norm_scope="filter")[-1]
    expected = np.concatenate([unit(part) for part in np.split(g, [2, 4, 6, 10])]) * RHO / 5**0.5
    np.testing.assert_allclose(eps, expected, rtol=1e-12)
    assert np.linalg.norm(eps) == pytest.approx(RHO, rel=1e-12)


@pytest.mark.parametrize("scope", ["layer", "filter"])
def test_scopes_on_a_convolution(scope: str) -> None:
    """A filter of a 4-d weight is its slice along the first dimension."""
    weight = nn.Parameter(torch.randn(3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    before, seen = weight.detach().clone(), []

    def closure(backward: bool = True):
        seen.append(weight.detach() - before)
        loss = (weight**3).sum() / 3
        loss.backward()
        return loss

    SAM(torch.optim.SGD([weight], lr=0.0), rho=RHO, norm_scope=scope).step(closure)
    g = before.numpy() ** 2
    pieces = g.reshape(1 if scope == "layer" else 3, -1)
    expected = pieces / np.linalg.norm(pieces, axis=1, keepdims=True) * RHO / len(pieces) ** 0.5
    np.testing.assert_allclose(seen[-1].numpy().reshape(pieces.shape), expected, rtol=1e-12)


def test_nothing_to_perturb_is_refused() -> None:
    """`perturb: norm_only` on a net without normalisation layers."""
    bowl = Bowl()
    parameters = bowl.parameters()
    optimizer = SAM(torch.optim.SGD([{"params": parameters, "perturb": False}], lr=0.1), rho=RHO)
    with pytest.raises(ValueError, match="SAM has no parameter to perturb"):
        optimizer.step(bowl.closure(parameters))
