"""Regression of ±1 by a small network, in float64: at an interpolating point the Hessian's non-zero eigenvalues are those of J J'/n, with J
the Jacobian of the outputs (n, D), so that λ1, trace and the smallest non-zero one are known exactly."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import data
from sam.core import seeds, vectors
from sam.core.vectors import Vector
from sam.theory.settings import NetworkConfig
from sam.theory.walks import Record, trajectory, walk

DIMENSIONS = 64


@dataclass(frozen=True)
class Regression:
    """inputs (n, d), targets (n,) of ±1; the loss of a sample is (output - target)² / 2."""

    inputs: Tensor
    targets: Tensor

    def residuals(self, weights: Vector, chosen: Tensor | None = None) -> Tensor:
        """a' tanh(W x + b) + c - target, with weights [W, b, a, c], of the chosen samples (None: all)."""
        (w, b, a, c), own = weights, slice(None) if chosen is None else chosen
        return torch.tanh(self.inputs[own] @ w.T + b) @ a + c - self.targets[own]

    def loss(self, weights: Vector, chosen: Tensor | None = None) -> Tensor:
        return self.residuals(weights, chosen).square().mean() / 2

    def jacobian(self, weights: Vector) -> Tensor:
        """Of the outputs, which is that of the residuals: (n, D), in the order of the weights."""
        parts = torch.func.jacrev(lambda *w: self.residuals(list(w)), argnums=tuple(range(len(weights))))(*(w.detach() for w in weights))
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def interpolate(self, weights: Vector) -> None:
        """Move the weights, in place, to a point of zero loss: Gauss-Newton steps of the least norm, cut at 0.5. ValueError if there is
        none near."""
        for _ in range(200):
            residuals = self.residuals(weights).detach()
            if residuals.abs().max() < 1e-13:
                return
            jacobian = self.jacobian(weights)
            step = jacobian.T @ torch.linalg.solve(jacobian @ jacobian.T, residuals)
            step *= min(1.0, 0.5 / step.norm().item())
            shift(weights, step, -1.0)
        if residuals.abs().max() > 1e-10:
            raise ValueError("no interpolating point was found; take fewer samples or more hidden units.")

    def measure(self, weights: Vector) -> Record:
        """The eigenvalues of J J'/n, and the gradient J'r/n in the basis of its eigenvectors, J'u / ||J'u||.

        cosine, cosine_smallest: |cos| with the top one and with that of the smallest eigenvalue; near_top: with the span of those within a
        tenth of λ1, as the top one may not stay alone. random_level: sqrt(2 / (pi n)), near that of a random one (n = 8: 0.28 for 0.29)."""
        n = len(self.targets)
        jacobian = self.jacobian(weights)
        values, left = torch.linalg.eigh(jacobian @ jacobian.T / n)
        residuals = self.residuals(weights).detach()
        parts = (values.clamp(min=0) / n).sqrt() * (left.T @ residuals)
        length = parts.norm().item()
        shares = parts.abs() / length
        return {
            **{"top": values[-1].item(), "second": values[-2].item(), "trace": values.sum().item(), "smallest": values[0].item()},
            **{"cosine": shares[-1].item(), "near_top": shares[values >= 0.9 * values[-1]].norm().item()},
            **{"cosine_smallest": shares[0].item(), "random_level": math.sqrt(2 / (math.pi * n)), "grad_norm": length},
            "loss": residuals.square().mean().item() / 2,
        }


def shift(weights: Vector, direction: Tensor, factor: float) -> None:
    """weights <- weights + factor * direction (D,), in place."""
    with torch.no_grad():
        vectors.add_(weights, vectors.shaped(direction, weights), factor)


def starting_point(config: NetworkConfig, seed: int) -> tuple[Regression, Vector]:
    """A task, and weights at the distance `kick` from an interpolating point."""
    draws = seeds.generator("cpu", seed, "theory")
    normal = lambda *shape: torch.randn(*shape, generator=draws, dtype=torch.float64)
    if config.inputs == "digits":
        digits = data.load(name="digits")
        images = digits.train_images.double().flatten(1)
        chosen = torch.randperm(len(images), generator=draws)[: config.samples]
        inputs = (images - images.mean(0))[chosen]
        inputs, targets = inputs / inputs.norm(dim=1, keepdim=True), digits.train_labels[chosen].double() % 2 * 2 - 1
    else:
        inputs = normal(config.samples, DIMENSIONS) / DIMENSIONS**0.5
        targets = torch.randint(2, (config.samples,), generator=draws).double() * 2 - 1
    task, d, h = Regression(inputs, targets), inputs.shape[1], config.hidden
    weights = [normal(h, d), torch.zeros(h, dtype=torch.float64), normal(h) / h**0.5, torch.zeros(1, dtype=torch.float64)]
    task.interpolate(weights)
    kick = normal(sum(w.numel() for w in weights))
    shift(weights, kick, config.kick / kick.norm().item())
    return task, [w.requires_grad_() for w in weights]


def branch(config: NetworkConfig, name: str, seed: int) -> list[Record]:
    """Walk of an arm from the starting point `seed`, which is the same for every arm."""
    task, weights = starting_point(config, seed)
    steps = walk(config.arms[name], weights, task.loss, config.samples, seeds.generator("cpu", seed, "order"))
    return trajectory(steps, config.steps(name), config.records, lambda: task.measure(weights))


def sam_edge(grad_norm: float, lr: float, rho: float) -> float:
    """The λ1 at which a gradient along the top eigenvector keeps its norm under SAM on a quadratic, lr λ (1 + rho λ/||g||) = 2: the "SAM
    edge of stability" of Long & Bartlett 2023 (arXiv 2309.12488; derived here, not read there). 2/lr for rho -> 0."""
    if not grad_norm or not rho:
        return 2 / lr
    return grad_norm / (2 * rho) * (math.sqrt(1 + 8 * rho / (lr * grad_norm)) - 1)
