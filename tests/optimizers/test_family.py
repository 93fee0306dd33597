"""The methods of other papers, each against its formula in NumPy: 24 steps of a BatchNorm net in float64 with Nesterov momentum, decay in
the loss and in the optimizer, a falling learning rate, another batch in each step; with one rho, and with parameter groups of their own."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from optimizer_oracles import Array, BaseSGD, Net, batch, buffers, flat, net_closure, net_gradient, unit
from registered import of
from torch import nn

from sam.core.passes import Passes
from sam.optimizers.build import around
from sam.optimizers.settings import OptimizerConfig

STEPS, LR, RHO, IN_LOSS, IN_STEP = 24, 0.04, 0.15, 5e-3, 1e-3
SHAPES = [(name, tuple(p.shape)) for name, p in Net().named_parameters()]
SIZES = [math.prod(shape) for _, shape in SHAPES]
Gradient = Callable[[Array], Array]


def spread(values: list[float]) -> Array:
    """A number for each parameter tensor, as a flat vector."""
    return np.repeat(values, SIZES).astype(float)


class Setting:
    """What an oracle may look at: the step, its rate, rho of each entry (0 where it is not perturbed), the base's momentum."""

    def __init__(self, grouped: bool) -> None:
        self.step, self.rate = 0, LR
        self.rho = spread([0.1] * 3 + [0.0] * 3 + [0.2] * 2) if grouped else spread([RHO] * 8)
        self.moved = (self.rho > 0).astype(float)
        self.base = BaseSGD(LR, 0.9, nesterov=True, decay=IN_STEP)
        self.draws = torch.Generator().manual_seed(3)


# An oracle takes each step's gradient function and weights and yields (direction for the base, where the first pass was).
Oracle = Callable[[Setting], Callable[[Gradient, Array], tuple[Array, Array]]]


def asam(eta: float, biases: bool) -> Oracle:
    """Kwon et al. 2021, Eq. 6; T = 1 for what is no "weight" in the authors' code."""
    scaled = spread([float(biases or "weight" in name) for name, _ in SHAPES])

    def make(s: Setting) -> Any:
        def step(grad: Gradient, w: Array) -> tuple[Array, Array]:
            t = np.where(scaled, np.abs(w) + eta, 1.0)
            g = grad(w) * s.moved
            return grad(w + s.rho * t * t * g / np.linalg.norm(t * g)), w

        return step

    return make


def weighted(a: float, normalized: bool) -> Oracle:
    """Zhao et al. 2022, Eq. 12 with alpha = a; Dai et al. 2023 (USAM): a = 1, no norm; Yue et al. 2023: a = gamma / (1 - gamma)."""

    def make(s: Setting) -> Any:
        def step(grad: Gradient, w: Array) -> tuple[Array, Array]:
            g = grad(w)
            eps = s.rho * (unit(g * s.moved) if normalized else g)
            return (1 - a) * g + a * grad(w + eps), w

        return step

    return make


def gsam(alpha: float, floor: float) -> Oracle:
    """Zhuang et al. 2022, Algorithm 1, rho_t = rho_min + (rho_max - rho_min) lr_t / lr_max; g split along the perturbed part of g_p."""

    def make(s: Setting) -> Any:
        def step(grad: Gradient, w: Array) -> tuple[Array, Array]:
            g = grad(w) * s.moved
            p = grad(w + s.rho * (floor + (1 - floor) * s.rate / LR) * unit(g))
            along = unit(p * s.moved)
            return p - alpha * (g - (g @ along) * along), w

        return step

    return make


def friendly(sigma: float, decay: float) -> Oracle:
    """Li et al. 2024 (F-SAM), as in the authors' code: the mean is that of the steps before, and the first gradient in the first."""

    def make(s: Setting) -> Any:
        means: list[Array] = []

        def step(grad: Gradient, w: Array) -> tuple[Array, Array]:
            g = grad(w) * s.moved
            d = g - sigma * means[-1] if means else g
            means.append(decay * means[-1] + (1 - decay) * g if means else g)
            return grad(w + s.rho * unit(d)), w

        return step

    return make


