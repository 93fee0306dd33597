"""The losses that a run may be trained with, and is then measured with: outputs (b, classes) and labels (b,) -> losses (b,)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Criterion = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: str = "none") -> Tensor:
    """Cross-entropy in nats of the softmax of the outputs: (b,), or 0-d with reduction="mean"."""
    return functional.cross_entropy(outputs, labels, label_smoothing=label_smoothing, reduction=reduction)


def mse(outputs: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: str = "none") -> Tensor:
    """Mean over the classes of (output - target)²: (b,), or its mean over the samples, 0-d, with reduction="mean".

    The target is the one-hot label; with label smoothing s, (1 - s) times it plus s / classes. An output of zeros has the loss 1 / classes.
    Nothing is rescaled. Another convention is that of Hui & Belkin 2021, who, where classes are many, weight the label's class by k and
    put its target at M (here k = M = 1).
    """
    exact = torch.promote_types(outputs.dtype, torch.float32)  # autocast's outputs are short
    target = functional.one_hot(labels, outputs.shape[1]).to(exact)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / outputs.shape[1]
    losses = (outputs - target).square().mean(1)
    return losses if reduction == "none" else losses.mean()


CRITERIA: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "mse": mse}


def under_label_noise(criterion: Criterion, noise: float) -> Criterion:
    """`criterion` in expectation over a symmetric label channel: with probability `noise` a label is replaced by one of the other classes,
    each as likely. With noise 0 it is `criterion` itself."""
    if noise == 0:
        return criterion

    def on_average(outputs: Tensor, labels: Tensor) -> Tensor:
        classes = outputs.shape[1]
        losses = torch.stack([criterion(outputs, torch.full_like(labels, k)) for k in range(classes)], dim=1)
        right = losses.gather(1, labels[:, None]).squeeze(1)
        wrong = (losses.sum(1) - right) / (classes - 1)
        return (1 - noise) * right + noise * wrong

    return on_average
