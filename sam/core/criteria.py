"""The losses that a run may be trained with, and is then measured with: outputs (b, classes) and labels (b,) -> losses (b,)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

Criterion = Callable[[Tensor, Tensor], Tensor]

cross_entropy = partial(functional.cross_entropy, reduction="none")  # in nats, of the softmax of the outputs


def mse(outputs: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: str = "none") -> Tensor:
    """Mean over the classes of (output - target)²: (b,), or its mean over the samples, 0-d, with reduction="mean". Target: one-hot labels;
    with label smoothing s, (1 - s) times it plus s / classes. Nothing is rescaled: in the terms of Hui & Belkin 2021, k = M = 1."""
    exact = torch.promote_types(outputs.dtype, torch.float32)  # autocast's outputs are short
    target = functional.one_hot(labels, outputs.shape[1]).to(exact)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / outputs.shape[1]
    losses = (outputs - target).square().mean(1)
    return losses if reduction == "none" else losses.mean()


CRITERIA: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "mse": mse}


def under_label_noise(criterion: Criterion, noise: float) -> Criterion:
    """`criterion` in expectation over a label channel that replaces a label, with probability `noise`, by a uniform wrong one."""
    if noise == 0:
        return criterion

    def on_average(outputs: Tensor, labels: Tensor) -> Tensor:
        classes = outputs.shape[1]
        losses = torch.stack([criterion(outputs, torch.full_like(labels, k)) for k in range(classes)], dim=1)
        right = losses.gather(1, labels[:, None]).squeeze(1)
        wrong = (losses.sum(1) - right) / (classes - 1)
        return (1 - noise) * right + noise * wrong

    return on_average