def vasso(theta: float) -> Oracle:
    """Li & Giannakis 2023, Eq. 4."""

    def make(s: Setting) -> Any:
        seen: list[Array] = []

        def step(grad: Gradient, w: Array) -> tuple[Array, Array]:
            g = grad(w) * s.moved
            seen.append((1 - theta) * seen[-1] + theta * g if seen else g)
            return grad(w + s.rho * unit(seen[-1])), w

        return step

    return make


def momentum(s: Setting) -> Any:
    """Becker et al. 2024, Algorithm 1."""

    def step(grad: Gradient, w: Array) -> tuple[Array, Array]:
        v = s.base.buffer
        there = w if v is None else w - s.rho * unit(v * s.moved)
        return grad(there), there

    return step


def late(first: int, steps: int, end: float = math.inf) -> Oracle:
    """Zhou et al. 2024: SGD's steps, then SAM's (here of `steps` ascents)."""

    def make(s: Setting) -> Any:
        def step(grad: Gradient, w: Array) -> tuple[Array, Array]:
            there = w
            for _ in range(steps if first <= s.step < end else 0):
                there = there + s.rho / steps * unit(grad(there) * s.moved)
            return grad(there), w

        return step

    return make


def rwp(a: float, eta: float, beta: float) -> Oracle:
    """Li et al. 2022 and 2024: Gaussian noise in units of the filters' norms, damped by the filters' squared gradients."""

    def make(s: Setting) -> Any:
        squares = np.zeros(sum(SIZES))

        def step(grad: Gradient, w: Array) -> tuple[Array, Array]:
            nonlocal squares
            pieces, start = [], 0
            for (_, shape), size in zip(SHAPES, SIZES, strict=True):
                part, f = w[start : start + size].reshape(shape), squares[start : start + size].reshape(shape)
                if not s.moved[start]:  # no draw for what is not perturbed
                    pieces.append(np.zeros(size))
                else:
                    z = torch.empty(shape, dtype=torch.float64).normal_(generator=s.draws).numpy()
                    if len(shape) > 1:
                        rows = part.reshape(shape[0], -1), f.reshape(shape[0], -1)
                        over = (-1, *[1] * (len(shape) - 1))
                        size_of, f = np.sqrt((rows[0] ** 2).sum(1)).reshape(over), rows[1].sum(1).reshape(over)
                    else:
                        size_of = np.linalg.norm(part)
                    pieces.append((z * size_of / np.sqrt(1 + eta * f)).reshape(-1))
                start += size
            there = w + s.rho * np.concatenate(pieces)
            p = grad(there)
            squares = beta * squares + (p * s.moved) ** 2
            return (p, there) if a == 1 else ((1 - a) * grad(w) + a * p, w)

        return step

    return make


def looksam(interval: int, alpha: float) -> Oracle:
    """Liu et al. 2022, Algorithm 1."""

    def make(s: Setting) -> Any:
        kept: list[Array] = []

        def step(grad: Gradient, w: Array) -> tuple[Array, Array]:
            g = grad(w)
            own = g * s.moved
            if s.step % interval:
                return g + alpha * np.linalg.norm(own) * unit(kept[-1]), w
            p = grad(w + s.rho * unit(own))
            inside = p * s.moved
            kept.append(inside - np.linalg.norm(inside) * (unit(own) @ unit(inside)) * unit(own))
            return p, w

        return step

    return make


