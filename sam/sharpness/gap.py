"""Losses, accuracies, calibration and the generalization gap."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from sam.core import vectors
from sam.core.criteria import cross_entropy, under_label_noise
from sam.sharpness.context import Context, Measures, Part, Result, Sizes, said, suffix
from sam.sharpness.settings import SharpnessConfig

VERSION = 2  # 2: ece
PLAIN: Part = ("eval", "test")


def parts(config: SharpnessConfig, splits: Collection[str]) -> list[Part]:
    """List (BatchNorm mode, set) of every row. The test set's row in eval mode holds the training values too: the gap needs both."""
    others = [split for split in config.gap.splits if split in splits]
    found = dict.fromkeys((mode, split) for mode in config.batchnorm for split in ("train", *others))
    return [part for part in found if part != ("eval", "train") or "test" not in others]


def settings(config: SharpnessConfig, part: Part) -> dict[str, object]:
    """Return the settings that can change the numbers of a row."""
    if part == PLAIN:
        return {"gap": {"bins": config.gap.bins}}
    mode, split = part
    return {"batchnorm": mode, "split": split} | ({} if mode == "eval" else {"m": config.m})


def work(sizes: Sizes, config: SharpnessConfig, parts: Sequence[Part], beside: Collection[str]) -> float:
    """beside: the notions measured in the same context. L^Asc shares its recalibration and the losses on its images."""
    units = sum(getattr(sizes, split) for _, split in parts if split != "train")
    if "ascent" not in beside or sizes.images(config.ascent.subset) < sizes.train:
        units += sizes.train * len({mode for mode, split in parts if split == "train" or (mode, split) == PLAIN})
    if "ascent" not in beside:
        units += sizes.train * any(mode == "recalibrated" for mode, _ in parts)
    return float(units)


def measure(context: Context, part: Part) -> Result:
    """Mean losses (of the loss that the model was trained with), accuracies, calibration and gaps; in percent where they are shares."""
    if part == PLAIN:
        return Result(_training(context) | _test(context))
    if part == ("eval", "train"):
        return Result(_training(context))
    mode, split = part
    value, where = context.value(split, mode), suffix(**said(mode))
    return Result({f"{split}_loss{where}": value.loss, f"{split}_accuracy{where}": value.accuracy})


def _training(context: Context) -> Measures:
    train = context.value("train")
    norm = vectors.norm([p.detach() for p in context.model.parameters()]).item()
    return {"train_loss": train.loss, "train_accuracy": train.accuracy, "weight_norm": norm}


def _test(context: Context) -> Measures:
    train, loss = context.value("train"), context.loss("test")
    with loss.measuring():
        outputs = loss.outputs()
    accuracy = 100 * (outputs.argmax(1) == loss.labels).double().mean().item()
    criteria = (context.criterion, under_label_noise(context.criterion, context.label_noise))
    plain, channel = (criterion(outputs, loss.labels).double().mean().item() for criterion in criteria)
    values: Measures = {"test_loss": plain, "test_accuracy": accuracy, "test_loss_channel": channel}
    are_logits = context.criterion is cross_entropy
    values["ece"] = calibration_error(outputs, loss.labels, context.config.gap.bins) if are_logits else None
    return values | {"gap": channel - train.loss, "error_gap": train.accuracy - accuracy}


@torch.no_grad()
def calibration_error(logits: Tensor, labels: Tensor, bins: int) -> float:
    """The expected calibration error in percent (Guo et al. 2017, Eq. 3): the mean over samples of |accuracy - mean confidence| of the
    sample's bin, ((b - 1)/bins, b/bins] of the largest softmax probability, in float64. logits (n, classes), labels (n,). NaN if one is."""
    confidence, predicted = logits.double().softmax(1).max(1)
    inner = torch.arange(1, bins, dtype=torch.float64, device=logits.device) / bins
    index = torch.bucketize(confidence, inner)
    excess = (predicted == labels).double() - confidence
    return 100 * torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, index, excess).abs().sum().item() / len(labels)
