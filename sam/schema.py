"""Settings as dictionaries, and all that a group may hold: what Hydra composes, run.json stores and a row of measurements is found by."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field
from typing import Any, TypeVar

from sam.config import ConfigError, check_value, key

T = TypeVar("T")


def schema(cls: Any, foreign: bool = True) -> Mapping[str, tuple[Any, Field[Any]]]:
    """Key -> (type, field) of a group, all its rows (foreign: of plug-ins too) and sections. ConfigError if rows disagree about a key."""
    common = getattr(cls, "_common", None)
    rows = (common._rows or common._sections) if cls is common and common else {}
    return _schema(cls, tuple((name, row.keys) for name, row in rows.items() if row.keys and (foreign or not row.is_foreign)))


@functools.cache
def _schema(cls: Any, rows: tuple[tuple[str, Any], ...]) -> Mapping[str, tuple[Any, Field[Any]]]:
    found: dict[str, tuple[Any, Field[Any]]] = {}
    sections = getattr(cls, "_sections", None)
    for owner in (cls, *(keys for _, keys in rows if sections is None)):
        hints = typing.get_type_hints(owner)
        for f in dataclasses.fields(owner):
            if f.name != "sections" and found.setdefault(f.name, (hints[f.name], f))[1] is not f:
                raise ConfigError(f"{cls._prefix}{f.name}: {owner.__name__} declares it anew; a key has one default and one meaning.")
    return found | {name: (keys, key(keys, late=sections[name].late)) for name, keys in rows if sections is not None}


def default_of(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


def defaults(cls: Any) -> dict[str, Any]:
    """The default of every key of `schema`, groups as dictionaries."""
    return {name: defaults(hint) if dataclasses.is_dataclass(hint) else default_of(f) for name, (hint, f) in schema(cls).items()}


def to_dict(config: Any) -> dict[str, Any]:
    """A group of settings as plain dictionaries and lists; of a class with rows, the keys of its own row alone."""
    return dataclasses.asdict(config, dict_factory=lambda pairs: (values := dict(pairs)) | values.pop("sections", {}))


def row_settings(config: Any) -> dict[str, Any]:
    """`to_dict` for the key of a measured row: without `late` keys at their default, which must never change, so that rows of old are still
    found. Any other key always counts, and so does one that only another row reads."""
    cls, values = type(config), {}
    known = schema(getattr(cls, "_common", None) or cls, foreign=getattr(cls, "_rows", None) is None)
    known = {**known, **{f.name: (None, f) for f in dataclasses.fields(config)}}
    for name, (_, f) in known.items():
        value = getattr(config, name, default_of(f))
        if name != "sections" and not (f.metadata.get("late") and value == default_of(f)):
            values[name] = row_settings(value) if dataclasses.is_dataclass(value) else value
    return values


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def from_dict(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Build and check a group. Missing keys take their defaults; keys of other rows are checked and left out; others: ConfigError."""
    known = schema(cls)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or cls.__name__}={str(values)[:100]}: must hold keys and values.")
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{prefix}{unknown[0]}: unknown key; known here: {', '.join(known)}.")
    built = {name: _build(known[name][0], value, f"{prefix}{name}") for name, value in values.items()}
    if getattr(cls, "_common", None) is not cls:
        return cls(**built)
    common: Any = cls
    if common._rows is None:
        sections = {name: built.pop(name) for name in list(built) if name in common._sections}
        return typing.cast(T, common(**built, sections=sections))
    by, prefix = common._rows.by, common._prefix
    name = built.get(by, known[by][1].default)
    check_value(known[by][1], prefix + by, name)
    own = common._rows[name].keys or common
    for other in built.keys() - {f.name for f in dataclasses.fields(own)}:
        check_value(known[other][1], prefix + other, built.pop(other))
    return typing.cast(T, own(**built))


def _build(hint: Any, value: Any, label: str) -> Any:
    if type(value) is hint:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _build(next(a for a in args if a is not type(None)), value, label)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, hint), value, f"{label}.")
    if origin is list and isinstance(value, list | tuple):
        return [_build(args[0], item, label) for item in value]
    if origin is dict and isinstance(value, Mapping):
        return {name: _build(args[1], item, f"{label}.{name}") for name, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if hint is Any or (dataclasses.is_dataclass(hint) and isinstance(value, typing.cast(type, hint))):  # a row's own class, say
        return value
    raise ConfigError(f"{label}={value!r}: must be {_KINDS.get(hint, 'a list' if origin is list else 'a mapping')}.")


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_setting(cls: Any, name: str, value: Any, label: str) -> None:
    """Refuse a value that a setting of `cls`, by its dotted name, cannot have. Raises ConfigError that names `label`."""
    *groups, last = name.split(".")
    for group in groups:
        cls = schema(cls)[group][0]
    hint, f = schema(cls)[last]
    check_value(f, label, _build(hint, value, label))
