"""The rows of a block: the runs that a row of the table matches, one group of replicas per setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sam.config import BASE_KEYS, METHODS, OptimizerConfig, RowConfig, from_dict
from sam.results.contexts import RunRow, word


@dataclass(frozen=True)
class Group:
    """Replicas of one setting: its label, the row that it belongs to, and one run per seed. Empty for a row without runs."""

    label: str
    row: RowConfig
    optimizer: OptimizerConfig
    finished: Mapping[int, RunRow]
    diverged: Mapping[int, RunRow]
    duplicates: tuple[RunRow, ...] = ()

    @property
    def ran(self) -> bool:
        return bool(self.finished or self.diverged)

    def values(self, measure: str, scale: float) -> dict[int, float | None]:
        """Seed -> measure times scale, of the finished runs."""
        raw = {seed: run.measures.get(measure) for seed, run in sorted(self.finished.items())}
        return {seed: None if value is None else value * scale for seed, value in raw.items()}


def row_matches(match: Mapping[str, Any], optimizer: OptimizerConfig) -> bool:
    """Whether the settings equal `match`. A key of the method that is idle here (step_rule at one step) cannot tell runs apart."""
    known = BASE_KEYS + METHODS[optimizer.method].keys
    return all(key in known and (key not in optimizer.used_keys or getattr(optimizer, key) == value) for key, value in match.items())


def distinguish(optimizers: Sequence[OptimizerConfig]) -> list[str]:
    """For each, what tells it from the others: " (rho 0.1, perturb no_norm)", or "" if there is one only."""
    if len(optimizers) < 2:
        return [""] * len(optimizers)
    names = [f.name for f in dataclasses.fields(OptimizerConfig)]
    differing = [n for n in names if len({repr(getattr(o, n)) for o in optimizers if n in o.used_keys}) > 1]
    texts = [", ".join(f"{n} {word(getattr(o, n))}" for n in differing if n in o.used_keys) for o in optimizers]
    if len(set(texts)) < len(texts):  # the settings differ in something else: number them rather than show two equal labels
        texts = [f"{text}{', ' if text else ''}setting {i}" for i, text in enumerate(texts, 1)]
    return [f" ({text})" for text in texts]


def group_runs(row: RowConfig, runs: Sequence[RunRow]) -> list[Group]:
    """One group per setting among the runs that the row matches; a row without runs is one empty group."""
    by_setting: dict[str, list[RunRow]] = {}
    for run in runs:
        if row_matches(row.match, run.config.optimizer):
            by_setting.setdefault(run.setting, []).append(run)
    if not by_setting:
        return [Group(row.label, row, from_dict(OptimizerConfig, row.match, "match."), {}, {})]
    order = sorted(by_setting.values(), key=lambda members: _numeric_first(members[0].config.optimizer))
    optimizers = [members[0].config.optimizer for members in order]
    groups = []
    for members, suffix in zip(order, distinguish(optimizers), strict=True):
        chosen: dict[int, RunRow] = {}
        for run in sorted(members, key=lambda r: (r.status != "finished", r.folder)):
            chosen.setdefault(run.config.seed, run)
        kept = {id(run) for run in chosen.values()}
        finished = {seed: run for seed, run in sorted(chosen.items()) if run.status == "finished"}
        diverged = {seed: run for seed, run in sorted(chosen.items()) if run.status != "finished"}
        duplicates = tuple(run for run in members if id(run) not in kept)
        groups.append(Group(row.label + suffix, row, members[0].config.optimizer, finished, diverged, duplicates))
    return groups


def _numeric_first(optimizer: OptimizerConfig) -> list[tuple[bool, float, str]]:
    """Sorts settings by their values, 0.05 before 0.1 before 10."""
    values = [getattr(optimizer, f.name) for f in dataclasses.fields(OptimizerConfig)]
    return [(False, float(v), "") if isinstance(v, (int, float)) else (True, 0.0, repr(v)) for v in values]


def baseline_for(group: Group, baselines: Sequence[Group]) -> Group | None:
    """The baseline to compare with: the one at the same radius, then with the most settings in common, then the first."""

    def likeness(other: Group) -> tuple[bool, int]:
        a, b = group.optimizer, other.optimizer
        shared = [k for k in a.used_keys if k in b.used_keys and k not in BASE_KEYS and getattr(a, k) == getattr(b, k)]
        return "rho" in shared, len(shared)

    return max(baselines, key=likeness, default=None)
