"""Hydra's side of the schemas: register them, and turn a composed config into one."""

from __future__ import annotations

from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from sam.config import EvaluateConfig, TrainConfig, from_dict

T = TypeVar("T")


def _open(node: Any) -> None:
    """OmegaConf marks a frozen dataclass read-only; composing has to write into it."""
    if isinstance(node, DictConfig):
        OmegaConf.set_readonly(node, None)
        for key in map(str, node):
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                _open(node._get_node(key))


def register() -> None:
    """Make the schemas known to Hydra as `train_schema` and `evaluate_schema`."""
    for name, cls in (("train_schema", TrainConfig), ("evaluate_schema", EvaluateConfig)):
        node = OmegaConf.structured(cls)
        _open(node)
        ConfigStore.instance().store(name=name, node=node)


def resolve(cls: type[T], composed: DictConfig) -> T:
    """The composed config as a checked schema. Raises `sam.config.ConfigError`."""
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    config = from_dict(cls, {str(key): value for key, value in values.items()})
    config.tracking.check()  # type: ignore[attr-defined]
    return config
