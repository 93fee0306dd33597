"""Hydra's side of the schemas: register them, turn a composed config into one, and say what Hydra refuses in our words."""

import dataclasses
import difflib
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam.config import ConfigError
from sam.evaluation.settings import EvaluateConfig
from sam.registry import OPTIONS, load_plugins, loaded
from sam.schema import defaults, flat, from_dict, schema
from sam.settings import TrainConfig
from sam.text import sentence

T = TypeVar("T")


def composed_from(hint: Any) -> Any:
    """The type that Hydra composes for a setting: a group as one flat dataclass of all the keys of its rows."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.Optional[composed_from(next(a for a in typing.get_args(hint) if a is not type(None)))]  # noqa: UP045
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return hint
    fields = []
    for name, (inner, f) in schema(hint).items():
        kind = composed_from(inner)
        factory: Any = kind if dataclasses.is_dataclass(kind) else f.default_factory
        fields.append((name, kind, dataclasses.field(default=f.default, default_factory=factory)))
    return dataclasses.make_dataclass(hint.__name__, fields)


def register(arguments: Sequence[str] = ()) -> None:
    """Import the plug-ins, and make the schemas known to Hydra as `train_schema` and `evaluate_schema`, and the plug-ins' options."""
    load_plugins(arguments)
    store = ConfigStore.instance()
    for name, cls in (("train_schema", TrainConfig), ("evaluate_schema", EvaluateConfig)):
        node = OmegaConf.structured(composed_from(cls), flags={"allow_objects": True})
        OmegaConf.update(node, "plugins", None, force_add=True)
        store.store(name=name, node=node)
    for (group, name), (values, package) in OPTIONS.items():
        store.store(group=group, name=name, node=dict(values), package=package)


def resolve(cls: type[T], composed: DictConfig) -> T:
    """The composed config as a checked schema. Raises `sam.config.ConfigError`."""
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    named = values.pop("plugins", None) or []
    if late := [name for name in ([named] if isinstance(named, str) else named) if name not in loaded]:
        raise ConfigError(f"plugins={late[0]}: comes too late in a file of settings; name it on the command line, or in SAM_PLUGINS.")
    config = from_dict(cls, {str(key): value for key, value in values.items()})
    config.tracking.check_names()  # type: ignore[attr-defined]
    return config


CONF = Path(__file__).resolve().parents[2] / "conf"
MOST_POINTS = 10_000  # of a sweep: each is composed and checked before the first one runs


def check_size(overrides: Iterable[str]) -> None:
    """Refuse a sweep of too many points, or of none, before anybody makes a list of them; and a list of options, of which Hydra would take
    the last, but for tables, which add up. Raises ConfigError, or Hydra's error."""
    points = 1.0
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value, key = override.value(), override.key_or_group
        ones = value.list if isinstance(value, ChoiceSweep) else value if isinstance(value, list) and key == "table" else [value]
        if not override.is_delete() and os.path.isdir(CONF / key) and any(isinstance(one, list | int | float | None) for one in ones):
            raise ConfigError(f"{override.input_line}: must be one option, which --help lists; several are a sweep, -m {key}=A,B.")
        if any(isinstance(one, RangeSweep) for one in (value if isinstance(value, list) else ones if ones != [value] else [])):
            raise ConfigError(f"{override.input_line}: a range stands alone, beside nothing and in no list; write its numbers out.")
        if key == "plugins" and isinstance(value, ChoiceSweep):
            raise ConfigError(f"{override.input_line}: is a list of modules, not of runs; write plugins=[a,b].")
        if isinstance(value, RangeSweep):
            start, stop, step = (float(number or 0) for number in (value.start, value.stop, value.step))
            if step and (stop - start) / step <= 0:
                raise ConfigError(f"{override.input_line}: holds no value; range(start,stop,step) begins at start and ends before stop.")
            points *= max(1, (stop - start) / step) if step else math.inf
        points *= len(value.list) if isinstance(value, ChoiceSweep) else 1
        if points > MOST_POINTS:
            raise ConfigError(f"{override.input_line}: makes {points:,.0f} points; a sweep holds {MOST_POINTS:,} at most, cut it up.")
        if isinstance(value, RangeSweep) and any((number or 0) % 1 for number in (value.start, value.step)):
            raise ConfigError(f"{override.input_line}: fractions add up to 0.30000000000000004, say; write them out: 0.1,0.2,0.3.")


