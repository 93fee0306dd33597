"""The columns of a block: the values of every row, and the published ones beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sam.tables.blocks import Cell
from sam.tables.contexts import Context
from sam.tables.groups import Group
from sam.tables.published import Published, lookup, matches
from sam.tables.settings import ColumnConfig
from sam.tables.statistics import summarize, summary_parts

PUBLISHED_RHO = 0.05  # radius of the published sharpness: Tiwary & Aananth 2024, section 4.1


@dataclass(frozen=True)
class Column:
    """A column for one radius (rho None where the measure has none)."""

    config: ColumnConfig
    rho: float | None

    def _fill(self, text: str) -> str:
        return text if self.rho is None else text.replace("{rho}", f"{self.rho:g}")

    @property
    def header(self) -> str:
        return self._fill(self.config.header)

    @property
    def measure(self) -> str:
        return self._fill(self.config.measure)

    def values(self, group: Group) -> dict[int, float | None]:
        """Seed -> value in the column's unit, of the finished runs."""
        return group.values(self.measure, self.config.scale)

    def value(self, group: Group) -> Cell:
        if not group.ran:
            return Cell("value", ("not run",), self.header)
        values = self.values(group)
        summary = summarize(values.values())
        parts = summary_parts(summary, self.config.digits)
        if summary.n == 0 and any(self.measure in run.measures for run in group.finished.values()):
            parts = ("no finite value",)  # it was measured: undefined, or not finite
        if group.diverged:
            epochs = [r.diverged_epoch for r in group.diverged.values()]
            when = ", ".join("unknown" if e is None else str(e) for e in epochs)
            total = len(group.diverged) + len(group.finished)
            parts += (f"{len(group.diverged)} of {total} diverged", f"(epoch{'s' if len(epochs) > 1 else ''} {when})")
        seeds = tuple(s for s, v in values.items() if v is not None and math.isfinite(v))
        folders = tuple(r.folder for r in (*group.finished.values(), *group.diverged.values()))
        return Cell("value", parts, self.header, summary, seeds=seeds, diverged=tuple(group.diverged), folders=folders)

    def published(self, group: Group, context: Context) -> list[Published]:
        ids = group.row.published.get(self.config.key, [])
        here = (self.rho is None or math.isclose(self.rho, PUBLISHED_RHO)) and all(run.genuine for run in group.runs or context.runs)
        config = group.config if group.changed else replace(context.config, optimizer=group.optimizer)
        return [p for p in lookup(ids) if here and config is not None and matches(p, config)]


def expand(columns: Sequence[ColumnConfig], rhos: Sequence[float]) -> list[Column]:
    return [Column(c, rho) for c in columns for rho in (rhos if c.each_rho else [None])]
