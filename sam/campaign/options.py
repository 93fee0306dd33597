"""The arguments of one call: key=value pairs, checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sam.campaign.plan import MEASURED
from sam.config import PRECISIONS, ConfigError

AUTO = "auto"
PROTECTED = ("dataset", "model", "protocol", "precision", "epochs", "min_epochs", "budget_minutes", "batch_size", "subset")
_NAMES = {"dataset.path": "path", "dataset.root": "root"}  # as train.py calls them
_SECOND = ("cifar10", "cifar100")


@dataclass(frozen=True)
class Options:
    """What a call may say. The keys in PROTECTED make the campaign: left out by later calls, or the same; `given` names those given.

    minutes         of this call, from its start to its end, tests and benchmark included.
    out             the campaign's folder.
    dataset         cifar10 | cifar100 | arrays; path: its arrays (.npz); root: or where torchvision's files lie.
    cifar100        arrays of CIFAR-100, the campaign's second data set; may be given later.
    precision       fp32 | tf32 | bf16 | ..., or auto: the most exact one in which min_epochs of Table 3 fit into budget_minutes.
    epochs          of every run, or auto: as many as let the four runs of Table 3, with their measuring, fit into budget_minutes.
    budget_minutes  for Table 3's training and measuring; null means twice the minutes of the first call.
    batch_size      null means the protocol's.
    subset          images for L^Avg and the Hessian.
    notions         what to measure, separated by commas; what a call leaves out, a later one can still measure.
    seeds           seeds 0 .. seeds - 1 in the end.
    save_seconds    of training that a killed process may lose.
    margin          seconds kept for saving at the end of a call; null means 5% of it, at most 30.
    commit          of the code, for the record, where there is no git to ask.
    tests, benchmark  auto (with a GPU, in the first call) | true | false.
    """

    minutes: float = 9.0
    out: str = "runs/gpu_sitting"
    dataset: str = "cifar10"
    path: str | None = None
    root: str = "datasets"
    cifar100: str | None = None
    model: str = "wrn_28_10"
    protocol: str = "tiwary2024"
    precision: str = AUTO
    epochs: str = AUTO
    min_epochs: int = 15
    budget_minutes: float | None = None
    batch_size: int | None = None
    subset: int = 5000
    notions: str = ",".join(MEASURED)
    seeds: int = 5
    device: str = AUTO
    threads: int | None = None
    save_seconds: float = 60.0
    margin: float | None = None
    commit: str | None = None
    tests: str = AUTO
    benchmark: str = AUTO
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, allowed in (
            ("dataset", (*_SECOND, "arrays")),
            ("precision", (AUTO, *PRECISIONS)),
            ("tests", (AUTO, "true", "false")),
            ("benchmark", (AUTO, "true", "false")),
        ):
            if getattr(self, key) not in allowed:
                raise ConfigError(f"{key}={getattr(self, key)}: must be one of {', '.join(allowed)}.")
        for key in ("min_epochs", "batch_size", "subset", "seeds", "threads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"{key}={value}: must be a whole number > 0.")
        for key in ("minutes", "budget_minutes", "save_seconds", "margin"):
            value = getattr(self, key)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{key}={value}: must be a finite number >= 0.")
        if self.epochs != AUTO and not (self.epochs.isdecimal() and int(self.epochs) > 0):
            raise ConfigError(f"epochs={self.epochs}: must be a whole number > 0, or auto.")
        for name in self.notions.split(","):
            if name not in MEASURED:
                raise ConfigError(f"notions={self.notions}: must be some of {','.join(MEASURED)}, separated by commas.")
        if self.dataset == "arrays" and not self.path:
            raise ConfigError("dataset=arrays: needs dataset.path=FILE.npz.")
        if self.cifar100 and self.dataset == "cifar100":
            raise ConfigError(f"cifar100={self.cifar100}: is for a second data set, but dataset=cifar100 is the first; use dataset.path.")

    @property
    def seconds(self) -> float:
        """For work; the rest of `minutes` is kept for saving."""
        whole = 60 * self.minutes
        return whole - (min(30.0, 0.05 * whole) if self.margin is None else self.margin)

    @property
    def budget(self) -> float:
        """Seconds foreseen for the four runs of Table 3."""
        return 60 * (2 * self.minutes if self.budget_minutes is None else self.budget_minutes)


def parse(arguments: Sequence[str]) -> Options:
    """Raises ConfigError: one sentence."""
    fields = {field.name: str(field.type) for field in dataclasses.fields(Options) if field.name != "given"}
    shown = {name: next((typed for typed, own in _NAMES.items() if own == name), name) for name in fields}
    values: dict[str, object] = {}
    for argument in arguments:
        typed, equals, text = argument.partition("=")
        name = _NAMES.get(typed, typed)
        if not equals or name not in fields or typed not in shown.values():
            raise ConfigError(f"{argument}: unknown argument; known here, each as key=value: {', '.join(shown.values())}.")
        values[name] = None if text == "null" and "None" in fields[name] else _value(typed, text, fields[name])
    return Options(**values, given=tuple(values))  # type: ignore[arg-type]


def _value(key: str, text: str, kind: str) -> object:
    wanted = int if kind.startswith("int") else float if kind.startswith("float") else str
    try:
        return wanted(text)
    except ValueError as error:
        raise ConfigError(f"{key}={text}: must be a {'whole number' if wanted is int else 'number'}.") from error
