"""The machinery of settings: keys with their bounds, groups of keys. Standard library only, as are its neighbours: `sam.schema` (settings
as dictionaries) and `sam.registry` (rows, plug-ins). Hydra composes from the same classes (`sam.runs.hydra_schema`).

A room declares its keys in its own `settings.py`, one a line: `rho: float = key(0.05, "radius of the perturbation", low=0)`. A bad value
raises `ConfigError`, which names the key, the value and what is allowed."""

import dataclasses
import functools
import math
import re
import types
from dataclasses import Field, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from sam.registry import Registry

_NUMBERS = re.compile(r"\b(int|float)\b")


class ConfigError(ValueError):
    """A setting that cannot be used; the message is one sentence for the user."""


def key(default: Any, about: str = "", *, late: bool = False, distinct: bool = False, some: str = "", **limits: Any) -> Any:
    """A key, as a field of a `Settings` dataclass. A list is checked item by item; a class as default makes a group within the group.

    about:     its meaning, for `--help` and docs/keys.md.
    limits:    of a number: `low` and `high` (inclusive), `above` (exclusive). Of a word: `among`, a collection (a registry, say).
    some:      the list must hold at least one of what this names.
    distinct:  no two numbers of the list may agree to six digits, which is what names hold.
    late:      see `sam.schema.row_settings`.
    """
    metadata = {"about": about, "late": late, "distinct": distinct, "some": some, "limits": limits}
    if isinstance(default, list | types.FunctionType | types.MethodType | type):
        return field(default_factory=default.copy if isinstance(default, list) else default, metadata=metadata)
    return field(default=default, metadata=metadata)


def check_value(f: Field[Any], label: str, value: Any) -> None:
    """Raise `ConfigError`, which calls the key `label`, unless this field may hold `value`."""
    if type(value) is type(f.default) and value == f.default:  # what a field starts with is allowed
        return
    limits, items = f.metadata.get("limits", {}), value if isinstance(value, list | tuple) else [value]
    numeric = "limits" in f.metadata and _NUMBERS.search(str(f.type))  # as it is written: "float | None"
    for item in items if value is not None else ():
        if "among" in limits and (not isinstance(item, str) or item not in limits["among"]):
            raise ConfigError(f"{label}={item}: must be one of {', '.join(limits['among'])}.")
        if numeric and item is not None:
            check_number(label, item, **limits)
    if f.metadata.get("some") and not items:
        raise ConfigError(f"{label}=[]: must hold at least one {f.metadata['some']}.")
    if f.metadata.get("distinct") and len({f"{item:g}" for item in items}) < len(items):
        raise ConfigError(f"{label}={list(items)}: must hold each radius once, and radii must differ within six digits.")


def check_number(label: str, value: Any, *, low: float = -math.inf, above: float = -math.inf, high: float = math.inf) -> None:
    """Refuse what is not a finite number in [low, high] and > above; whole ones must fit in 64 bits, as they must for torch."""
    if not isinstance(value, int | float):
        raise ConfigError(f"{label}={value}: must be a number.")
    most = min(high, 2**63 - 1) if isinstance(value, int) else high
    if not (low <= value <= most and value > above and math.isfinite(value)):
        floor = f"> {above:g}" if above > -math.inf else f">= {low:g}"
        limits = f"{floor} and <= {most:g}" if high < math.inf or value > most else floor
        raise ConfigError(f"{label}={value}: must be a finite number {limits}.")


class Settings:
    """Base of a group of keys: a dataclass whose values are checked when it is made.

    prefix    what stands before its keys' names in a message: "optimizer.".
    rows      registry of a group in which one key (`rows.by`) names a row, whose own class, a subclass, holds the keys that it reads:
              `OptimizerConfig.of(method="sam", rho=0.1)` is a SAMConfig.
    sections  registry of a group in which every row has a section of its own, `config.<row>`.
    """

    _prefix = ""
    _common: ClassVar[Any] = None  # the class with `rows` or `sections`
    _rows: ClassVar[Any] = None
    _sections: ClassVar[Any] = None
    idle: tuple[str, ...] | property = ()  # keys that, as the others stand, cannot change a result

    def __init_subclass__(cls, prefix: str | None = None, rows: "Registry | None" = None, sections: "Registry | None" = None) -> None:
        cls._prefix = cls._prefix if prefix is None else prefix
        if rows is not None or sections is not None:
            cls._common, cls._rows, cls._sections = cls, rows, sections

    def __post_init__(self) -> None:
        if self._sections is not None:
            whole = {name: row.keys() for name, row in self._sections.items() if row.keys}
            object.__setattr__(self, "sections", whole | self.sections)
        self.check(self._prefix)
        if self._rows is not None and type(self) is not (own := self._rows[getattr(self, self._rows.by)].keys or self._common):
            way = f"{self._common.__name__}.of({self._rows.by}=...)"
            raise TypeError(f"{type(self).__name__}: make it with {way}, which is a {own.__name__}.")

    def check(self, prefix: str) -> None:
        """Raise ConfigError for the first key whose value is not allowed."""
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            check_value(f, prefix + f.name, getattr(self, f.name))
        self.relate()

    def relate(self) -> None:
        """Raise ConfigError for keys that do not go together."""

    def __getattr__(self, name: str) -> Any:
        if self._sections is None or name not in self._sections:
            raise AttributeError(f"{type(self).__name__} has no key {name!r}")
        return self.sections[name]

    @classmethod
    def of(cls, **values: Any) -> Self:
        """These values and the defaults; of a class with rows, the row's own class."""
        from sam.schema import from_dict

        return from_dict(cls, values, cls._prefix)

    @functools.cached_property  # tables ask for it again and again
    def used_keys(self) -> tuple[str, ...]:
        """The keys that can change a result."""
        idle = self.idle
        return tuple(f.name for f in dataclasses.fields(self) if f.name not in idle)  # type: ignore[arg-type, operator]
