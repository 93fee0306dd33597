"""XSAM's search for alpha (Chen & Zhou 2026). Row numbers follow a list of 21 requirements for a port."""

import copy
import math

import numpy as np
import pytest
import torch
from optimizer_oracles import Bowl, Net, arc, batch, buffers, flat, net_closure, net_gradient, same, unit, xsam_plane
from torch import nn
from torch.nn import functional

from sam.core.passes import Passes
from sam.optimizers.xsam import XSAM

GRID = [k / 10 for k in range(21)]


def quadratic(size: int = 30, seed: int = 0) -> Bowl:
    """1/2 w'Hw + b'w with H positive definite, started at 0, where the gradient b is a unit vector and the loss 0."""
    bowl = Bowl(seed, quartic=0.0, shapes=((size // 2, 2),))
    bowl.start, bowl.slope = np.zeros(size), unit(bowl.slope)
    return bowl


def searched(bowl: Bowl, shift: float = 0.0, **options) -> XSAM:
    parameters = bowl.parameters()
    optimizer = XSAM(torch.optim.SGD(parameters, lr=0.0), **options)
    optimizer.step(bowl.closure(parameters, shift))
    return optimizer


@pytest.mark.parametrize("steps", [1, 2])
def test_row_06_alpha_is_the_argmax_of_losses_recomputed_by_other_code(steps: int) -> None:
    """On a BatchNorm net: weights are set explicitly on a copy, with another formula for the arc."""
    model, data = Net(), batch(16)
    optimizer = XSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.15, steps=steps, passes=Passes(model))
    optimizer.step(net_closure(model, data))
    w = flat(model.parameters())
    v0, v1, _ = xsam_plane(lambda x: net_gradient(model, data, x), w, 0.15, steps)
    losses = []
    for alpha in GRID:
        twin = copy.deepcopy(model)
        nn.utils.vector_to_parameters(torch.tensor(w + 0.3 * arc(v0, v1, alpha)), twin.parameters())
        losses.append(functional.cross_entropy(twin(data[0]), data[1]).item())
    np.testing.assert_allclose(optimizer.probe_losses, losses, rtol=1e-9)
    assert optimizer.alpha == GRID[int(np.argmax(losses))]
    assert optimizer.alpha > 0


def test_row_06_ties_go_to_the_smaller_alpha() -> None:
    """A linear loss: no plane, all probes are one point."""
    w = nn.Parameter(torch.zeros(4))

    def closure(backward: bool = True):
        loss = w.sum()
        if backward:
            loss.backward()
        return loss

    optimizer = XSAM(torch.optim.SGD([w], lr=0.0), rho=0.1)
    optimizer.step(closure)
    assert len(set(optimizer.probe_losses)) == 1 and optimizer.alpha == 0.0


@pytest.mark.parametrize("shift", [-100.0, 0.0, 100.0])
def test_row_06_a_constant_in_the_loss_changes_nothing(shift: float) -> None:
    """A search that starts from "best loss 0" finds nothing among negative losses."""
    optimizer = searched(Bowl(), shift, rho=0.2)
    w = Bowl()
    v0, v1, _ = xsam_plane(w.grad, w.start, 0.2)
    expected = GRID[int(np.argmax([w.loss(w.start + 0.4 * arc(v0, v1, a)) for a in GRID]))]
    assert optimizer.alpha == expected
    assert shift != -100 or max(optimizer.probe_losses) < 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_row_07_a_non_finite_probe_keeps_the_previous_alpha(bad: float) -> None:
    bowl = Bowl()
    parameters = bowl.parameters()
    inner, broken, probes = bowl.closure(parameters), [True], []

    def closure(backward: bool = True):
        loss = inner(backward)
        if not backward:
            probes.append(1)
            if broken[0] and len(probes) % 21 == 5:
                return loss * 0 + bad
        return loss

    optimizer = XSAM(torch.optim.SGD(parameters, lr=0.01), rho=0.2)
    optimizer.step(closure)
    assert optimizer.alpha == 1.0  # before the first search: SAM
    broken[0] = False
    optimizer.step(closure)
    found = optimizer.alpha
    assert found not in (0.0, 1.0)
    broken[0] = True
    optimizer.step(closure)
    assert optimizer.alpha == found
    assert np.isfinite(flat(parameters)).all()


@pytest.mark.parametrize(("rho_max", "expected"), [(None, 0.3), (0.5, 0.5), (0.0, 0.0)])
def test_row_08_probes_lie_at_the_search_radius(rho_max: float | None, expected: float) -> None:
    model = Net(torch.float32)
    start, points = flat(model.parameters()), []
    inner = net_closure(model, batch(dtype=torch.float32))

    def closure(backward: bool = True):
        if not backward:
            points.append(flat(model.parameters()) - start)
        return inner(backward)

    optimizer = XSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.15, rho_max=rho_max, passes=Passes(model))
    optimizer.step(closure)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), expected, rtol=1e-6)
    assert len(points) == 21


