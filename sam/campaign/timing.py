"""How long a step, an epoch and a measurement take on this machine, and how many epochs therefore fit."""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from data.image_data import ImageData
from sam.config import METHODS, NOTIONS, SharpnessConfig, TrainConfig
from sam.core.device import number_format
from sam.sharpness.notions import work
from sam.sharpness.subject import Sizes
from sam.training import cost
from sam.training.loop import Trainer

WARM_UP, TIMED = 4, 6  # steps
FORWARD = 1 / 3  # of a forward and backward


@dataclass(frozen=True)
class Timing:
    """first: seconds of a step with one pass (SGD); further: seconds of each further pass; image: seconds of one image's forward pass
    in float32 eval mode; steps: steps an epoch; test: images evaluated after every epoch."""

    precision: str
    first: float
    further: float
    image: float
    steps: int
    test: int

    def step(self, config: TrainConfig) -> float:
        return self.first + self.further * (METHODS[config.optimizer.method].passes(config.optimizer) - 1)

    def epoch(self, config: TrainConfig) -> float:
        """Seconds of an epoch with its evaluation; XSAM's searches included."""
        searches = self.steps / cost.search_interval(config, self.steps)
        probes = METHODS[config.optimizer.method].probes(config.optimizer) * searches
        return self.steps * self.step(config) + probes * FORWARD * self.further + self.image * self.test


def measure(sgd: TrainConfig, sam: TrainConfig, images: ImageData, device: torch.device) -> Timing:
    """Time a few steps of SGD and of SAM, and the evaluation after them, by the code that trains."""
    with number_format(sgd.precision, sgd.threads):
        first, image = _step(sgd, images, device)
        second, image2 = _step(sam, images, device)
    steps = cost.cost(sgd, cost.check(sgd)).steps_per_epoch
    further = max(second - first, first / 2)  # two passes cannot cost less than one and a half: that would be noise
    return Timing(sgd.precision, first, further, min(image, image2), steps, len(images.test_labels))


def _step(config: TrainConfig, images: ImageData, device: torch.device) -> tuple[float, float]:
    """(seconds of a step, seconds of an image's evaluation)."""
    few = min((WARM_UP + TIMED) * config.batch_size, len(images.train_labels))
    part = dataclasses.replace(images, train_images=images.train_images[:few], train_labels=images.train_labels[:few])
    trainer = Trainer(dataclasses.replace(config, epochs=1, warmup_epochs=0.0), part, device)
    warm = min(WARM_UP, trainer.steps_per_epoch // 2)
    moments = {0: _now(device)}

    def after_step() -> None:
        if trainer.step in (warm, trainer.steps_per_epoch):
            moments[trainer.step] = _now(device)

    trainer.run_epoch(lambda units: None, after_step)
    evaluated = _now(device) - moments[trainer.steps_per_epoch]
    seconds = (moments[trainer.steps_per_epoch] - moments[warm]) / (trainer.steps_per_epoch - warm)
    return seconds, evaluated / max(1, len(images.test_labels))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def epochs_that_fit(timing: Timing, table: Iterable[TrainConfig], seconds: float) -> int:
    """Epochs, the same for every run of the table, that train them all within `seconds`; may be 0."""
    return int(seconds / sum(timing.epoch(config) for config in table)) if seconds > 0 else 0


def missing(notion: str) -> str | None:
    """Why a notion cannot be measured with this version, or None if it can."""
    try:
        importlib.import_module(NOTIONS[notion].module)
    except ImportError as error:
        return f"{notion}: not measured, this version cannot import it ({error})"
    return None


def seconds_to_measure(notions: Iterable[str], sizes: Sizes, config: SharpnessConfig, timing: Timing) -> float:
    """One checkpoint's."""
    return work(notions, sizes, config) * timing.image
