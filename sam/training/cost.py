"""Cost of a run in forwards and backwards, and checks that need no model, before it starts."""

import math
import os
from typing import NamedTuple

import data
import models
from sam.config import ConfigError
from sam.schema import to_dict
from sam.settings import TrainConfig


class Cost(NamedTuple):
    """Forwards and backwards of a whole run, each over one batch."""

    forwards: int
    backwards: int


def check(config: TrainConfig) -> data.Description:
    """Refuse everything that can be refused without building anything; returns the description of the data."""
    description = data.describe(**to_dict(config.dataset))
    data.check_augmentation(description.image_size, description.channels, **to_dict(config.augmentation))
    if config.dataset.val_fraction and not description.val_size:  # "best" would be chosen on the test set; finished runs are still measured
        raise ConfigError(f"dataset.val_fraction={config.dataset.val_fraction}: holds out none of the {description.train_size} images.")
    models.check(**to_dict(config.model), image_size=description.image_size, channels=description.channels)
    if config.batch_size > description.train_size:
        most = f"{description.train_size} training images of {config.dataset.label}"
        raise ConfigError(f"batch_size={config.batch_size}: must not exceed the {most}.")
    rest, replicas = description.train_size % config.batch_size, config.replicas or 1
    if config.group_size is None and 0 < rest < replicas and not config.drop_last:
        cure = "set drop_last=true, or another batch_size"
        raise ConfigError(f"replicas={replicas}: the last batch of an epoch has only {rest} images; {cure}.")
    if config.init_from is not None:  # whether it fits is seen when the model is built
        data.file_fingerprint(config.init_from, "init_from")
    if not config.dataset.path and config.dataset.name != "digits" and not os.path.isdir(os.path.expanduser(config.dataset.root)):
        data.usable_folder(os.path.expanduser(config.dataset.root), "dataset.root")
    return description


def cost(config: TrainConfig, description: data.Description) -> Cost:
    per_epoch = description.train_size / config.batch_size
    steps = math.floor(per_epoch) if config.drop_last else math.ceil(per_epoch)
    passes = config.optimizer.passes_in(steps * config.epochs)
    return Cost(passes + config.optimizer.probes(steps, config.epochs), passes)
