"""Losses, accuracies and the generalization gap."""

from __future__ import annotations

from sam.config import SharpnessConfig
from sam.core import vectors
from sam.sharpness.dataset_loss import noisy_cross_entropy
from sam.sharpness.subject import Measures, Result, Sizes, Subject

VERSION = 1


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    """At most: the training loss costs nothing where L^Asc was measured before."""
    return 2 * sizes.test + (0 if "ascent" in config.chosen else sizes.train)


def measure(subject: Subject) -> Result:
    """Mean cross-entropies in nats, accuracies in percent.

    test_loss, test_accuracy     the test set and its true labels.
    test_loss_channel            the test loss in expectation over the label channel that corrupted the training labels.
    train_loss, train_accuracy   the unaugmented training set, the labels trained on.
    gap, error_gap               test_loss_channel - train_loss; training accuracy - test accuracy.
    weight_norm                  ||w||.

    BatchNorm in eval mode. Without a test set, only the training values.
    """
    train = subject.train_value()
    values: Measures = {"train_loss": train.loss, "train_accuracy": train.accuracy}
    if subject.test is not None:
        loss, channel = subject.loss("test"), subject.loss("test", criterion=noisy_cross_entropy(subject.label_noise))
        with loss.measuring():
            clean, noisy = loss.value(), channel.value()
        values |= {"test_loss": clean.loss, "test_accuracy": clean.accuracy, "test_loss_channel": noisy.loss}
        values |= {"gap": noisy.loss - train.loss, "error_gap": train.accuracy - clean.accuracy}
    values["weight_norm"] = vectors.norm([p.detach() for p in subject.model.parameters()]).item()
    return Result(values)
