"""Losses with closed-form gradients, the papers' updates written out in NumPy, and the small nets that the tests share.

Nothing here uses `sam`: the oracles are written from the papers' equations, in float64, with one flat vector.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Array = NDArray[np.float64]
Grad = Callable[[Array], Array]
SHAPES = ((3, 2), (4,), (1, 2))  # several tensors, so that one norm over all differs from a norm of each
SIZE = 12
RULES = ("split", "project", "accumulate", "boundary")


class Bowl:
    """L(w) = 1/2 w'Aw + b'w + c/4 sum w^4, its gradient and Hessian in NumPy, and the same loss over torch parameters.

    c > 0 makes the curvature depend on w: on a pure quadratic several variants of the method coincide.
    """

    def __init__(self, seed: int = 0, quartic: float = 0.3, shapes: tuple[tuple[int, ...], ...] = SHAPES, matrix: Array | None = None):
        random = np.random.RandomState(seed)
        self.shapes, self.sizes = shapes, [int(np.prod(s)) for s in shapes]
        size = sum(self.sizes)
        root = random.standard_normal((size, size)) / size**0.5
        self.matrix = root @ root.T + 0.1 * np.eye(size) if matrix is None else matrix
        self.slope, self.quartic = random.standard_normal(size) if matrix is None else np.zeros(size), quartic
        self.start = random.standard_normal(size)

    def loss(self, w: Array) -> float:
        return float(0.5 * w @ self.matrix @ w + self.slope @ w + self.quartic / 4 * (w**4).sum())

    def grad(self, w: Array) -> Array:
        return self.matrix @ w + self.slope + self.quartic * w**3

    def parameters(self, start: Array | None = None, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
        w = torch.tensor(self.start if start is None else start, dtype=dtype)
        return [nn.Parameter(p.reshape(s).clone()) for p, s in zip(w.split(self.sizes), self.shapes, strict=True)]

    def closure(self, parameters: list[nn.Parameter], shift: float = 0.0) -> Callable[..., Tensor]:
        matrix, slope = (torch.tensor(x, dtype=parameters[0].dtype) for x in (self.matrix, self.slope))

        def evaluate(backward: bool = True) -> Tensor:
            w = torch.cat([p.reshape(-1) for p in parameters])
            loss = 0.5 * w @ matrix @ w + slope @ w + self.quartic / 4 * (w**4).sum() + shift
            if backward:
                loss.backward()
            return loss

        return evaluate


def flat(parameters: Any) -> Array:
    return torch.cat([p.detach().reshape(-1) for p in parameters]).double().numpy().copy()


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x)


class BaseSGD:
    """SGD with momentum, Nesterov and coupled weight decay, from torch's documentation of the algorithm."""

    def __init__(self, lr: float, momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> None:
        self.lr, self.momentum, self.nesterov, self.decay = lr, momentum, nesterov, decay
        self.buffer: Array | None = None

    def step(self, w: Array, gradient: Array) -> Array:
        gradient = gradient + self.decay * w
        if self.momentum:
            self.buffer = gradient.copy() if self.buffer is None else self.momentum * self.buffer + gradient
            gradient = gradient + self.momentum * self.buffer if self.nesterov else self.buffer
        return w - self.lr * gradient


def ascent_points(grad: Grad, w: Array, rho: float, steps: int, rule: str) -> list[Array]:
    """w^1 .. w^N by the step rule: Tiwary & Aananth 2024, Eq. 5 (split), and its three variants."""
    eps = np.zeros_like(w)
    points = []
    for n in range(steps):
        length = rho / steps if rule in ("split", "boundary") else rho
        eps = eps + length * unit(grad(w + eps))
        if steps > 1 and rule == "project" and np.linalg.norm(eps) > rho:
            eps = rho * unit(eps)
        if steps > 1 and rule == "boundary" and n == steps - 1:
            eps = rho * unit(eps)
        points.append(w + eps)
    return points


def sam_gradient(grad: Grad, w: Array, rho: float, steps: int = 1, rule: str = "split", descent: str = "last") -> Array:
    points = ascent_points(grad, w, rho, steps, rule)
    return np.mean([grad(p) for p in points], axis=0) if descent == "mean" else grad(points[-1])


def arc(v0: Array, v1: Array, alpha: float) -> Array:
    """v(alpha) of XSAM's Eq. 6 from two unit vectors, by arccos."""
    psi = np.arccos(np.clip(v0 @ v1, -1, 1))
    return (np.sin((1 - alpha) * psi) * v0 + np.sin(alpha * psi) * v1) / np.sin(psi)


def xsam_plane(grad: Grad, w: Array, rho: float, steps: int = 1, rule: str = "split") -> tuple[Array, Array, float]:
    """(v0, v1, ||g_k||)."""
    last = ascent_points(grad, w, rho, steps, rule)[-1]
    g = grad(last)
    return unit(last - w), unit(g), float(np.linalg.norm(g))


# ------------------------------------------------------------------------------------------------------------ small nets


class Net(nn.Module):
    """Two convolutions with BatchNorm (and dropout, if asked), weights from NumPy numbers."""

    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 0, dropout: float = 0.0, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, momentum=momentum)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, momentum=momentum)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(4, 3)
        self.to(dtype)
        random = np.random.RandomState(seed)
        with torch.no_grad():
            for p in self.parameters():
                noise = torch.tensor(random.standard_normal(p.shape), dtype=dtype)
                p.copy_(noise * 0.3 if p.ndim > 1 else p * 0 + 1 + 0.1 * noise)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.head(self.dropout(x.mean((2, 3))))


def batch(size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    random = np.random.RandomState(1000 + seed)
    return torch.tensor(random.standard_normal((size, 2, 5, 5)), dtype=dtype), torch.tensor(random.randint(0, 3, size))


def net_closure(model: nn.Module, data: tuple[Tensor, Tensor]) -> Callable[..., Tensor]:
    def evaluate(backward: bool = True) -> Tensor:
        loss = functional.cross_entropy(model(data[0]), data[1])
        if backward:
            loss.backward()
        return loss

    return evaluate


def net_gradient(model: nn.Module, data: tuple[Tensor, Tensor], w: Array, decay: float = 0.0) -> Array:
    """Gradient of the mean cross-entropy at w, in float64, on a copy of the model (train-mode BatchNorm), plus decay * w."""
    twin = copy.deepcopy(model).double()
    nn.utils.vector_to_parameters(torch.tensor(w), twin.parameters())
    loss = functional.cross_entropy(twin(data[0].double()), data[1])
    return flat(torch.autograd.grad(loss, list(twin.parameters()))) + decay * w


def buffers(model: nn.Module) -> list[Tensor]:
    return [b.clone() for b in model.buffers()]


def same(x: Any, y: Any) -> bool:
    """Bitwise equality of two lists of tensors."""
    return len(x) == len(y) and all(torch.equal(a, b) for a, b in zip(x, y, strict=True))