CASES: dict[str, tuple[dict[str, Any], Oracle]] = {
    "asam": ({"method": "asam", "asam_eta": 0.01}, asam(0.01, biases=False)),
    "asam_biases": ({"method": "asam", "asam_eta": 0.0, "asam_biases": True}, asam(0.0, biases=True)),
    "usam": ({"method": "weighted_sam", "normalized": False}, weighted(1.0, normalized=False)),
    "gradient_norm": ({"method": "weighted_sam", "perturbed_weight": 0.8}, weighted(0.8, normalized=True)),
    "wsam": ({"method": "weighted_sam", "perturbed_weight": 0.9 / (1 - 0.9)}, weighted(0.9 / (1 - 0.9), normalized=True)),
    "gsam": ({"method": "gsam", "gsam_alpha": 0.4}, gsam(0.4, 1.0)),
    "gsam_falling": ({"method": "gsam", "gsam_alpha": 0.2, "gsam_floor": 0.25}, gsam(0.2, 0.25)),
    "friendly_sam": ({"method": "friendly_sam", "fsam_lambda": 0.6}, friendly(1.0, 0.6)),
    "friendly_half": ({"method": "friendly_sam", "fsam_sigma": 0.5, "fsam_lambda": 0.95}, friendly(0.5, 0.95)),
    "momentum_sam": ({"method": "momentum_sam"}, momentum),
    "late_sam": ({"method": "late_sam", "start": 0.5}, late(12, 1)),
    "early_sam": ({"method": "late_sam", "start": 0.1, "stop": 0.5}, late(2, 1, 12)),
    "late_n2": ({"method": "late_sam", "start": 0.26, "ascent_steps": 2}, late(6, 2)),
    "rwp": ({"method": "rwp"}, rwp(1.0, 0.0, 0.0)),
    "m_rwp": ({"method": "rwp", "perturbed_weight": 0.5}, rwp(0.5, 0.0, 0.0)),
    "arwp": ({"method": "rwp", "rwp_eta": 3.0, "rwp_beta": 0.9}, rwp(1.0, 3.0, 0.9)),
    "m_arwp": ({"method": "rwp", "perturbed_weight": 0.3, "rwp_eta": 3.0, "rwp_beta": 0.99}, rwp(0.3, 3.0, 0.99)),
    "looksam": ({"method": "looksam", "looksam_interval": 5}, looksam(5, 0.7)),
    "looksam_k2": ({"method": "looksam", "looksam_interval": 2, "looksam_alpha": 0.3}, looksam(2, 0.3)),
    "vasso": ({"method": "vasso"}, vasso(0.9)),
    "vasso_slow": ({"method": "vasso", "vasso_theta": 0.2}, vasso(0.2)),
}


def both(keys: dict[str, Any], oracle: Oracle, grouped: bool) -> Iterator[tuple[nn.Module, nn.Module, Array]]:
    """Step by step: our model, one that had the BatchNorm updates of the oracle's first passes, the oracle's weights."""
    s, model = Setting(grouped), Net()
    twin, parts = copy.deepcopy(model), list(model.parameters())
    groups = [{"params": parts[:3], "rho": 0.1}, {"params": parts[3:6], "perturb": False}, {"params": parts[6:], "rho": 0.2}]
    base = torch.optim.SGD(groups if grouped else parts, lr=LR, momentum=0.9, nesterov=True, weight_decay=IN_STEP, fused=True)
    config = OptimizerConfig.of(**keys, rho=RHO)
    run: dict[str, Any] = {"steps_per_epoch": 6, "total_steps": STEPS, "generator": torch.Generator().manual_seed(3)}
    optimizer = around(base, config, passes=Passes(model), loss_decay=IN_LOSS, **run)
    advance, w = oracle(s), flat(parts)
    for k in range(STEPS):
        s.step, s.rate = k, LR * 0.5 * (1 + math.cos(math.pi * k / STEPS))
        s.base.lr = s.rate
        for group in optimizer.param_groups:
            group["lr"] = s.rate
        data = batch(8 if k % 4 else 5, k)
        direction, first = advance(lambda x, data=data: net_gradient(twin, data, x, IN_LOSS), w)  # type: ignore[misc]
        nn.utils.vector_to_parameters(torch.tensor(first), twin.parameters())
        twin(data[0])
        w = s.base.step(w, direction)
        optimizer.step(net_closure(model, data))
        yield model, twin, w


GROUPED = ["asam_biases", "usam", "wsam", "gsam_falling", "friendly_half", "late_n2", "m_rwp", "m_arwp", "looksam_k2", "vasso_slow"]


