"""A campaign: what all its runs share, fixed by the first call and kept in `campaign.json`, so that the rows can be pooled."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import data
from data.image_data import ImageData
from sam.campaign import plan, timing
from sam.campaign.options import AUTO, PROTECTED, Options
from sam.campaign.plan import Planned
from sam.campaign.timing import Timing
from sam.config import ConfigError, EvaluateConfig, SharpnessConfig, TrainConfig, from_dict, to_dict
from sam.core.device import pick_device
from sam.results import records
from sam.sharpness.subject import Sizes
from sam.training import cost
from sam.training.environment import environment

FILE = "campaign.json"
FORMAT = 1
BY_EXACTNESS = ("fp32", "tf32", "bf16")


@dataclass
class Campaign:
    """`content` is campaign.json; `options` are those of this call."""

    content: dict[str, Any]
    options: Options
    _configs: dict[Planned, TrainConfig] = field(default_factory=dict, repr=False)

    @property
    def out(self) -> Path:
        return Path(self.options.out)

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.content["settings"])

    @cached_property
    def timing(self) -> Timing:
        return Timing(**self.content["timing"])

    @cached_property
    def sharpness(self) -> SharpnessConfig:
        return from_dict(SharpnessConfig, self.content["sharpness"])

    @property
    def runs(self) -> list[Planned]:
        return plan.runs(list(self.content["data"]), self.options.seeds)

    def config(self, run: Planned) -> TrainConfig:
        """The run's configuration on this machine. Checkpoints come often enough to lose at most `save_seconds` of training to a kill."""
        if run not in self._configs:
            self._configs[run] = self._compose(run)
        return self._configs[run]

    def _compose(self, run: Planned) -> TrainConfig:
        settings, options = self.settings, self.options
        keys = {key: settings[key] for key in ("epochs", "batch_size", "precision")}
        place = {"runs_dir": str(self.out / "runs"), "device": options.device, "threads": options.threads}
        config = plan.compose(run, settings["model"], settings["protocol"], _location(self.content["paths"], run.dataset), **keys, **place)
        epoch = self.timing.epoch(config)
        if epoch <= options.save_seconds:
            return dataclasses.replace(config, checkpoint_interval=max(1, int(options.save_seconds / epoch)))
        return dataclasses.replace(
            config, checkpoint_interval=1, checkpoint_steps=max(1, int(options.save_seconds / self.timing.step(config)))
        )

    def evaluate(self, notions: list[str]) -> EvaluateConfig:
        sharpness = dataclasses.replace(self.sharpness, notions=notions)
        return EvaluateConfig(sharpness=sharpness, device=self.options.device, threads=self.options.threads)

    def sizes(self, run: Planned) -> Sizes:
        known = self.content["data"][run.dataset]
        return Sizes(known["train_images"], known["test_images"], self.content["parameters"])

    def save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        records.write_atomic(self.out / FILE, json.dumps(records.plain(self.content), indent=1, allow_nan=False) + "\n")


def _location(paths: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in paths[name].items() if value is not None}


def opened(options: Options, say: Callable[[str], None]) -> Campaign:
    """The campaign in `out`, or a new one, timed and fixed now. Raises ConfigError or DataError: one sentence."""
    path = Path(options.out) / FILE
    if path.exists():
        campaign = _existing(path, options)
    elif (Path(options.out) / "runs").exists() or (Path(options.out) / "rows.json").exists():
        raise ConfigError(f"out={options.out}: holds runs but no {FILE}, so nobody knows what they share; choose another folder.")
    else:
        campaign = _new(options, say)
    content = campaign.content
    if options.cifar100:
        content["paths"]["cifar100"] = {"path": options.cifar100}
        content["data"].setdefault("cifar100", None)
    for name in content["data"]:
        config = campaign.config(Planned(name, "sgd", 0))
        content["data"][name] = _checked(name, content["data"][name], config)
    now = environment(pick_device(options.device))
    commit = now["commit"] or options.commit
    content["calls"].append({"command": now["command"], "started": _now(), "commit": commit, "minutes": options.minutes})
    campaign.save()
    return campaign


def _existing(path: Path, options: Options) -> Campaign:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); restore it, or choose another out.") from error
    if content.get("format") != FORMAT:
        raise ConfigError(f"{path}: not a campaign of this version (format {FORMAT}); choose another out.")
    asked = content["asked"]
    for key in PROTECTED:
        value = getattr(options, key)
        if key in options.given and value != asked[key] and str(value) != str(content["settings"].get(key)):
            kept = content["settings"].get(key, asked[key])
            raise ConfigError(
                f"{key}={value}: the campaign in out={options.out} was created with {key}={kept} and keeps it, so that its rows can be "
                f"pooled; leave {key} out, or choose another out."
            )
    first = content["settings"]["dataset"]
    for key in ("path", "root"):
        if key in options.given:  # the file may have moved; its bytes are checked
            content["paths"][first][key] = getattr(options, key)
    return Campaign(content, options)


