"""Compose the points of a sweep: the first of a kind by Hydra, and those that differ from it in single values by setting these."""

import re
from collections.abc import Iterator, Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam.config import ConfigError
from sam.runs.distributed import launched, with_replicas
from sam.runs.hydra_schema import resolve
from sam.settings import TrainConfig

_RESOLVER = re.compile(r"\$\{[\w.]*:")  # such as ${now:}: may differ from point to point


def compose(points: Sequence[Sequence[str]], sweep: DictConfig, loader: ConfigLoader | None = None) -> Iterator[TrainConfig]:
    """Compose and check the points of a composed sweep. Hydra takes 0.2 s for each, as it reads and merges every file anew. Raises its
    error, OmegaConf's or our own."""
    loader = loader or GlobalHydra.instance().config_loader()
    parser, kinds = OverridesParser.create(loader), dict[tuple[str, ...], DictConfig]()
    for point in points:
        parsed = parser.parse_overrides(list(point))
        values = [one for one in parsed if _is_value(one, sweep)]
        kind = tuple(str(one.key_or_group if one in values else one.input_line) for one in parsed)
        try:
            composed = kinds[kind]
            for one in values:
                OmegaConf.update(composed, one.key_or_group, one.value())
        except (KeyError, OmegaConfBaseException):  # what is wrong with a value Hydra says
            composed = loader.load_sweep_config(sweep, list(point))
            if _is_free(composed, values, [one for one in parsed if one not in values]):
                kinds[kind] = composed
        if composed.hydra.sweeper.params != sweep.hydra.sweeper.params:
            raise ConfigError(f"{' '.join(point)}: holds a grid of its own, which a sweep would not run; start it alone, with -m.")
        config = resolve(TrainConfig, composed)
        yield with_replicas(config) if launched().size > 1 else config


def _is_value(one: Override, sweep: DictConfig) -> bool:
    """True for key=value of a single value that is no reference to another one, and a key that names no group."""
    single = one.type is OverrideType.CHANGE and one.package is None and isinstance(one.value(), int | float | str | None)
    return single and "$" not in str(one.value()) and not one.is_hydra_override() and one.key_or_group not in sweep.hydra.runtime.choices


def _is_free(composed: DictConfig, values: Sequence[Override], others: Sequence[Override]) -> bool:
    """True if nothing but these keys follows from `values`: no group, no other override within or around them, no resolver."""
    choices = composed.hydra.runtime.choices
    rest = [f"{one.key_or_group}." for one in others if one.key_or_group not in choices]
    keys = [f"{one.key_or_group}." for one in values]
    apart = not any(key.startswith(other) or other.startswith(key) for key in keys for other in rest)
    own = OmegaConf.to_container(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))
    return apart and not any(one.key_or_group in choices for one in values) and not _RESOLVER.search(repr(own))
