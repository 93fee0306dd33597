"""A new campaign: time SGD and SAM on this machine, and choose the precision and the number of epochs, once and for all."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import data
from data.image_data import ImageData
from sam.campaign import plan, timing
from sam.campaign.options import AUTO, PROTECTED, Options
from sam.campaign.plan import Planned
from sam.campaign.timing import Timing
from sam.config import SharpnessConfig, TrainConfig, from_dict, to_dict
from sam.core.device import pick_device
from sam.results import records
from sam.sharpness.subject import Sizes
from sam.training import cost
from sam.training.environment import environment
from sam.training.loop import build_model

FORMAT = 1
BY_EXACTNESS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Choice:
    """A precision, how long things take in it, and how many epochs of Table 3 fit; measuring: seconds for measuring its four runs."""

    timing: Timing
    table: Sequence[TrainConfig]
    measuring: float
    fit: int

    def seconds(self, epochs: int) -> float:
        return epochs * sum(self.timing.epoch(config) for config in self.table) + self.measuring


def content(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """campaign.json of a new campaign. Raises ConfigError or DataError: one sentence."""
    device, first = pick_device(options.device), options.dataset
    paths = {first: {"path": options.path, "root": options.root}}
    base = _config(options, "sgd", "fp32")
    description = cost.check(base)
    images = data.load(**to_dict(base.dataset)).to(device)
    measures = plan.measures(options.subset, base.optimizer.rho)
    sharpness = from_dict(SharpnessConfig, measures)
    sizes = Sizes(description.train_size, description.test_size, sum(p.numel() for p in build_model(base, images).parameters()))
    candidates = [options.precision] if options.precision != AUTO else BY_EXACTNESS if device.type == "cuda" else ["fp32"]
    for precision in candidates:
        say(f"timing SGD and SAM in {precision} on {environment(device)['device']} ...")
        choice = _timed(options, precision, images, sizes, sharpness)
        minutes, measuring = options.budget / 60, choice.measuring / 60
        say(f"{precision}: {choice.fit} epochs of Table 3 fit into {minutes:.1f} minutes, {measuring:.1f} of them for measuring.")
        if choice.fit >= options.min_epochs:
            break
    epochs = min(base.epochs, max(choice.fit, options.min_epochs)) if options.epochs == AUTO else int(options.epochs)
    notes = []
    if epochs > choice.fit:
        notes.append(
            f"{epochs} epochs of Table 3 in {precision} are expected to need {choice.seconds(epochs) / 60:.1f} minutes with measuring, "
            f"more than the {options.budget / 60:.1f} foreseen."
        )
        say(notes[0])
    return {
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "numerics": records.NUMERICS,
        "settings": {
            **{key: getattr(options, key) for key in ("dataset", "model", "protocol", "subset", "min_epochs")},
            **{"precision": precision, "epochs": epochs, "batch_size": base.batch_size, "budget_minutes": options.budget / 60},
        },
        "asked": {key: getattr(options, key) for key in PROTECTED},
        "order": "Table 3, Table 2 (N = 2, 3, 5), the second data set, then the next seed",
        "paths": paths,
        "data": {first: None},
        "parameters": sizes.parameters,
        "sharpness": measures,
        "timing": dataclasses.asdict(choice.timing),
        "notes": notes,
        "environment": environment(device),
        "stages": {},
        "calls": [],
    }


def _config(options: Options, optimizer: str, precision: str) -> TrainConfig:
    location = {"root": options.root} | ({"path": options.path} if options.path else {})
    keys = {"batch_size": options.batch_size, "precision": precision, "device": options.device, "threads": options.threads}
    return plan.compose(Planned(options.dataset, optimizer, 0), options.model, options.protocol, location, **keys)


def _timed(options: Options, precision: str, images: ImageData, sizes: Sizes, sharpness: SharpnessConfig) -> Choice:
    times = timing.measure(_config(options, "sgd", precision), _config(options, "sam", precision), images, images.train_labels.device)
    table = [_config(options, optimizer, precision) for optimizer in plan.TABLE3]
    available = [name for name in options.notions.split(",") if timing.missing(name) is None]
    measuring = len(table) * timing.seconds_to_measure(available, sizes, sharpness, times)
    return Choice(times, table, measuring, timing.epochs_that_fit(times, table, options.budget - measuring))
