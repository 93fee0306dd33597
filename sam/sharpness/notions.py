"""The notions of sharpness, by name: what each is, which settings can change its numbers, and one call that runs them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sam.config import NOTIONS, SharpnessConfig, row_settings
from sam.sharpness.subject import Result, Sizes, Subject


@dataclass(frozen=True)
class Notion:
    """One notion: a module with `measure(subject) -> Result`, `work(sizes, config) -> units of progress`, and `VERSION`, raised when its
    definition or arithmetic changes, so that no old row is reused. Where the numbers depend on files of its own, also `inputs(config)`,
    which says which, so that changed files are measured anew."""

    name: str

    @property
    def module(self) -> Any:
        return importlib.import_module(NOTIONS[self.name].module)

    def measure(self, subject: Subject) -> Result:
        result: Result = self.module.measure(subject)
        return result

    def work(self, sizes: Sizes, config: SharpnessConfig) -> float:
        return float(self.module.work(sizes, config))

    def settings(self, config: SharpnessConfig) -> dict[str, object]:
        """What can change its numbers, without `LATE` keys at their default. Raises DataError if it needs files that are not there."""
        values = row_settings(config)
        files = {"inputs": self.module.inputs(config)} if hasattr(self.module, "inputs") else {}
        return {"version": self.module.VERSION, **{key: values[key] for key in NOTIONS[self.name].keys if key in values}, **files}


def work(names: Iterable[str], sizes: Sizes, config: SharpnessConfig) -> float:
    """Units that measuring these notions will report."""
    return sum(Notion(name).work(sizes, config) for name in names)


def measure(subject: Subject, names: Iterable[str] | None = None) -> Result:
    """All named notions (those of the subject's config by default) as one result. The model is left bitwise as it was."""
    total = Result()
    for name in subject.config.chosen if names is None else names:
        result = Notion(name).measure(subject)
        total.values.update(result.values)
        total.series.update(result.series)
    return total
