"""The notions of sharpness by name: their rows, the settings that count, and one call that measures them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sam.schema import row_settings
from sam.sharpness.context import Context, Part, Result, Sizes, merge, suffix
from sam.sharpness.settings import NOTIONS, SharpnessConfig


@dataclass(frozen=True)
class Notion:
    """One notion: a module with

    measure(context)      -> Result, whose names docs/measures.md explains;
    work(sizes, config)   -> the largest work in units of progress; what was not needed is reported as done at the end;
    VERSION               raised when its definition or arithmetic changes, so that no old row is reused;
    inputs(config)        (if its numbers depend on files) which files, so that changed ones are measured anew.

    A notion whose numbers are stored in several rows has `parts(config, splits)` and `settings(config, part)` too, and `measure`, `work`
    that take a part; `part` is one of these, or None for the whole notion.
    """

    name: str
    part: Part | None = None

    def __str__(self) -> str:
        return self.name if self.part is None else self.name + suffix(bn=self.part[0], split=self.part[1])

    @property
    def module(self) -> Any:
        return NOTIONS[self.name].load()

    def rows(self, config: SharpnessConfig, splits: Collection[str]) -> "list[Notion]":
        """List the parts that are stored as a row each. splits: the sets present beside the training set (test, val)."""
        return [Notion(self.name, part) for part in self.module.parts(config, splits)] if hasattr(self.module, "parts") else [self]

    def measure(self, context: Context) -> Result:
        if self.part is not None:
            return self.module.measure(context, self.part)  # type: ignore[no-any-return]
        with context.planned(self.module.work(context.sizes, context.config)):
            return self.module.measure(context)  # type: ignore[no-any-return]

    def settings(self, config: SharpnessConfig, loss: str = "cross_entropy") -> dict[str, object]:
        """Return what can change its numbers, without `late` keys at their default. loss: the model's, which is measured; included unless
        it is the cross-entropy. Raises DataError if files that it needs are missing."""
        other = {} if loss == "cross_entropy" else {"loss": loss}
        if self.part is not None:
            return {"version": self.module.VERSION, **self.module.settings(config, self.part), **other}
        values = row_settings(config)
        files = {"inputs": self.module.inputs(config)} if hasattr(self.module, "inputs") else {}
        row = NOTIONS[self.name]
        foreign = {"plugin": next(iter(row.plugin))} if row.plugin else {}
        read = {key: values[key] for key in (*row.reads, *([self.name] if foreign else [])) if key in values}
        return {"version": self.module.VERSION, **read, **files, **other, **foreign}


def work(names: Iterable[str | Notion], sizes: Sizes, config: SharpnessConfig) -> float:
    """Return the units of work that measuring these notions, or rows of notions, in one context reports."""
    found: dict[str, list[Part]] = {}
    for row in (Notion(name) if isinstance(name, str) else name for name in names):
        parts = row.rows(config, sizes.splits) if row.part is None else [row]
        found.setdefault(row.name, []).extend(part.part for part in parts if part.part is not None)
    return sum(float(Notion(name).module.work(sizes, config, *((parts, found) if parts else ()))) for name, parts in found.items())


def measure(context: Context, names: Iterable[str] | None = None) -> Result:
    """Measure the named notions (by default those of the context's config) as one result. The model is left bitwise as it was."""
    chosen = context.config.chosen if names is None else names
    return merge(row.measure(context) for name in chosen for row in Notion(name).rows(context.config, context.splits))
