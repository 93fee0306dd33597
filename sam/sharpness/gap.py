"""Losses, accuracies, calibration and the generalization gap."""

from __future__ import annotations

import torch
from torch import Tensor

from sam.config import SharpnessConfig
from sam.core import vectors
from sam.sharpness.dataset_loss import Criterion, cross_entropy, noisy_cross_entropy
from sam.sharpness.subject import Measures, Result, Sizes, Subject

VERSION = 2  # 2: ece


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    """At most: the training loss costs nothing where L^Asc was measured before."""
    return sizes.test + (0 if "ascent" in config.chosen else sizes.train)


def measure(subject: Subject) -> Result:
    """Mean cross-entropies in nats, accuracies and errors in percent.

    test_loss, test_accuracy     the test set and its true labels; test_loss is the negative log-likelihood (NLL), under this one name.
    test_loss_channel            the test loss in expectation over the label channel that corrupted the training labels.
    ece                          expected calibration error of the test set, in percent: see `calibration_error`.
    train_loss, train_accuracy   the unaugmented training set, the labels trained on.
    gap, error_gap               test_loss_channel - train_loss; training accuracy - test accuracy.
    weight_norm                  ||w||.

    BatchNorm in eval mode. Without a test set, only the training values.
    """
    train = subject.train_value()
    values: Measures = {"train_loss": train.loss, "train_accuracy": train.accuracy}
    if subject.test is not None:
        loss = subject.loss("test")
        with loss.measuring():
            outputs = loss.outputs()
        accuracy = 100 * (outputs.argmax(1) == loss.labels).double().mean().item()
        channel = _mean(noisy_cross_entropy(subject.label_noise), outputs, loss.labels)
        values |= {"test_loss": _mean(cross_entropy, outputs, loss.labels), "test_accuracy": accuracy, "test_loss_channel": channel}
        values["ece"] = calibration_error(outputs, loss.labels, subject.config.gap.bins)
        values |= {"gap": channel - train.loss, "error_gap": train.accuracy - accuracy}
    values["weight_norm"] = vectors.norm([p.detach() for p in subject.model.parameters()]).item()
    return Result(values)


def _mean(criterion: Criterion, outputs: Tensor, labels: Tensor) -> float:
    return criterion(outputs, labels).double().mean().item()


@torch.no_grad()
def calibration_error(logits: Tensor, labels: Tensor, bins: int) -> float:
    """Expected calibration error in percent (Guo et al. 2017, Eq. 3): the mean over samples of |accuracy - mean confidence| of a sample's
    bin. logits (n, classes), labels (n,). Confidence is the largest softmax probability, in float64; bin b of `bins` equally wide ones
    is ((b - 1)/bins, b/bins]. NaN if a logit is.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    inner = torch.arange(1, bins, dtype=torch.float64, device=logits.device) / bins
    index = torch.bucketize(confidence, inner)
    excess = (predicted == labels).double() - confidence
    return 100 * torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, index, excess).abs().sum().item() / len(labels)
