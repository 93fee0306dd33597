"""XSAM (Chen & Zhou 2026): the arc, the update's length, its special cases. Row numbers follow a list of 21 requirements for a port."""

import math

import numpy as np
import pytest
import torch
from optimizer_oracles import RULES, Bowl, Net, arc, batch, flat, net_closure, same, unit, xsam_plane
from torch import nn

from sam.core.passes import Passes
from sam.optimizers.sam import SGD
from sam.optimizers.xsam import XSAM, Plane

PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-6)]
BASE = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}


def hand_written(dtype: torch.dtype, direction: str, rho: float) -> Net:
    """10 steps of SAM ("sam") or of (||g_1||/||g_0||) g_0 ("sgd_plus"), with plain tensor arithmetic in `dtype`."""
    model = Net(dtype)
    parameters = list(model.parameters())
    base = torch.optim.SGD(parameters, **BASE)
    for k in range(10):
        closure = net_closure(model, batch(seed=k, dtype=dtype))
        base.zero_grad()
        closure()
        g0 = [p.grad.clone() for p in parameters]
        n0 = torch.sqrt(sum((g.double() ** 2).sum() for g in g0))
        saved = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, g in zip(parameters, g0, strict=True):
                p.add_((rho / n0).to(dtype) * g)
        base.zero_grad()
        closure()
        n1 = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in parameters))
        with torch.no_grad():
            for p, s, g in zip(parameters, saved, g0, strict=True):
                p.copy_(s)
                if direction == "sgd_plus":
                    p.grad = (n1 / n0).to(dtype) * g
        base.step()
    return model


def ours(dtype: torch.dtype, rho: float, **options) -> Net:
    model = Net(dtype)
    optimizer = XSAM(torch.optim.SGD(model.parameters(), **BASE), rho=rho, passes=Passes(model), **options)
    for k in range(10):
        optimizer.step(net_closure(model, batch(seed=k, dtype=dtype)))
    return model


def relative_difference(a: nn.Module, b: nn.Module) -> float:
    x, y = flat(a.parameters()), flat(b.parameters())
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_row_01_alpha_1_is_sam(dtype: torch.dtype, tolerance: float) -> None:
    assert relative_difference(ours(dtype, 0.15, alpha=1.0), hand_written(dtype, "sam", 0.15)) <= tolerance
    assert relative_difference(ours(dtype, 0.15, alpha=1.1), hand_written(dtype, "sam", 0.15)) > 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_row_02_alpha_0_is_the_gradient_at_the_length_of_sams(dtype: torch.dtype, tolerance: float) -> None:
    assert relative_difference(ours(dtype, 0.15, alpha=0.0), hand_written(dtype, "sgd_plus", 0.15)) <= tolerance


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_row_03_zero_radius_is_sgd(alpha: float) -> None:
    model = Net(torch.float32)
    base = torch.optim.SGD(model.parameters(), **BASE)
    for k in range(10):
        base.zero_grad()
        net_closure(model, batch(seed=k, dtype=torch.float32))()
        base.step()
    assert relative_difference(ours(torch.float32, 0.0, alpha=alpha), model) <= 1e-6


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0, 1.7, 2.0])
def test_row_04_the_update_is_as_long_as_the_last_gradient(alpha: float, dtype: torch.dtype, steps: int) -> None:
    model = Net(dtype)
    inner, lengths = net_closure(model, batch(dtype=dtype)), []

    def closure(backward: bool = True):
        loss = inner(backward)
        lengths.append(np.linalg.norm(flat(p.grad for p in model.parameters())))
        return loss

    optimizer = XSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.3, steps=steps, alpha=alpha, passes=Passes(model))
    optimizer.step(closure)
    assert len(lengths) == steps + 1
    assert np.linalg.norm(flat(p.grad for p in model.parameters())) == pytest.approx(lengths[-1], rel=1e-6)


