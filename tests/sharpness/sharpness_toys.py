"""Toys whose sharpness is known: a network whose cross-entropy is a given quadratic, a small image net, and what must not move."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sam.sharpness.context import Context, Measures, Notion, Sizes, Split, work
from sam.sharpness.settings import SharpnessConfig

OFFSET = 200.0  # keeps every toy loss positive, as a cross-entropy must be


class Quadratics(nn.Module):
    """Sample i has the loss w'A_i w / 2 + b_i'w; an input is the matrix [A_i | b_i]."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        a, b = inputs[:, :, :-1], inputs[:, :, -1]
        return torch.einsum("i,nij,j->n", self.w, a, self.w) / 2 + b @ self.w


class Quadratic(nn.Module):
    """Two logits whose cross-entropy with label 0 is w'Aw/2 + b'w + OFFSET, with another [A | b] for every sample (the input).

    log(1 + exp(s)) = q for s = log(exp(q) - 1). The parameters are two tensors, so that one norm over all is not one norm each.
    """

    def __init__(self, w: np.ndarray) -> None:
        super().__init__()
        w = torch.from_numpy(np.asarray(w, dtype=np.float64))
        self.head, self.tail = nn.Parameter(w[:2].clone()), nn.Parameter(w[2:].clone().reshape(-1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        w = torch.cat([self.head, self.tail.flatten()])
        a, b = inputs[:, :, :-1], inputs[:, :, -1]
        q = torch.einsum("i,nij,j->n", w, a, w) / 2 + b @ w + OFFSET
        s = q + torch.log(-torch.expm1(-q))
        return torch.stack([torch.zeros_like(s), s], dim=1)


def problem(h: np.ndarray, g: np.ndarray, w: np.ndarray, n: int = 7, seed: int = 0) -> Tensor:
    """(n, d, d + 1) samples whose mean loss has the Hessian h everywhere and the gradient g at w; every sample is another quadratic."""
    draw, d = np.random.RandomState(seed), len(g)
    a, b = draw.randn(n, d, d) / 2, draw.randn(n, d) / 2
    a = a + a.transpose(0, 2, 1)
    a += h - a.mean(axis=0)
    b += g - h @ w - b.mean(axis=0)
    return torch.from_numpy(np.concatenate([a, b[:, :, None]], axis=2))


def quadratic(h: np.ndarray, g: np.ndarray, w: np.ndarray, n: int = 7, **options: Any) -> Context:
    """The context whose training loss around w is g'e + e'he/2; `options`: of SharpnessConfig."""
    inputs = problem(h, g, w, n)
    config = SharpnessConfig.of(**({"batch_size": 3} | options))
    return Context(Quadratic(w), Split(inputs, torch.zeros(n, dtype=torch.int64)), None, config)


def random_problem(d: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(indefinite Hessian, gradient, w)."""
    draw = np.random.RandomState(seed)
    a = draw.randn(d, d)
    return a + a.T, draw.randn(d), draw.randn(d)


def rise(h: np.ndarray, g: np.ndarray, e: np.ndarray) -> float:
    return float(g @ e + e @ h @ e / 2)


def trust_region(h: np.ndarray, g: np.ndarray, rho: float) -> float:
    """max of g'e + e'He/2 over ||e|| <= rho: (mu I - H) e = g with mu >= max(lambda, 0), by bisection on mu in the eigenbasis."""
    eigenvalues, q = np.linalg.eigh(h)
    c = q.T @ g
    if eigenvalues[-1] < 0 and np.linalg.norm(c / eigenvalues) <= rho:
        return rise(h, g, q @ (-c / eigenvalues))  # the top of a concave loss lies inside
    low, high = max(eigenvalues[-1], 0.0), max(eigenvalues[-1], 0.0) + np.linalg.norm(g) / rho + 1e-300
    gap = low - eigenvalues
    inner = np.divide(c, gap, out=np.zeros_like(c), where=(np.abs(c) > 1e-13) & (gap > 1e-13))
    if not ((np.abs(c) > 1e-13) & (gap <= 1e-13)).any() and np.linalg.norm(inner) <= rho:  # the hard case
        inner[-1] += math.sqrt(rho**2 - inner @ inner)
        return rise(h, g, q @ inner)
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if np.linalg.norm(c / (mu - eigenvalues)) > rho else (low, mu)
    return rise(h, g, q @ (c / (high - eigenvalues)))


def measure(name: str, context: Context) -> Measures:
    return Notion(name).measure(context).values


# ------------------------------------------------------------------------------------------------------------ a network of layers


def network() -> nn.Module:
    """BatchNorm, dropout, a frozen layer, mixed modes, gradients lying about, float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 8), nn.Linear(8, 3))
    net = net.double()
    net(torch.randn(9, 1, 6, 6, dtype=torch.float64))
    net.train()[1].eval()
    net[6].weight.requires_grad_(False)
    for p in net[0].parameters():
        p.grad = torch.randn_like(p)
    return net


def net_context(
    model: nn.Module | None = None, progress: Callable[[float], None] = lambda units: None, device: str = "cpu", **options: Any
) -> Context:
    """13 images, so that every batch size but 1 leaves a ragged one."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (13, 1, 6, 6), dtype=torch.uint8, generator=generator).to(device)
    labels = torch.randint(3, (13,), generator=generator).to(device)
    config = SharpnessConfig.of(**({"batch_size": 4} | options))
    model = (model or network()).to(device)
    return Context(model, Split(images, labels), None, config, lambda x: (x.double() / 255 - 0.5) / 0.3, progress=progress)


def dense(net: nn.Module, data: Split) -> tuple[Tensor, Tensor]:
    """(gradient (D,), Hessian (D, D)) of the mean cross-entropy, by torch.func over all samples at once."""
    names = [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]

    def loss(flat: Tensor) -> Tensor:
        pieces = flat.split([s.numel() for s in shapes])
        weights = {n: piece.view(s) for n, piece, s in zip(names, pieces, shapes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(net, weights, (data.inputs,)), data.labels)

    w = torch.cat([p.detach().flatten() for p in net.parameters()])
    return torch.func.grad(loss)(w), torch.func.hessian(loss)(w)


def state(model: nn.Module) -> list[object]:
    """Everything that measuring must not move, as values that compare bitwise."""
    tensors = [(name, t.detach().clone(), t.data_ptr()) for name, t in model.state_dict(keep_vars=True).items()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    return [tensors, grads, modes, [p.requires_grad for p in model.parameters()], torch.get_rng_state()]


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def hold_the_rules(name: str, **options: Any) -> None:
    """What every notion must hold: nothing moves, twice is the same, batches do not matter, and the work foretold is the work done."""
    model, done = network(), []
    before = state(model)
    first = measure(name, net_context(model, done.append, **options))
    assert first and same(before, state(model))
    assert repr(first) == repr(measure(name, net_context(model, **options)))
    assert same(before, state(model))
    assert sum(done) == work([name], Sizes(13, 0, sum(p.numel() for p in model.parameters())), SharpnessConfig.of(**options))
    whole = measure(name, net_context(model, **(options | {"batch_size": 500})))
    assert whole.keys() == first.keys()
    for key, value in first.items():
        assert (value is None) == (whole[key] is None), key
        assert value is None or abs(value - whole[key]) <= 1e-9 * max(1.0, abs(value)), key  # type: ignore[operator]


class Stop(Exception):
    pass


def fails_cleanly(name: str, **options: Any) -> None:
    """Wherever it is interrupted, everything is put back."""
    model, ticks = network(), []
    before = state(model)
    measure(name, net_context(model, ticks.append, **options))
    for last in {1, 2, len(ticks) // 2, len(ticks) - 1, len(ticks)}:
        seen: list[float] = []

        def tick(units: float, seen: list[float] = seen, last: int = last) -> None:
            seen.append(units)
            if len(seen) == last:
                raise Stop

        try:
            measure(name, net_context(model, tick, **options))
        except Stop:
            pass
        else:
            raise AssertionError(f"the stop at {last} was swallowed")
        assert same(before, state(model)), last