@pytest.mark.parametrize(
    ("name", "grouped"),
    [
        *((name, False) for name in CASES if name not in GROUPED),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in (*GROUPED, "momentum_sam")),
    ],
)
def test_against_its_formula(name: str, grouped: bool) -> None:
    start = flat(Net().parameters())
    for model, twin, w in both(*CASES[name], grouped):
        np.testing.assert_allclose(flat(model.parameters()), w, rtol=1e-9, atol=1e-11)
        for got, expected in zip(buffers(model), buffers(twin), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    assert np.linalg.norm(w - start) > 0.1


@pytest.mark.slow
def test_the_formulas_differ() -> None:
    """No two cases end alike, nor as SAM or SGD do: each key is read."""
    plain = {"sam": ({"method": "sam"}, weighted(1.0, normalized=True)), "sgd": ({"method": "sgd"}, weighted(0.0, normalized=True))}
    ends = [list(itertools.islice(both(*case, False), 15))[-1][2] for case in (CASES | plain).values()]
    assert min(np.linalg.norm(a - b) for i, a in enumerate(ends) for b in ends[:i]) > 1e-4


MEMORIES: dict[str, dict[str, Any]] = {
    "friendly_sam": {"method": "friendly_sam"},
    "vasso": {"method": "vasso", "vasso_theta": 0.3},
    "looksam": {"method": "looksam", "looksam_interval": 2},
}


@pytest.mark.parametrize("name", MEMORIES)
def test_groups_of_samples_share_one_memory(name: str) -> None:
    """It is made of gradients averaged over the groups; each group's direction of its own gradient and that memory."""
    model = Net()
    w, kept = flat(model.parameters()), np.zeros(sum(SIZES))
    optimizer = of(**MEMORIES[name], rho=RHO)(torch.optim.SGD(model.parameters(), lr=LR), passes=Passes(model))
    shares = (0.6, 0.4)
    for k in range(5):
        data = [batch(6, 2 * k), batch(4, 2 * k + 1)]
        expected, mean, mean_there = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
        for share, part in zip(shares, data, strict=True):
            g = net_gradient(model, part, w)
            if name == "looksam" and k % 2:
                expected += share * (g + 0.7 * np.linalg.norm(g) * unit(kept))
                continue
            d = {"friendly_sam": g - kept, "vasso": 0.7 * kept + 0.3 * g if k else g, "looksam": g}[name]
            there = net_gradient(model, part, w + RHO * unit(d))
            expected, mean, mean_there = expected + share * there, mean + share * g, mean_there + share * there
        if name == "looksam":
            kept = kept if k % 2 else mean_there - (mean_there @ unit(mean)) * unit(mean)
        else:
            decay = {"friendly_sam": 0.6, "vasso": 0.7}[name] if k else 0.0
            kept = decay * kept + (1 - decay) * mean
        optimizer.step([net_closure(model, part) for part in data], weights=shares)
        w = w - LR * expected
        np.testing.assert_allclose(flat(model.parameters()), w, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_looksam_adds_nothing_where_the_two_gradients_are_parallel(dtype: torch.dtype) -> None:
    """A loss linear in the weights: what is orthogonal is rounding, and must not be blown up to the gradient's length."""
    slope = torch.randn(50, dtype=dtype, generator=torch.Generator().manual_seed(1))
    w = nn.Parameter(torch.zeros(50, dtype=dtype))
    optimizer = of(method="looksam", looksam_interval=3)(torch.optim.SGD([w], lr=1.0))

    def closure(backward: bool = True) -> torch.Tensor:
        loss = w @ slope
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    torch.testing.assert_close(w.detach(), -5 * slope)


def test_a_skipped_step_leaves_the_memory_alone() -> None:
    for name in MEMORIES:
        model = Net()
        optimizer = of(**MEMORIES[name])(torch.optim.SGD(model.parameters(), lr=LR), passes=Passes(model))
        for k, bad in enumerate((False, False, True)):
            before = [t.clone() for t in optimizer.kept]  # type: ignore[attr-defined]
            inner = net_closure(model, batch(seed=k))
            optimizer.step(lambda inner=inner, bad=bad, model=model: inner() + spoil(model) if bad else inner())
        assert int(optimizer.skipped) == 1 and before
        assert all(torch.equal(a, b) for a, b in zip(before, optimizer.kept, strict=True))  # type: ignore[attr-defined]


def spoil(model: Net) -> float:
    assert model.conv2.weight.grad is not None
    model.conv2.weight.grad[0, 0, 0, 0] = float("nan")
    return 0.0
