"""The runs as tables know them, grouped by *condition* (all but the seed and the method's own keys, rho say: rows of a block share learning
rate and weight decay, and differ in the method alone), and the runs of each row of a table.
"""

import dataclasses
import difflib
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from data.known import BY_FINGERPRINT, is_genuine
from data.settings import DATASETS, DatasetConfig
from sam.config import ConfigError
from sam.optimizers.settings import METHODS, OptimizerConfig
from sam.schema import check_setting, defaults, flat, from_dict, schema, to_dict
from sam.settings import KEPT_AND_WATCHED, TrainConfig
from sam.tables.settings import RowConfig
from sam.text import counted

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class RunRow:
    """One run; `measures` in plain units (accuracy in percent, cross-entropies in nats), None if undefined.

    setting       identity without the seed: runs with equal `setting` are replicas over seeds.
    epochs        rows of metrics.csv; series: curves and maps of the notions, by name.
    init_from     hash of the file of initial weights, or None; started_from: its name in labels.
    files         paths of a finished run's checkpoint and measures, by label.
    record        its run.json; a report prints environment and dates.
    """

    config: TrainConfig
    setting: str
    status: str
    diverged_epoch: int | None
    measures: Mapping[str, float | None]
    epochs: Sequence[Mapping[str, float]]
    folder: str
    fingerprint: str
    data_fingerprint: str
    data_notes: tuple[str, ...]
    series: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)
    init_from: str | None = None
    started_from: str | None = None
    command: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        return self.status == "finished"

    @property
    def genuine(self) -> bool:
        """True if the images are known to be those of the data set named."""
        return is_genuine(self.config.dataset.name, self.config.dataset.path, self.data_fingerprint)

    @functools.cached_property  # every table asks for it
    def condition(self) -> str:
        """`settings` as JSON, with the files by their bytes, not by their paths."""
        return json.dumps(settings(self.config) | {"init_from": self.init_from, "data": self.data_fingerprint}, sort_keys=True)

    @functools.cached_property
    def own(self) -> dict[str, Any]:
        """`own_settings`, with the files by their bytes."""
        return own_settings(self.config) | {"init_from": self.init_from, "data": self.data_fingerprint}


@dataclass(frozen=True)
class Condition:
    """Runs that differ in method and seed only. config: the first run's; key: their common settings, by dotted names."""

    label: str
    config: TrainConfig
    runs: tuple[RunRow, ...]
    key: Mapping[str, Any] = field(default_factory=dict)


_COMMON = tuple(f.name for f in dataclasses.fields(OptimizerConfig))
_ALIKE = ("optimizer.", "tracking.", *KEPT_AND_WATCHED, "seed", "device", "threads", "protocol.notes", "dataset.root", "dataset.download")


def settings(c: TrainConfig) -> dict[str, Any]:
    """Settings that make a condition, by dotted names: all but the method's own keys, seed, places, and how a run is kept and watched."""
    common = {f"optimizer.{key}": getattr(c.optimizer, key) for key in _COMMON if key != "method"}
    others = {name: value for name, value in flat(to_dict(c)).items() if not name.startswith(_ALIKE)}
    return common | others | {"dataset.path": "file" if c.dataset.path else None}


def may_vary(name: str) -> bool:
    """True if two conditions may differ in this setting (a dotted name)."""
    return name in flat(defaults(TrainConfig)) and name != "dataset.path" and not name.startswith(_ALIKE)


def own_settings(config: TrainConfig) -> dict[str, Any]:
    """Settings that the run reads, by dotted names, except its seed."""
    own = {f"optimizer.{key}": getattr(config.optimizer, key) for key in config.optimizer.used_keys}
    return own | {name: value for name, value in settings(config).items() if not name.startswith("optimizer.")}