@pytest.mark.parametrize("degrees", [0.1, 20, 80, 130, 179])
def test_row_05_the_arc(degrees: float) -> None:
    """v(alpha) is a unit vector alpha psi away from v0; v(0) = v0, v(1) = v1, v(2) = -v0 + 2 cos(psi) v1."""
    random, psi = np.random.RandomState(0), math.radians(degrees)
    v0 = unit(random.standard_normal(20))
    z = random.standard_normal(20)
    v1 = math.cos(psi) * v0 + math.sin(psi) * unit(z - (z @ v0) * v0)
    plane = Plane(
        [torch.tensor(0.3 * v0[:12]).view(3, 4), torch.tensor(0.3 * v0[12:])],
        [torch.tensor(7 * v1[:12]).view(3, 4), torch.tensor(7 * v1[12:])],
    )
    start = [torch.zeros(3, 4, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)]

    def v(alpha: float) -> np.ndarray:
        return flat(plane.point(start, alpha, 1.0))

    assert plane.psi.item() == pytest.approx(psi, rel=1e-8)
    np.testing.assert_allclose(v(0), v0, atol=1e-10)
    np.testing.assert_allclose(v(1), v1, atol=1e-10)
    np.testing.assert_allclose(v(2), -v0 + 2 * math.cos(psi) * v1, atol=1e-10)
    across = unit(v1 - (v1 @ v0) * v0)
    for alpha in (0.1, 0.5, 0.9, 1.3, 1.9):
        np.testing.assert_allclose(v(alpha), math.cos(alpha * psi) * v0 + math.sin(alpha * psi) * across, atol=1e-9)


def recorded_points(rho: float, steps: int, rule: str = "split") -> tuple[Bowl, list[np.ndarray], np.ndarray]:
    """(loss, weights of each pass, gradient handed over at alpha 0)."""
    bowl = Bowl(quartic=1.0)
    parameters, points = bowl.parameters(), []
    inner = bowl.closure(parameters)

    def closure(backward: bool = True):
        points.append(flat(parameters))
        return inner(backward)

    XSAM(torch.optim.SGD(parameters, lr=0.0), rho=rho, steps=steps, rule=rule, alpha=0.0).step(closure)
    return bowl, points, flat(p.grad for p in parameters)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_row_10_every_ascent_step_is_rho_over_k_long(steps: int) -> None:
    rho = 0.3
    _, points, _ = recorded_points(rho, steps)
    np.testing.assert_allclose(np.linalg.norm(np.diff(points, axis=0), axis=1), rho / steps, rtol=1e-6)
    total = np.linalg.norm(points[-1] - points[0])
    assert total == pytest.approx(rho, rel=1e-6) if steps == 1 else 0.9 * rho < total < rho * (1 - 1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_row_11_v0_is_the_net_displacement_not_the_first_gradient(rule: str) -> None:
    bowl, points, handed = recorded_points(1.0, 3, rule)
    np.testing.assert_allclose(unit(handed), unit(points[-1] - points[0]), rtol=1e-8)
    assert unit(handed) @ unit(bowl.grad(bowl.start)) < 0.999


def test_an_alpha_that_is_assigned_is_the_one_of_the_next_step() -> None:
    """A loop of one's own may anneal it."""
    weights = []
    for first, then in ((1.3, None), (0.5, 1.3), (0.5, None)):
        model = Net(torch.float64)
        optimizer = XSAM(torch.optim.SGD(model.parameters(), lr=0.05), rho=0.1, alpha=first)
        optimizer.alpha = first if then is None else then
        optimizer.step(net_closure(model, batch(seed=1, dtype=torch.float64)))
        weights.append(flat(model.parameters()))
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0, 2.0, None])
@pytest.mark.slow
def test_row_17_degenerate_planes_act_as_sam(alpha: float | None, dtype: torch.dtype) -> None:
    """Parallel (linear loss), antiparallel (a hill that the ascent steps over), one scalar parameter: v(alpha) = g/||g||. 50 seeds.

    A port with arccos and no clamp turned all weights into NaN in a third of such steps.
    """
    for seed in range(50):
        random = np.random.RandomState(seed)
        slope = torch.tensor(random.standard_normal(30), dtype=dtype)
        start = torch.tensor(0.02 * unit(random.standard_normal(30)), dtype=dtype)
        cases = {
            "parallel": (torch.zeros(30, dtype=dtype), lambda w, slope=slope: w @ slope, slope),
            "antiparallel": (start, lambda w: -0.5 * w @ w, -(start - 0.1 * start / start.norm())),
            "scalar": (slope[:1], lambda w: (0.5 * w * w).sum(), slope[:1] + 0.1 * slope[:1].sign()),
        }
        for name, (w0, loss_of, g1) in cases.items():
            w = nn.Parameter(w0.clone())

            def closure(backward: bool = True, w=w, loss_of=loss_of):
                loss = loss_of(w)
                if backward:
                    loss.backward()
                return loss

            XSAM(torch.optim.SGD([w], lr=0.0), rho=0.1, alpha=alpha).step(closure)
            assert torch.allclose(w.grad, g1, rtol=1e-4, atol=1e-8), name


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_row_17_a_zero_gradient(alpha: float) -> None:
    g, d = torch.zeros(3), torch.ones(3)
    for plane in (Plane([d], [g]), Plane([g], [d]), Plane([g], [g.clone()])):
        plane.combine_(alpha)
        assert plane.g[0].isfinite().all()


