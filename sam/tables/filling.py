"""A table's placeholders, filled in from what was measured: "{m}" and "{subset}"; and the columns that nobody measured, left out.

("{rho}" is filled in by `sam.tables.columns`, once for every radius.)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence

from sam.config import ConfigError
from sam.sharpness.settings import SharpnessConfig
from sam.tables.contexts import RunRow
from sam.tables.measures import check_measure
from sam.tables.settings import ColumnConfig, TableConfig

SUBSET = "subset={subset}"


def filled(table: TableConfig, sharpness: SharpnessConfig, runs: Sequence[RunRow]) -> TableConfig | None:
    """The table as it is to be built; None if it is optional, and none of its optional columns was measured.

    A column whose measure ends in "subset={subset}" becomes one column for each subset that was measured with, and one for the whole
    set where it was ("all" in its header); an optional one that no run has is left out, and what refers to it too.
    """
    names = {name for run in runs for name in run.measures}
    columns = [column for before in table.columns for column in _columns(before, names)]
    if table.optional and not any(column.optional for column in columns):
        return None
    keys = {column.key for column in columns}
    return dataclasses.replace(
        table,
        columns=[dataclasses.replace(column, header=column.header.replace("{m}", str(sharpness.m))) for column in columns],
        rows=[dataclasses.replace(row, published={k: ids for k, ids in row.published.items() if k in keys}) for row in table.rows],
        correlations=[c for c in table.correlations if {c.x, c.y} <= keys],
        notes=[note.replace("{m}", str(sharpness.m)) for note in table.notes],
    )


def check_columns(table: TableConfig) -> None:
    """Refuse columns that cannot be filled in, or must not be left out. Raises ConfigError."""
    for column in table.columns:
        if "{subset}" in column.measure and not re.search(rf"[\[,]{re.escape(SUBSET)}\]$", column.measure):
            raise ConfigError(f"columns: {column.key}.measure={column.measure}: {{subset}} must stand at its end, as in trace[{SUBSET}].")
        if ("{subset}" in column.measure) != ("{subset}" in column.header):
            raise ConfigError(f"columns: {column.key}: {{subset}} must stand in its measure and in its header, or in neither.")
        if column.optional and (column.key == table.primary or column.margin is not None):
            raise ConfigError(f"columns: {column.key}.optional=true: the test named in advance, and one of equivalence, need their column.")
        check_measure(column.measure, f"columns: {column.key}.measure")


def _columns(column: ColumnConfig, names: Collection[str]) -> list[ColumnConfig]:
    found = _subsets(column, names)
    if not found and column.optional:
        return []
    if "{subset}" not in column.measure:
        return [column]
    headers = {subset: column.header.replace("{subset}", subset or "all") for subset in found or [None]}
    return [dataclasses.replace(column, measure=_at(column.measure, subset), header=header) for subset, header in headers.items()]


def _at(measure: str, subset: str | None) -> str:
    """The name with a subset, or without one: names hold it only where it is smaller than the set."""
    if subset is None:
        return re.sub(rf"\[{re.escape(SUBSET)}\]$|,{re.escape(SUBSET)}(?=\]$)", "", measure)
    return measure.replace("{subset}", subset)


def _subsets(column: ColumnConfig, names: Collection[str]) -> list[str | None]:
    """The subsets with which the column's measure was taken, at whatever radius: the whole set (None) first, then by size."""
    radius = lambda text: re.escape(text).replace(re.escape("{rho}"), r"[^,\]]+")
    whole = any(re.fullmatch(radius(_at(column.measure, None)), name) for name in names)
    if "{subset}" not in column.measure:
        return [None] if whole else []
    pattern = radius(column.measure).replace(re.escape("{subset}"), r"(\d+)")
    sizes = {match[1] for name in names if (match := re.fullmatch(pattern, name))}
    return [*([None] if whole else []), *sorted(sizes, key=int)]