def test_row_09_base_optimizer_untouched_until_its_single_step() -> None:
    model = Net()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    optimizer = XSAM(base, rho=0.15, steps=2, passes=Passes(model))
    optimizer.step(net_closure(model, batch()))
    momenta = [s["momentum_buffer"].clone() for s in base.state.values()]
    inner, calls, steps = net_closure(model, batch(seed=1)), [], []
    base.register_step_post_hook(lambda *_: steps.append(len(calls)))

    def closure(backward: bool = True):
        calls.append(same([s["momentum_buffer"] for s in base.state.values()], momenta))
        return inner(backward)

    optimizer.step(closure)
    assert calls == [True] * 24 and steps == [24]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_row_12_batch_norm_sees_one_plain_forward(momentum: float | None) -> None:
    model, twin = Net(momentum=momentum), Net(momentum=momentum)
    optimizer = XSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.15, steps=3, passes=Passes(model))
    for k in range(3):
        optimizer.step(net_closure(model, batch(seed=k)))
        twin(batch(seed=k)[0])
    assert same(buffers(model), buffers(twin))
    assert model.norm1.momentum == momentum and int(model.norm1.num_batches_tracked) == 3


@pytest.mark.parametrize(("steps", "interval"), [(1, 1), (1, 4), (3, 4)])
def test_rows_13_and_14_schedule_and_cost(steps: int, interval: int) -> None:
    """(k+1) forwards and backwards a step; on the 1st, 5th, ... step 21 forwards more; alpha found is used at once and kept between."""
    bowl = Bowl(quartic=1.0)
    parameters = bowl.parameters()
    inner, seen = bowl.closure(parameters), []

    def closure(backward: bool = True):
        seen.append(backward)
        return inner(backward)

    optimizer = XSAM(torch.optim.SGD(parameters, lr=0.05), rho=0.2, steps=steps, search_interval=interval)
    alphas = []
    for k in range(9):
        seen.clear()
        w = flat(parameters)
        optimizer.step(closure)
        searching = k % interval == 0
        assert (seen.count(True), seen.count(False)) == (steps + 1, 21 if searching else 0)
        v0, v1, length = xsam_plane(bowl.grad, w, 0.2, steps)
        best = GRID[int(np.argmax([bowl.loss(w + 0.4 * arc(v0, v1, a)) for a in GRID]))]
        alphas.append(best if searching else alphas[-1])
        assert optimizer.alpha == alphas[-1]
        np.testing.assert_allclose(flat(parameters), w - 0.05 * length * arc(v0, v1, alphas[-1]), rtol=1e-9)
    searches = len(range(0, 9, interval))
    assert (optimizer.forwards, optimizer.backwards) == (9 * (steps + 1) + 21 * searches, 9 * (steps + 1))