def test_row_18_low_precision_weights_are_refused() -> None:
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.bfloat16))]
    with pytest.raises(ValueError, match=r"XSAM cannot perturb torch.bfloat16 weights.*keep the parameters in float32 and use autocast"):
        XSAM(torch.optim.SGD(parameters, lr=0.1))
    SGD(torch.optim.SGD(parameters, lr=0.1))  # never leaves w


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_row_17_parallel_beyond_rounding(dtype: torch.dtype) -> None:
    """A million entries: rounding of the sums must not open a plane between -g and g."""
    g = torch.randn(1000, 1000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    plane = Plane([g * -0.37], [g.clone()])
    plane.combine_(0.5)
    assert torch.equal(plane.g[0], g)


@pytest.mark.parametrize("degrees", [1.0, 37.0, 90.0, 150.0])
def test_row_18_angle_of_low_precision_vectors(degrees: float) -> None:
    """Sums over 200,000 bf16 products, kept in float32 rows: within 1 degree of float64."""
    random, psi = np.random.RandomState(1), math.radians(degrees)
    d, z = random.standard_normal((200, 1000)), random.standard_normal((200, 1000))
    z = unit(z - (z * d).sum() / (d * d).sum() * d)
    g = math.cos(psi) * unit(d) + math.sin(psi) * z
    plane = Plane([torch.tensor(d).bfloat16()], [torch.tensor(g).bfloat16()])
    assert abs(math.degrees(plane.psi.item()) - degrees) < 1


@pytest.mark.parametrize("steps", [1, 3])
def test_the_oracles_arc_agrees_with_the_plane(steps: int) -> None:
    """Small radius, small angle: atan2 of float64 sums against arccos (which loses half its digits there)."""
    bowl = Bowl(quartic=1.0)
    parameters = bowl.parameters()
    optimizer = XSAM(torch.optim.SGD(parameters, lr=0.0), rho=1e-3, steps=steps, alpha=1.5)
    optimizer.step(bowl.closure(parameters))
    v0, v1, length = xsam_plane(bowl.grad, bowl.start, 1e-3, steps)
    assert optimizer.stats["psi"].item() == pytest.approx(2 * math.asin(np.linalg.norm(v1 - v0) / 2), rel=1e-5)
    np.testing.assert_allclose(flat(p.grad for p in parameters), length * arc(v0, v1, 1.5), rtol=1e-7)


def test_frozen_and_unperturbed_parameters_descend_as_in_sam() -> None:
    """Only perturbed parameters lie in the plane; the others get g_k; the frozen ones nothing."""
    bowl = Bowl()
    parameters = bowl.parameters()
    parameters[2].requires_grad_(False)
    base = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "perturb": False}], lr=0.0)
    XSAM(base, rho=0.3, alpha=0.5).step(bowl.closure(parameters))
    w, rows = bowl.start, slice(0, 6)
    g0 = bowl.grad(w)[rows]
    eps = np.zeros_like(w)
    eps[rows] = 0.3 * unit(g0)
    g1 = bowl.grad(w + eps)
    expected = np.linalg.norm(g1[rows]) * arc(unit(g0), unit(g1[rows]), 0.5)
    np.testing.assert_allclose(flat(parameters[:1][k].grad for k in range(1)), expected, rtol=1e-10)
    np.testing.assert_allclose(flat([parameters[1].grad]), g1[6:10], rtol=1e-10)
    assert parameters[2].grad is None and same([parameters[2].reshape(-1)], [torch.tensor(w[10:])])