def grouped(items: Iterable[V], key: Callable[[V], K]) -> dict[K, list[V]]:
    """Key -> its items, both in their order."""
    found: dict[K, list[V]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def order(value: Any) -> tuple[bool, float, str]:
    """Sort key of values: numbers by size (0.05 before 0.1 before 10), then words."""
    return (False, float(value), "") if is_number(value) else (True, 0.0, "" if value is None else value_text(value))


def plain(runs: Sequence[RunRow], named: Iterable[str]) -> list[RunRow]:
    """Those in which each key of the optimizer that is not named, and in which they differ, has its default."""
    own, usual = [run.own for run in runs], {f"optimizer.{name}": value for name, value in defaults(OptimizerConfig).items()}
    free = [name for name in varying(own) if name in usual and name.removeprefix("optimizer.") not in named]
    return [run for run, has in zip(runs, own, strict=True) if all(has.get(name, usual[name]) == usual[name] for name in free)]


def varying(known: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings in which some differ; one that some lack differs too."""
    names = dict.fromkeys(name for values in known for name in values)
    return [name for name in names if len({repr(values[name]) if name in values else "" for values in known}) > 1]


def check_select(select: Mapping[str, Any]) -> None:
    """Refuse keys and values of `select` that no run can have. Raises ConfigError."""
    known = flat(defaults(TrainConfig))
    for name, wanted in flat(dict(select)).items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 3) or ["seed", "optimizer.method", "optimizer.rho"]
            raise ConfigError(f"select.{name}: unknown key; known are those of train.py by their full names, such as {', '.join(near)}.")
        for value in wanted if isinstance(wanted, list) else [wanted]:
            check_setting(TrainConfig, name, value, f"select.{name}")


def selected(config: TrainConfig, select: Mapping[str, Any]) -> bool:
    """True if every key of `select` (dotted names) has its value, or one of its list; a key that the run does not read has none."""
    own = flat(to_dict(config)) if select else {}
    return all(name in own and own[name] in (v if isinstance(v, list) else [v]) for name, v in flat(dict(select)).items())


def method_name(optimizer: OptimizerConfig) -> str:
    """Name in figures and of rows that no table names: "SGD", "SAM N=2", "XSAM", "XSAM k=2"."""
    method, steps = METHODS[optimizer.method], getattr(optimizer, "ascent_steps", 1)
    name = f"{method.label} {'k' if optimizer.method == 'xsam' else 'N'}={steps}"  # XSAM's paper calls it k
    return name if steps > 1 or optimizer.method == "sam" else method.label


def value_text(value: Any) -> str:
    """Text of a setting's value in labels."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(value_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def data_label(dataset: DatasetConfig, fingerprint: str) -> str:
    """Label of a data set; images from a file are named by their fingerprint, if it is known."""
    if is_genuine(dataset.name, dataset.path, fingerprint) and dataset.name != "arrays":
        return dataset.label
    alien = "arrays" if dataset.name == "arrays" else f"images not known to be {DATASETS[dataset.name].label}"
    return dataset.named(BY_FINGERPRINT[fingerprint].name if fingerprint in BY_FINGERPRINT else alien)


def condition_label(run: RunRow) -> str:
    """Label such as "digits demo" or "CIFAR-10, WRN-28-10, 200 epochs, protocol tiwary2024", with the file of initial weights, if any."""
    config = run.config
    if config.dataset.name == "digits" and config.protocol.name.startswith("demo"):
        label = config.dataset.named("digits demo")
    else:
        data = data_label(config.dataset, run.data_fingerprint)
        label = f"{data}, {config.model.label}, {counted(config.epochs, 'epoch')}, protocol {config.protocol.name}"
    if config.loss != "cross_entropy":
        label += f", loss {config.loss}"
    return label if run.started_from is None else f"{label}, started from {run.started_from}"


def conditions(runs: Sequence[RunRow]) -> list[Condition]:
    """Group the runs by condition, in the order of the labels; where labels would collide, the settings that differ are appended."""
    for run in runs:
        if run.status not in ("finished", "diverged"):
            raise ValueError(f"{run.folder}: status {run.status}: only finished and diverged runs belong in a table.")
    members = grouped(runs, lambda run: run.condition)
    labelled = [(condition_label(own[0]), json.loads(key), own) for key, own in members.items()]
    found = []
    for label, key, own in labelled:
        differing = varying([other for name, other, _ in labelled if name == label])
        suffix = "".join(f", {name}={str(key[name])[:12] if name == 'data' else value_text(key[name])}" for name in differing)
        found.append(Condition(label + suffix, own[0].config, tuple(own), key))
    return sorted(found, key=lambda condition: condition.label)  # runs that start at once would come in either order


@dataclass(frozen=True)
class TableRow:
    """The replicas of one setting, one per seed, if any. config: the first run's; changed: settings unlike the block's condition; extra:
    no row of the table, shown so that its runs are not lost."""

    label: str
    spec: RowConfig
    optimizer: OptimizerConfig
    finished: Mapping[int, RunRow]
    diverged: Mapping[int, RunRow]
    duplicates: tuple[RunRow, ...] = ()
    config: TrainConfig | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)
    extra: bool = False

    @property
    def shown(self) -> tuple[RunRow, ...]:
        return (*self.finished.values(), *self.diverged.values())

    @property
    def runs(self) -> tuple[RunRow, ...]:
        return (*self.shown, *self.duplicates)

    @property
    def ran(self) -> bool:
        return bool(self.finished or self.diverged)

    def values(self, measure: str, scale: float) -> dict[int, float | None]:
        """Seed -> measure times scale, of the finished runs."""
        raw = {seed: run.measures.get(measure) for seed, run in self.finished.items()}
        return {seed: None if value is None else value * scale for seed, value in raw.items()}


def split_match(spec: RowConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split `match` into optimizer keys, and settings of the condition by dotted names (the learning rate is in both)."""
    of_optimizer = {key: value for key, value in spec.match.items() if key in schema(OptimizerConfig)}
    base = {f"optimizer.{key}": value for key, value in of_optimizer.items() if key in _COMMON and key != "method"}
    return of_optimizer, base | {key: value for key, value in spec.match.items() if key not in schema(OptimizerConfig)}


def check_match(spec: RowConfig) -> None:
    """Refuse keys and values that no run can have. Raises ConfigError."""
    of_optimizer, of_condition = split_match(spec)
    from_dict(OptimizerConfig, of_optimizer, f"rows: {spec.label}.match.")
    for key, value in of_condition.items():
        if not (may_vary(key) or key.removeprefix("optimizer.") in of_optimizer):
            known = f"{', '.join(schema(OptimizerConfig))}, and what else tells blocks apart, such as epochs or dataset.train_size"
            raise ConfigError(f"rows: {spec.label}.match.{key}: unknown key; known here: {known}.")
        check_setting(TrainConfig, key, value, f"rows: {spec.label}.match.{key}")


def row_matches(match: Mapping[str, Any], o: OptimizerConfig, by: Callable[[Any], Any] = lambda value: value) -> bool:
    """True if the optimizer has the values of `match`, compared `by`; keys that are idle here (step_rule at one step) match anything."""
    return all(hasattr(o, key) and (key not in o.used_keys or by(getattr(o, key)) == by(value)) for key, value in match.items())


def distinguish(optimizers: Sequence[OptimizerConfig]) -> list[str]:
    """Suffix that makes each label unique: " (rho 0.1, perturb no_norm)", or "" if there is one only."""
    differing = [n for n in schema(OptimizerConfig) if len({repr(getattr(o, n)) for o in optimizers if n in o.used_keys}) > 1]
    texts = [", ".join(f"{n} {value_text(getattr(o, n))}" for n in differing if n in o.used_keys) for o in optimizers]
    if len(set(texts)) < len(texts):  # the settings differ in something else: number them rather than show two equal labels
        texts = [f"{text}{', ' if text else ''}setting {i}" for i, text in enumerate(texts, 1)]
    return [f" ({text})" if len(texts) > 1 else "" for text in texts]


def table_rows(spec: RowConfig, runs: Sequence[RunRow]) -> list[TableRow]:
    """One row per setting among the runs that match, whatever `match` says of the condition; one empty row if none does."""
    match = split_match(spec)[0]
    by_setting = grouped((run for run in runs if row_matches(match, run.config.optimizer)), lambda run: run.setting)
    if not by_setting:
        return [TableRow(spec.label, spec, from_dict(OptimizerConfig, match, "match."), {}, {})]
    by_size = lambda members: [order(getattr(members[0].config.optimizer, key, None)) for key in schema(OptimizerConfig)]
    ordered = sorted(by_setting.values(), key=by_size)
    suffixes = distinguish([members[0].config.optimizer for members in ordered])
    return [table_row(spec.label + suffix, spec, members) for members, suffix in zip(ordered, suffixes, strict=True)]


def table_row(label: str, spec: RowConfig, members: Sequence[RunRow]) -> TableRow:
    """The runs of one setting as a row. Of two with one seed the finished one counts, then the one whose folder comes first."""
    ordered = sorted(members, key=lambda run: (not run.is_finished, run.folder), reverse=True)
    chosen = dict(sorted({run.config.seed: run for run in ordered}.items()))
    finished = {seed: run for seed, run in chosen.items() if run.is_finished}
    diverged = {seed: run for seed, run in chosen.items() if not run.is_finished}
    duplicates = tuple(run for run in members if run is not chosen[run.config.seed])
    first = members[0].config
    return TableRow(label, spec, first.optimizer, finished, diverged, duplicates, first)


def extra_rows(condition: Condition, unmatched: Sequence[RunRow]) -> list[TableRow]:
    """Rows for the condition's runs among those that match no row, named by their settings."""
    lost, by_name = {id(run) for run in unmatched}, grouped(condition.runs, lambda run: method_name(run.config.optimizer))
    rows = [row for name, runs in by_name.items() for row in table_rows(RowConfig(label=name), runs)]
    return [replace(row, extra=True) for row in rows if any(id(run) in lost for run in row.runs)]


def baseline_for(row: TableRow, baselines: Sequence[TableRow]) -> TableRow | None:
    """The baseline row to compare with: same radius first, then most settings in common, then the first."""
    own = {key: getattr(row.optimizer, key) for key in row.optimizer.used_keys if key not in _COMMON}
    shared = lambda o: [key for key, value in own.items() if key in o.used_keys and getattr(o, key) == value]
    return max(baselines, key=lambda other: ("rho" in shared(other.optimizer), len(shared(other.optimizer))), default=None)