def in_plane_maximiser(bowl: Bowl, rho: float, rho_max: float, steps: int) -> float:
    """alpha of the exact maximum over the circle of radius rho_max in the plane, by the two-dimensional problem on a fine angle grid."""
    v0, v1, _ = xsam_plane(bowl.grad, bowl.start, rho, steps)
    across = unit(v1 - (v0 @ v1) * v0)
    psi = math.atan2(v1 @ across, v1 @ v0)
    basis = np.stack([v0, across])
    slope, curvature = basis @ bowl.grad(bowl.start), basis @ bowl.matrix @ basis.T
    angle = np.linspace(0, 5 * psi, 500_001)
    x = rho_max * np.stack([np.cos(angle), np.sin(angle)])
    return angle[np.argmax(slope @ x + 0.5 * np.einsum("in,ij,jn->n", x, curvature, x))] / psi


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("ratio", [1, 2])
def test_row_15_grid_alpha_on_a_quadratic(ratio: int, steps: int) -> None:
    bowl, step = quadratic(), 0.05
    optimizer = searched(bowl, rho=0.3, rho_max=0.3 * ratio, steps=steps, alphas=[k * step for k in range(100)])
    expected = in_plane_maximiser(bowl, 0.3, 0.3 * ratio, steps)
    assert 0.5 < expected < 4.9
    assert abs(optimizer.alpha - expected) <= step


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("ratio", [1, 2])
def test_row_15_small_radius_limit(ratio: int, steps: int) -> None:
    """alpha* -> (r - a_0)/(1 - a_0), r = rho_max/rho, a_0 = (k-1)/(2k): for k = 1, alpha* = rho_max/rho."""
    a0 = (steps - 1) / (2 * steps)
    limit = (ratio - a0) / (1 - a0)
    fine = [limit * (1 + 0.002 * j) for j in range(-20, 21)]
    assert searched(quadratic(), rho=0.003, rho_max=0.003 * ratio, steps=steps, alphas=fine).alpha == pytest.approx(limit, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_row_16_where_sams_direction_overtakes_the_gradients(seed: int) -> None:
    """On a quadratic L(w + r v1) > L(w + r v0) from r = 2||g_0||(1 - cos psi)/(R(g_1) - R(g_0)) on, R(u) = u'Hu/u'u."""
    bowl, rho = quadratic(seed=seed), 0.3
    v0, v1, _ = xsam_plane(bowl.grad, bowl.start, rho)
    rayleigh = v1 @ bowl.matrix @ v1 - v0 @ bowl.matrix @ v0
    threshold = 2 * np.linalg.norm(bowl.grad(bowl.start)) * (1 - v0 @ v1) / rayleigh
    assert 0.3 * rho < threshold < 0.6 * rho
    assert searched(bowl, rho=rho, rho_max=0.99 * threshold, alphas=[0.0, 1.0]).alpha == 0.0
    assert searched(bowl, rho=rho, rho_max=1.01 * threshold, alphas=[0.0, 1.0]).alpha == 1.0


def test_row_21_repeated_runs_are_identical_and_one_mask_serves_a_step() -> None:
    results, masks = [], []
    for _ in range(2):
        torch.manual_seed(3)
        model = Net(dropout=0.5)
        model.dropout.register_forward_hook(lambda module, args, out: masks.append((out == 0).clone()))
        optimizer = XSAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.15, steps=2, passes=Passes(model))
        for k in range(3):
            masks.clear()
            optimizer.step(net_closure(model, batch(seed=k)))
            dropped = list(masks)
            assert len(dropped) == 24 and all(torch.equal(m, dropped[0]) for m in dropped)
        results.append((flat(model.parameters()), optimizer.alpha, optimizer.probe_losses))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


def test_a_closure_that_cannot_skip_the_backward_pass_is_refused() -> None:
    w = nn.Parameter(torch.ones(2))

    def closure():
        loss = (w**2).sum()
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="backward=True"):
        XSAM(torch.optim.SGD([w], lr=0.1)).step(closure)
    XSAM(torch.optim.SGD([w], lr=0.1), alpha=0.5).step(closure)  # a constant alpha needs no probe


def test_probes_reach_twice_the_largest_of_several_radii() -> None:
    bowl, points = Bowl(), []
    parameters = bowl.parameters()
    inner = bowl.closure(parameters)

    def closure(backward: bool = True):
        if not backward:
            points.append(flat(parameters) - bowl.start)
        return inner(backward)

    groups = [{"params": parameters[:1], "rho": 0.1}, {"params": parameters[1:], "rho": 0.4}]
    XSAM(torch.optim.SGD(groups, lr=0.0)).step(closure)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 0.8, rtol=1e-9)
