"""The rows of a block: the runs that a row of the table matches, one group of replicas per setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sam.config import BASE_KEYS, METHODS, ConfigError, OptimizerConfig, RowConfig, TrainConfig, check_setting, from_dict
from sam.tables.contexts import RunRow, may_vary, word

_OPTIMIZER_KEYS = tuple(f.name for f in dataclasses.fields(OptimizerConfig))


@dataclass(frozen=True)
class Group:
    """Replicas of one setting: its label, the row that it belongs to, and one run per seed. Empty for a row without runs.

    config: of its first run; None without one. changed: the context's settings that the row names, where they differ from the block's.
    """

    label: str
    row: RowConfig
    optimizer: OptimizerConfig
    finished: Mapping[int, RunRow]
    diverged: Mapping[int, RunRow]
    duplicates: tuple[RunRow, ...] = ()
    config: TrainConfig | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[RunRow, ...]:
        return (*self.finished.values(), *self.diverged.values(), *self.duplicates)

    @property
    def ran(self) -> bool:
        return bool(self.finished or self.diverged)

    def values(self, measure: str, scale: float) -> dict[int, float | None]:
        """Seed -> measure times scale, of the finished runs."""
        raw = {seed: run.measures.get(measure) for seed, run in sorted(self.finished.items())}
        return {seed: None if value is None else value * scale for seed, value in raw.items()}


def asked(row: RowConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the row's `match` says of the optimizer, by its keys; and of the context (the learning rate is of both), by dotted names."""
    of_optimizer = {key: value for key, value in row.match.items() if key in _OPTIMIZER_KEYS}
    base = {f"optimizer.{key}": value for key, value in of_optimizer.items() if key in BASE_KEYS and key != "method"}
    return of_optimizer, base | {key: value for key, value in row.match.items() if key not in _OPTIMIZER_KEYS}


def check_match(row: RowConfig) -> None:
    """Refuse keys and values that no run can have. Raises ConfigError."""
    of_optimizer, of_context = asked(row)
    from_dict(OptimizerConfig, of_optimizer, f"rows: {row.label}.match.")
    for key, value in of_context.items():
        if not (may_vary(key) or key.removeprefix("optimizer.") in of_optimizer):
            raise ConfigError(
                f"rows: {row.label}.match.{key}: unknown key; known here: {', '.join(_OPTIMIZER_KEYS)}, and what else tells the blocks of "
                "a table apart, such as epochs or dataset.train_size."
            )
        check_setting(key, value, f"rows: {row.label}.match.{key}")


def row_matches(match: Mapping[str, Any], optimizer: OptimizerConfig) -> bool:
    """Whether the settings equal `match`. A key of the method that is idle here (step_rule at one step) cannot tell runs apart."""
    known = BASE_KEYS + METHODS[optimizer.method].keys
    return all(key in known and (key not in optimizer.used_keys or getattr(optimizer, key) == value) for key, value in match.items())


def distinguish(optimizers: Sequence[OptimizerConfig]) -> list[str]:
    """For each, what tells it from the others: " (rho 0.1, perturb no_norm)", or "" if there is one only."""
    if len(optimizers) < 2:
        return [""] * len(optimizers)
    differing = [n for n in _OPTIMIZER_KEYS if len({repr(getattr(o, n)) for o in optimizers if n in o.used_keys}) > 1]
    texts = [", ".join(f"{n} {word(getattr(o, n))}" for n in differing if n in o.used_keys) for o in optimizers]
    if len(set(texts)) < len(texts):  # the settings differ in something else: number them rather than show two equal labels
        texts = [f"{text}{', ' if text else ''}setting {i}" for i, text in enumerate(texts, 1)]
    return [f" ({text})" for text in texts]


def group_runs(row: RowConfig, runs: Sequence[RunRow]) -> list[Group]:
    """One group per setting among the runs that the row matches, whatever it says of the context; a row without runs is one empty group."""
    match = asked(row)[0]
    by_setting: dict[str, list[RunRow]] = {}
    for run in runs:
        if row_matches(match, run.config.optimizer):
            by_setting.setdefault(run.setting, []).append(run)
    if not by_setting:
        return [Group(row.label, row, from_dict(OptimizerConfig, match, "match."), {}, {})]
    order = sorted(by_setting.values(), key=lambda members: _numeric_first(members[0].config.optimizer))
    optimizers = [members[0].config.optimizer for members in order]
    groups = []
    for members, suffix in zip(order, distinguish(optimizers), strict=True):
        chosen: dict[int, RunRow] = {}
        for run in sorted(members, key=lambda r: (not r.is_finished, r.folder)):
            chosen.setdefault(run.config.seed, run)
        finished = {seed: run for seed, run in sorted(chosen.items()) if run.is_finished}
        diverged = {seed: run for seed, run in sorted(chosen.items()) if not run.is_finished}
        duplicates = tuple(run for run in members if run is not chosen[run.config.seed])
        first = members[0].config
        groups.append(Group(row.label + suffix, row, first.optimizer, finished, diverged, duplicates, first))
    return groups


def _numeric_first(optimizer: OptimizerConfig) -> list[tuple[bool, float, str]]:
    """Sorts settings by their values, 0.05 before 0.1 before 10."""
    values = [getattr(optimizer, key) for key in _OPTIMIZER_KEYS]
    return [(False, float(v), "") if isinstance(v, (int, float)) else (True, 0.0, repr(v)) for v in values]


def baseline_for(group: Group, baselines: Sequence[Group]) -> Group | None:
    """The baseline to compare with: the one at the same radius, then with the most settings in common, then the first."""

    def likeness(other: Group) -> tuple[bool, int]:
        a, b = group.optimizer, other.optimizer
        shared = [k for k in a.used_keys if k in b.used_keys and k not in BASE_KEYS and getattr(a, k) == getattr(b, k)]
        return "rho" in shared, len(shared)

    return max(baselines, key=likeness, default=None)
