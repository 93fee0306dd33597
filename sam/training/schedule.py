"""Learning-rate schedules as pure functions of the step."""

import math

from sam.settings import SCHEDULES, TrainConfig

# Each is the factor of the base rate at (epoch with its fraction, epochs), both counted after the warm-up.


def cosine_step(epoch: float, epochs: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * (epoch / epochs)))  # rates of old runs to the last digit


def cosine_epoch(epoch: float, epochs: float) -> float:
    return cosine_step(math.floor(epoch), epochs)


def wrn_step(epoch: float, epochs: float) -> float:
    return float(0.2 ** sum(epoch / epochs >= share for share in (0.3, 0.6, 0.8)))


def constant(epoch: float, epochs: float) -> float:
    return 1.0


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of step `step` (from 0) of the whole run: linear warm-up, then the schedule over the epochs that remain."""
    epoch, peak = step / steps_per_epoch, config.optimizer.lr
    if epoch < config.warmup_epochs:
        return min(peak, peak * (step + 1) / (config.warmup_epochs * steps_per_epoch))  # it may end within a step
    factor = SCHEDULES[config.schedule].load()
    return float(peak * factor(epoch - config.warmup_epochs, max(config.epochs - config.warmup_epochs, 1e-9)))