# What OmegaConf says of a value of the wrong kind -> how it must be.
_KINDS = {"to Float": "a number", "to Integer": "a whole number", "valid bool": "true or false", "to string": "text"}
_KINDS |= {"ListConfig": "a list, such as {}=[{}]", "is not Optional": "set, not null"}


def in_our_words(error: Exception) -> str:
    """What a user set wrong, by key, value and what is allowed, where Hydra or OmegaConf refuses it; any other error as it is."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: must be one of {', '.join(error.options)}."
    if isinstance(error, OverrideParseException):
        key, _, value = map(str.strip, str(error.override).partition("="))
        return f"{error.override}: cannot be read; must be KEY=VALUE, any text but A-Z a-z 0-9 _ - . / in quotes: '{key}=\"{value}\"'."
    if "Unexpected type for root: NoneType" in str(error) and "hydra." not in str(error):
        return "dataset.KEY, model.KEY: need dataset=... and model=..., of checkpoint=FILE; data_path=FILE.npz is where those of runs lie."
    if unknown := re.match(r"Could not override '([^']+)'\.(?:\s+To append to your config use \+(\S+))?", str(error)):
        keys = {cls.__name__: {*schema(cls), *flat(defaults(cls))} for cls in (TrainConfig, EvaluateConfig)}
        every = set[str]().union(*keys.values())
        own = keys.get(str(error.__cause__).rpartition("object_type=")[2], every)  # this command's
        close = sorted(name for name in own if name.endswith(f".{unknown[1]}"))[:1] or difflib.get_close_matches(unknown[1], own, 1)
        elsewhere = unknown[1] in every or os.path.isdir(CONF / unknown[1])
        near = " for this command." if elsewhere else "".join(f"; did you mean {name}?" for name in close)
        return f"{unknown[2] or unknown[1]}: unknown key{near or '.'} --help lists all keys, --cfg hydra Hydra's own."
    if several := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(([^=]+)=(.*?))'(?:\n| requires)", str(error)):
        default = (flat(defaults(TrainConfig)) | flat(defaults(EvaluateConfig))).get(several[2], "")
        takes = isinstance(default, list) or re.fullmatch(r"seeds|(.*\.)?(mean|std)", several[2])
        listed = f"; a list is {several[2]}=[{several[3]}]" if takes and "(" not in several[3] else ""
        return f"{several[1]}: several values are a sweep, which -m starts{listed}."
    kind = next((kind for said, kind in _KINDS.items() if said in str(error.__cause__)), None)
    if kind and (merged := re.match("Error merging override (.+?)=(.*)", str(error))):
        return f"{merged[1]}={merged[2]}: must be {kind.format(*merged.groups())}."
    return f"{error}: {error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else str(error)


def start(main: Callable[[], None]) -> None:
    """Run a function that Hydra has decorated. What keeps Hydra from composing or launching is one sentence, and exit code 1: a file of
    settings may be broken in any way. A run has told its ValueError itself; only what else it raises has a traceback."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # where ASCII is all that can be printed
    before = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands on what was raised, instead of printing dozens of lines
    try:
        sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: not re.match(r"(-m|--multirun|--[a-z-]+=.*)$", word))  # amid overrides
        register(sys.argv[1:])
        if {"-h", "--help"} & set(sys.argv[1:]):
            from sam.runs.help import help_text

            print(help_text(Path(sys.argv[0]).name, str(sys.modules["__main__"].__doc__)))
            return
        check_size(argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-"))
        from sam.runs.ending import summed_up  # once train.py has its handlers of signals

        with summed_up():
            main()
    except Exception as error:
        job, file = error.__traceback__, ""
        while job is not None and job.tb_frame.f_code.co_name != "run_job":
            file = job.tb_frame.f_locals.get("full_path", file)  # Hydra's, while it reads a file
            job = job.tb_next
        if before == "1" or (job is not None and not isinstance(error, ValueError)):
            raise
        if job is None:
            where = f"{file}: " if file and file not in str(error) else ""
            print(f"error: {sentence(f'{where}{in_our_words(error) or type(error).__name__}')}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before
