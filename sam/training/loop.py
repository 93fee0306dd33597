"""The training loop. It has no branch per method: a method is whatever `optimizer.step(closures)` does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import models
from data.augment import Augment
from data.image_data import ImageData
from data.loader import epoch_batches
from sam.config import METHODS, TrainConfig, to_dict
from sam.core import streams
from sam.core.device import autocast
from sam.optimizers.base import Method
from sam.optimizers.build import build
from sam.results.records import Row
from sam.sharpness.dataset_loss import DatasetLoss
from sam.training.objective import Objective
from sam.training.schedule import learning_rate

DIAGNOSE_EVERY = 10  # steps between the costlier diagnostics (cosines, norms of the weights)


@dataclass
class Trainer:
    """A model in training: everything that must survive an interruption is in `state_dict`. Restarts are exact at epoch boundaries,
    since order, augmentation and dropout are drawn from streams of (seed, epoch)."""

    config: TrainConfig
    data: ImageData
    device: torch.device
    model: nn.Module = field(init=False)
    optimizer: Method = field(init=False)
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        config, size = self.config, len(self.data.train_labels)
        self.steps_per_epoch = size // config.batch_size if config.drop_last else math.ceil(size / config.batch_size)
        self.data = self.data.to(self.device)
        self.model = build_model(config, self.data).to(self.device)
        generator = streams.generator(self.device, config.seed, "method")
        self.optimizer = build(self.model, config.optimizer, steps_per_epoch=self.steps_per_epoch, generator=generator)
        self.objective = Objective(self.model, autocast(config.precision, self.device), config.label_smoothing)
        self.augment = Augment(**to_dict(config.augmentation))

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return len(self.rows)

    def run_epoch(self, advance: Callable[[float], None]) -> Row:
        """Train one epoch, evaluate, and return its row of metrics (also kept in `rows`). `advance` gets the passes of each step."""
        began = time.perf_counter()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(streams.derive(self.config.seed, "dropout", self.epoch))
            row = self._train(advance)
        row["train_seconds"] = time.perf_counter() - began
        row |= self._evaluate()
        self.seconds += time.perf_counter() - began
        row["seconds"] = self.seconds
        self.rows.append(row)
        return row

    def _train(self, advance: Callable[[float], None]) -> Row:
        config, data, seed = self.config, self.data, self.config.seed
        order = epoch_batches(
            len(data.train_labels), config.batch_size, streams.generator("cpu", seed, "order", self.epoch), config.drop_last
        )
        draws = streams.generator(self.device, seed, "augment", self.epoch)
        sums: dict[str, tuple[Tensor, int]] = {}
        passes = METHODS[config.optimizer.method].passes(config.optimizer)
        self.model.train()
        self.objective.reset()
        rate = 0.0
        for step, indices in enumerate(order):
            rate = learning_rate(config, self.epoch * self.steps_per_epoch + step, self.steps_per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            chosen = indices.to(self.device)
            images = self.augment(data.train_images[chosen], draws, data.mean, data.std)
            labels = data.train_labels[chosen]
            size = config.m or len(labels)
            closures = [self.objective.closure(x, y) for x, y in zip(images.split(size), labels.split(size), strict=True)]
            self.optimizer.diagnose = step % DIAGNOSE_EVERY == 0
            self.optimizer.step(closures, weights=[len(y) / len(labels) for y in labels.split(size)])
            self.objective.settle()
            for name, value in self.optimizer.stats.items():
                total, count = sums.get(name, (torch.zeros_like(value), 0))
                sums[name] = (total + value, count + 1)
            advance(passes)
        means = {name: (total / count).item() for name, (total, count) in sums.items()}
        optimizer = self.optimizer
        return {
            "epoch": self.epoch + 1,
            "lr": rate,
            **self.objective.totals(),
            **means,
            **optimizer.report(),
            "forwards": round(optimizer.forwards),
            "backwards": round(optimizer.backwards),
            "skipped": int(optimizer.skipped),
        }

    def _evaluate(self) -> Row:
        """Loss and accuracy on the clean test set, and on the validation set if there is one; eval mode, fp32."""
        row: Row = {}
        for split in ("test", "val"):
            images, labels = getattr(self.data, f"{split}_images"), getattr(self.data, f"{split}_labels")
            if len(labels):
                loss = DatasetLoss(self.model, images, labels, prepare=self.data.normalize, batch_size=self.config.eval_batch_size)
                with loss.measuring():
                    value = loss.value()
                row |= {f"{split}_loss": value.loss, f"{split}_accuracy": value.accuracy}
        return row

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows, self.seconds = state["rows"], state["seconds"]


def build_model(config: TrainConfig, data: ImageData) -> nn.Module:
    """The configured model for these images, initialised from the seed's own stream (the same for every method)."""
    channels, size = data.train_images.shape[1], data.train_images.shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.derive(config.seed, "init"))
        model = models.build(**to_dict(config.model), classes=data.classes, channels=channels, image_size=size)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
