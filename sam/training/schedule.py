"""Learning-rate schedules as pure functions of the step."""

import math
from collections.abc import Callable

from sam.config import TrainConfig


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


# name -> factor of the base rate at (epoch with its fraction, epochs), both after warm-up
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "cosine_step": lambda epoch, epochs: _cosine(epoch / epochs),
    "cosine_epoch": lambda epoch, epochs: _cosine(math.floor(epoch) / epochs),
    "wrn_step": lambda epoch, epochs: 0.2 ** sum(epoch / epochs >= share for share in (0.3, 0.6, 0.8)),
    "constant": lambda epoch, epochs: 1.0,
}


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of step `step` (from 0) of the whole run: linear warm-up, then the schedule over the epochs that remain."""
    epoch = step / steps_per_epoch
    if epoch < config.warmup_epochs:
        return config.optimizer.lr * (step + 1) / (config.warmup_epochs * steps_per_epoch)
    return config.optimizer.lr * SCHEDULES[config.schedule](epoch - config.warmup_epochs, max(config.epochs - config.warmup_epochs, 1e-9))
