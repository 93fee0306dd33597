"""Everything that is measured at a checkpoint, as named numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from data.image_data import ImageData
from sam.config import SharpnessConfig
from sam.core import vectors
from sam.sharpness import ascent
from sam.sharpness.dataset_loss import Criterion, DatasetLoss, cross_entropy, noisy_cross_entropy

Measures = dict[str, float | None]


def work(images: int, test_images: int, config: SharpnessConfig) -> float:
    """Units (a forward of one image is 1, a forward and backward 3) that `measure` will report to its progress."""
    notions = 4 if config.train_mode else 2
    return 2 * test_images + notions * images * (3 + len(config.rho))


def measure(
    model: nn.Module, data: ImageData, config: SharpnessConfig, *, progress: Callable[[float], None] = lambda units: None
) -> Measures:
    """Losses, accuracies, gap and L^Asc of one checkpoint. Losses are mean cross-entropies in nats, accuracies in percent.

    test_loss, test_accuracy          the test set and its true labels.
    test_loss_channel                 the test loss in expectation over the label channel that corrupted the training labels.
    train_loss, train_accuracy        the unaugmented training set, the labels trained on; train_loss[bn=train]: BatchNorm in train mode.
    gap, error_gap                    test_loss_channel - train_loss; training accuracy - test accuracy.
    grad_norm, weight_norm            ||grad L|| over the whole training set, eval-mode BatchNorm; ||w||.
    sharpness[rho=R,bn=B,batch=M]     L^Asc - L: bn eval | train; batch all (full-set gradient) | m (mean over batches of config.m).
    ascent_loss[...]                  L^Asc itself, same variants. first_order[rho=R]: R ||grad L||. Undefined values are None.

    Everything in float32 with TF32 off, sums in float64; the model is left as it was.
    """
    device = next(model.parameters()).device

    def loss(split: str, criterion: Criterion = cross_entropy, batch_size: int = config.batch_size, batchnorm: str = "eval") -> DatasetLoss:
        images, labels = (getattr(data, f"{split}_{kind}").to(device) for kind in ("images", "labels"))
        return DatasetLoss(
            model,
            images,
            labels,
            prepare=data.normalize,
            criterion=criterion,
            batch_size=batch_size,
            batchnorm=batchnorm,
            progress=progress,
        )

    test, channel = loss("test"), loss("test", noisy_cross_entropy(data.label_noise))
    with test.measuring():
        clean, noisy = test.value(), channel.value()
    values: Measures = {"test_loss": clean.loss, "test_accuracy": clean.accuracy, "test_loss_channel": noisy.loss}

    for mode in ("eval", "train") if config.train_mode else ("eval",):
        whole = loss("train", batch_size=config.batch_size if mode == "eval" else config.m, batchnorm=mode)
        value, length, results = ascent.full(whole, config.rho)
        suffix = "" if mode == "eval" else "[bn=train]"
        values |= {f"train_loss{suffix}": value.loss, f"train_accuracy{suffix}": value.accuracy, f"grad_norm{suffix}": length}
        batches = ascent.batchwise(loss("train", batch_size=config.m, batchnorm=mode), config.rho)
        for label, variants in (("all", results), ("m", batches)):
            for result in variants:
                where = f"[rho={result.rho:g},bn={mode},batch={label}]"
                values[f"sharpness{where}"], values[f"ascent_loss{where}"] = result.sharpness, result.ascent_loss
                if result.stderr is not None:
                    values[f"sharpness_stderr{where}"] = result.stderr
        if mode == "eval":
            values |= {f"first_order[rho={result.rho:g}]": result.first_order for result in results}

    train_loss, train_accuracy = values["train_loss"], values["train_accuracy"]
    assert train_loss is not None and train_accuracy is not None
    values["gap"] = noisy.loss - train_loss
    values["error_gap"] = train_accuracy - clean.accuracy
    with torch.no_grad():
        values["weight_norm"] = vectors.norm([p.detach() for p in model.parameters()]).item()
    return values


def settings(config: SharpnessConfig) -> dict[str, object]:
    """What of `config` can change a number (the eval batch size changes rounding only)."""
    chosen = dataclasses.asdict(config)
    chosen.pop("batch_size")
    return chosen