def _new(options: Options, say: Callable[[str], None]) -> Campaign:
    """Time SGD and SAM, choose precision and epochs."""
    device, first = pick_device(options.device), options.dataset
    paths = {first: {"path": options.path, "root": options.root}}
    seconds = options.budget

    def config(optimizer: str, precision: str) -> TrainConfig:
        keys = {"batch_size": options.batch_size, "precision": precision, "threads": options.threads}
        return plan.compose(Planned(first, optimizer, 0), options.model, options.protocol, _location(paths, first), **keys)

    base = config("sgd", "fp32")
    description = cost.check(base)
    images = data.load(**to_dict(base.dataset)).to(device)
    sharpness = plan.measures(options.subset, base.optimizer.rho)
    available = [name for name in sharpness.chosen if missing(name) is None]
    candidates = [options.precision] if options.precision != AUTO else BY_EXACTNESS if device.type == "cuda" else ["fp32"]
    for precision in candidates:
        say(f"timing SGD and SAM in {precision} on {environment(device)['device']} ...")
        times = timing.measure(config("sgd", precision), config("sam", precision), images, device)
        table = [config(optimizer, precision) for optimizer in plan.TABLE3]
        parameters = _parameters(base, images)
        sizes = Sizes(description.train_size, description.test_size, parameters)
        measuring = len(table) * seconds_to_measure(available, sizes, sharpness, times)
        fit = timing.epochs_that_fit(times, table, seconds - measuring)
        say(f"{precision}: {fit} epochs of Table 3 fit into {seconds / 60:.1f} minutes, {measuring / 60:.1f} of which are for measuring.")
        if fit >= options.min_epochs:
            break
    epochs = min(base.epochs, max(fit, options.min_epochs)) if options.epochs == AUTO else int(options.epochs)
    notes = [] if options.epochs != AUTO or fit >= options.min_epochs else [_does_not_fit(epochs, times, table, measuring, seconds)]
    content = {
        "format": FORMAT,
        "created": _now(),
        "numerics": records.NUMERICS,
        "settings": {
            **{key: getattr(options, key) for key in ("dataset", "model", "protocol", "subset", "min_epochs")},
            **{"precision": precision, "epochs": epochs, "batch_size": base.batch_size, "budget_minutes": seconds / 60},
        },
        "asked": {key: getattr(options, key) for key in PROTECTED},
        "order": "Table 3, Table 2 (N = 2, 3, 5), the second data set, then the next seed",
        "paths": paths,
        "data": {first: None},
        "parameters": parameters,
        "sharpness": to_dict(sharpness),
        "timing": dataclasses.asdict(times),
        "notes": notes,
        "environment": environment(device),
        "stages": {},
        "calls": [],
    }
    for note in notes:
        say(note)
    return Campaign(content, options)


def _does_not_fit(epochs: int, times: Timing, table: list[TrainConfig], measuring: float, seconds: float) -> str:
    needed = epochs * sum(times.epoch(config) for config in table) + measuring
    return (
        f"The least number of epochs, {epochs}, is expected to need {needed / 60:.0f} minutes for Table 3 in {times.precision}, more than "
        f"the {seconds / 60:.0f} foreseen."
    )


def _parameters(config: TrainConfig, images: ImageData) -> int:
    from sam.training.loop import build_model

    return sum(p.numel() for p in build_model(config, images.to("cpu")).parameters())


def _checked(name: str, known: dict[str, Any] | None, config: TrainConfig) -> dict[str, Any]:
    """Fingerprints and sizes of a data set. ConfigError if it is not the one that the campaign began with."""
    description = cost.check(config)
    file = data.file_fingerprint(config.dataset.path) if config.dataset.path else None
    if known is not None and file is not None and known["file"] is not None and file != known["file"]:
        raise ConfigError(
            f"dataset.path={config.dataset.path}: is not the file that this campaign began with for {name} (fingerprint {file}, then "
            f"{known['file']}); give that file, or choose another out."
        )
    return known or {"file": file, "train_images": description.train_size, "test_images": description.test_size}


# ---------------------------------------------------------------------------------------------------------------- measuring


def missing(notion: str) -> str | None:
    """Why a notion cannot be measured with this version, or None if it can."""
    from sam.sharpness.notions import Notion

    try:
        return None if Notion(notion).module else None
    except ImportError as error:
        return f"{notion}: not measured, this version cannot import it ({error})"


def seconds_to_measure(notions: list[str], sizes: Sizes, sharpness: SharpnessConfig, times: Timing) -> float:
    from sam.sharpness.notions import work

    return work(notions, sizes, sharpness) * times.image


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
