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

import data
from sam.campaign import create, plan
from sam.campaign.options import PROTECTED, Options
from sam.campaign.plan import Planned
from sam.campaign.timing import Timing, missing
from sam.config import ConfigError, EvaluateConfig, SharpnessConfig, TrainConfig, from_dict
from sam.core.device import pick_device
from sam.results import records
from sam.sharpness.subject import Sizes
from sam.training import cost
from sam.training.environment import environment

FILE = "campaign.json"


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

    @property
    def wanted(self) -> list[str]:
        """The notions that this call measures, those that this version can."""
        return [name for name in self.sharpness.chosen if name in self.options.notions.split(",") and missing(name) is None]

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
        campaign = Campaign(create.content(options, say), options)
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
    if content.get("format") != create.FORMAT:
        raise ConfigError(f"{path}: not a campaign of this version (format {create.FORMAT}); choose another out.")
    if content["numerics"] != records.NUMERICS:
        raise ConfigError(
            f"out={options.out}: was begun by another version of the arithmetic, so that no rows can be added; choose another."
        )
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


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
