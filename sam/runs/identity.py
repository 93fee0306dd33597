"""A run is its configuration: what can change its result is hashed; folder, checkpoint and "finished" all hang on that hash."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import data
from data.settings import DATASETS
from models.settings import MODELS
from sam.optimizers.settings import METHODS
from sam.schema import defaults, to_dict
from sam.settings import KEPT_AND_WATCHED, SCHEDULES, TrainConfig

_IRRELEVANT = (*KEPT_AND_WATCHED, "device", "threads", "protocol")
_OF_REPLICAS = ("replicas", "perturbation", "batchnorm")  # matter only where a replica's share is more than a place to compute
_IRRELEVANT_DATA = ("path", "root", "download")


def identity(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide the result, without those at their default, so that a new key orphans no old run. A file (data or weights)
    enters by the hash of its bytes; keys that the method or the model does not read are left out. DataError for a missing file."""
    values = to_dict(config)
    for key in (*_IRRELEVANT, *(() if config.depends_on_replicas else _OF_REPLICAS)):
        values.pop(key)
    for key in _IRRELEVANT_DATA:
        values["dataset"].pop(key)
    if config.dataset.path:
        values["dataset"]["file"] = data.file_fingerprint(config.dataset.path)
    values["optimizer"] = {key: values["optimizer"][key] for key in config.optimizer.used_keys}
    values["model"] = {key: values["model"][key] for key in config.model.used_keys}
    if config.init_from is not None:
        values["init_from"] = data.file_fingerprint(config.init_from, "init_from")
        values["model"].pop("init")  # what it drew is replaced
    if plugins := used_plugins(config):
        values["plugins"] = plugins
    return _without_defaults(values, defaults(TrainConfig))


def used_plugins(config: TrainConfig) -> dict[str, str]:
    """{module: its VERSION} of the plug-ins whose rows this run uses."""
    names = (METHODS, config.optimizer.method), (MODELS, config.model.name), (DATASETS, config.dataset.name), (SCHEDULES, config.schedule)
    return {module: version for rows, name in names for module, version in rows[name].plugin.items()}


def _without_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for key, value in values.items():
        if isinstance(value, dict):
            if inner := _without_defaults(value, defaults.get(key, {})):
                kept[key] = inner
        elif key not in defaults or value != defaults[key]:
            kept[key] = value
    return kept


def fingerprint(values: dict[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of a canonical form."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def unread(configs: Iterable[TrainConfig], overrides: Iterable[str]) -> list[str]:
    """The overrides that set a key of the method or of the model which none of these runs reads."""
    read = {f"{group}.{key}" for config in configs for group in ("optimizer", "model") for key in getattr(config, group).used_keys}
    key = lambda line: line.lstrip("+").partition("=")[0]
    return [line for line in overrides if key(line).startswith(("optimizer.", "model.")) and key(line) not in read]


def run_fingerprint(config: TrainConfig) -> str:
    return fingerprint(identity(config))


def setting(config: TrainConfig) -> str:
    """The identity of everything but the seed: runs with equal `setting` are replicas."""
    return fingerprint(identity(dataclasses.replace(config, seed=TrainConfig().seed)))


def _joined(parts: list[str]) -> str:
    return re.sub(r"[^a-z0-9.-]+", "-", "-".join(parts).lower())


def short_name(config: TrainConfig, least: int = 1) -> str:
    """For displays: sam-n1-rho0.05-s1. N is named from `least` steps on."""
    optimizer = config.optimizer
    steps = getattr(optimizer, "ascent_steps", 0)
    parts = [optimizer.method.replace("_", "-"), *([f"n{steps}"] if steps >= least else [])]
    return _joined([*parts, *([f"rho{optimizer.rho:g}"] if hasattr(optimizer, "rho") else []), f"s{config.seed}"])


def run_name(config: TrainConfig, *, shown: bool = False) -> str:
    """Readable name and the first 8 digits of the fingerprint: digits-wrn-10-1-sam-n3-rho0.05-s1-1a2b3c4d. A folder's name, which leaves
    N = 1 out; `shown`: as displays have it, with n1."""
    short = short_name(config, 1 if shown else 2)
    return _joined([config.dataset.name, config.model.label, short, run_fingerprint(config)[:8]])


def run_folder(config: TrainConfig) -> Path:
    """`run_dir` if given, else `runs_dir`/name."""
    return Path(config.run_dir) if config.run_dir else Path(config.runs_dir) / run_name(config)
