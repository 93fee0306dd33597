"""Registries: what a configuration can name. Standard library only; a row's target is imported when a run uses it. A plug-in adds its rows:

METHODS.add("my_method", "my_module:MyMethod", MyKeys, label="Mine", option={"rho": 0.1})
"""

import importlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sam.config import ConfigError

VARIABLE = "SAM_PLUGINS"  # names of plug-ins, with commas; hands them on to workers, SLURM tasks and tests
loaded: list[str] = []  # names of plug-ins, imported


@dataclass(frozen=True)
class Row:
    """What a name stands for.

    target  "module:attribute", or a module; imported when it is used, and no sooner.
    keys    its settings: a subclass of the group's class, None for that class itself; of a notion, its section, or None.
    label   its name in tables and figures.
    reads   of a notion: the group's common keys that can change its numbers.
    late    of a notion: its section came after rows of measurements were stored (`sam.schema.row_settings`).
    about   what its room must know before it is built: of a model `models.settings.Sizes` (or a function of its keys that
            returns them), of a data set `data.Description`.
    """

    target: str
    keys: Any = None
    label: str = ""
    reads: tuple[str, ...] = ()
    late: bool = False
    about: Any = None

    def load(self) -> Any:
        module, _, attribute = self.target.partition(":")
        found = _imported(module) if self.is_foreign else importlib.import_module(module)
        return getattr(found, attribute) if attribute else found

    @property
    def is_foreign(self) -> bool:
        """True if a plug-in brought this row."""
        return re.split("[.:]", self.target)[0] not in ("sam", "models", "data")

    @property
    def plugin(self) -> dict[str, str]:
        """{module: its VERSION} of a foreign row, else {}: the target's module, or the nearest package around it that has a VERSION."""
        if not self.is_foreign:
            return {}
        module = self.target.partition(":")[0]
        around = [module.rsplit(".", n)[0] for n in range(module.count(".") + 1)]
        name = next((name for name in around if hasattr(_imported(name), "VERSION")), module)
        return {name: str(getattr(_imported(name), "VERSION", "unstated"))}


class Registry(dict[str, Row]):
    """Rows by name. group: where Hydra keeps their options; by: the key there that names a row ("" if there are none)."""

    every: ClassVar[list["Registry"]] = []

    def __init__(self, group: str, by: str = "") -> None:
        super().__init__()
        self.group, self.by = group, by
        Registry.every.append(self)

    def add(self, name: str, target: str, keys: Any = None, label: str = "", option: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Add a row. option: the values of its option in Hydra's group, so that `optimizer=my_method` has its paper's; {} for the defaults;
        None if a file of conf/ has it. Raises ConfigError if the name is another row's."""
        if self.setdefault(name, Row(target, keys, label or name, **more)).target != target:
            raise ConfigError(f"{self.group}: {name} is {self[name].target} already; {target} needs another name.")
        if option is not None:
            add_option(self.group, name, {self.by: name, **option})


OPTIONS: dict[tuple[str, str], tuple[Mapping[str, Any], str | None]] = {}  # Hydra's group and name -> values, package


def add_option(group: str, name: str, values: Mapping[str, Any], package: str | None = None) -> None:
    """An option of Hydra's that is no file: a table of a plug-in is `add_option("table", "mine", {...}, package="tables.mine")`."""
    OPTIONS[group, name] = values, package


def _imported(name: str) -> Any:
    """A stranger's module. ConfigError, which names it, for anything that it raises."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"plugins={name}: cannot be imported ({type(error).__name__}: {error}).") from error


def plugin_arguments(names: Iterable[str] = loaded) -> list[str]:
    """What loads these modules on a command line; nothing if there are none."""
    return [f"plugins=[{','.join(names)}]"] if names else []


def plugins() -> dict[str, str]:
    """Module -> VERSION of everything that brought a row."""
    return {module: version for rows in Registry.every for row in rows.values() for module, version in row.plugin.items()}


def names_plugins(argument: str) -> bool:
    return argument.lstrip("+").startswith("plugins=")


def load_plugins(arguments: Iterable[str] = ()) -> None:
    """Import what `plugins=...` among `arguments` or SAM_PLUGINS names, from the working directory too. ConfigError if that fails."""
    words = [os.environ.get(VARIABLE, ""), *(a.partition("=")[2] for a in arguments if names_plugins(a))]
    names = [name for word in words for part in word.strip("[] ").split(",") if (name := part.strip(" '\""))]
    for name in dict.fromkeys(names):
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        file, own = getattr(_imported(name), "__file__", None), os.path.abspath(f"{name.replace('.', os.sep)}.py")
        if os.path.exists(own) and not (file and os.path.samefile(file, own)):
            raise ConfigError(f"plugins={name}: {own} is hidden by {file}, which Python finds first; give it another name.")
        loaded.extend({name} - set(loaded))
    if names:
        os.environ[VARIABLE] = ",".join(dict.fromkeys(names))
