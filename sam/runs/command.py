"""The shortest command line that makes a run again, and the one that measures it again."""

import dataclasses
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from data.settings import AugmentationConfig
from sam.evaluation.settings import EvaluateConfig
from sam.registry import loaded, plugin_arguments
from sam.runs.identity import used_plugins
from sam.schema import flat, to_dict
from sam.settings import KEPT_AND_WATCHED, TrainConfig

# What `python train.py` alone composes (conf/train.yaml); every key that differs from it is named in the command.
BASE = dataclasses.replace(TrainConfig(), augmentation=AugmentationConfig(crop_padding=4, flip=True))
_BASE = flat(to_dict(BASE))

_TRAIN_UNNAMED = (*KEPT_AND_WATCHED, "protocol.notes", "dataset.download")  # threads and device stay: they can change the last digits
_EVALUATE_UNNAMED = ("runs_dir", "out", "tables", "sweep", "tracking", "force", "part", "parts")
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
_WORDS = ("null", "true", "false", "nan", "inf")  # unquoted, they are no strings


def train_command(config: TrainConfig) -> str:
    """ "python train.py optimizer.method=xsam seed=1 ...": composed again, it has the fingerprint of `config`. Plain keys only, so that no
    change of a file of conf/ changes what it means; without keys that the method or the model does not read."""
    values = to_dict(config)
    values["optimizer"] = {key: values["optimizer"][key] for key in config.optimizer.used_keys}
    values["model"] = {key: values["model"][key] for key in config.model.used_keys}
    return _command("train.py", _named(flat(values), _BASE, _TRAIN_UNNAMED), used_plugins(config))


def evaluate_command(config: EvaluateConfig) -> str:
    """ "python evaluate_sharpness.py runs_dir=... 'sharpness.rho=[0.05,0.5]'": measures the same way; it prints every table."""
    named = _named(flat(to_dict(config) | {"tables": None, "select": None}), flat(to_dict(EvaluateConfig())), _EVALUATE_UNNAMED)
    named |= {"select": config.select} if config.select else {}
    return _command("evaluate_sharpness.py", {"runs_dir": config.runs_dir, **named}, loaded)


def _command(script: str, overrides: Mapping[str, Any], plugins: Iterable[str]) -> str:
    return shlex.join(["python", script, *plugin_arguments(plugins), *(f"{key}={hydra_value(value)}" for key, value in overrides.items())])


def _named(values: Mapping[str, Any], base: Mapping[str, Any], unnamed: tuple[str, ...]) -> dict[str, Any]:
    left_out = tuple(f"{key}." for key in unnamed)  # themselves, and all in their groups
    return {k: v for k, v in values.items() if not f"{k}.".startswith(left_out) and (k not in base or base[k] != v)}


def hydra_value(value: Any) -> str:
    """A value in Hydra's override syntax, strings quoted where they must be."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(hydra_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{hydra_value(of)}' for key, of in value.items())}}}"
    if not isinstance(value, str):
        return repr(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    doubled = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)  # backslashes count only before a quote
    return f"'{doubled}'"
