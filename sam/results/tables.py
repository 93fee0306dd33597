"""Tables as data: runs in, blocks of cells out. Nothing here prints; `sam.results.render` does."""

from __future__ import annotations

from collections.abc import Sequence

from sam.config import ConfigError, TableConfig
from sam.results.blocks import EMPTY, Block, Cell
from sam.results.columns import Column, expand
from sam.results.contexts import Context, RunRow, context_label, contexts
from sam.results.groups import Group, distinguish, group_runs, row_matches
from sam.results.notes import notes
from sam.results.published import Published

__all__ = ["Block", "Cell", "Context", "Group", "RunRow", "build", "context_label", "contexts", "distinguish", "group_runs", "row_matches"]


def build(table: TableConfig, runs: Sequence[RunRow], rhos: Sequence[float]) -> list[Block]:
    """One block per context in which at least one row of the table has a run.

    rhos: the radii at which sharpness was measured. Raises `ConfigError` where the table refers to a row, column or id that is not there.
    """
    labels, keys = [row.label for row in table.rows], [column.key for column in table.columns]
    if table.baseline is not None and table.baseline not in labels:
        raise ConfigError(f"baseline={table.baseline}: must be the label of a row: {', '.join(labels)}.")
    for row in table.rows:
        for key in row.published:
            if key not in keys:
                raise ConfigError(f"published.{key}: must be the key of a column: {', '.join(keys)}.")
    columns = expand(table.columns, rhos)
    headers = [column.header for column in columns]
    for header in headers:
        if headers.count(header) > 1:
            raise ConfigError(f"columns: header={header}: stands over {headers.count(header)} columns; each needs its own.")
    blocks = [_block(table, context, columns) for context in contexts(runs)]
    return [block for block in blocks if block is not None]


def _block(table: TableConfig, context: Context, columns: Sequence[Column]) -> Block | None:
    groups = [group for row in table.rows for group in group_runs(row, context.runs)]
    if not any(group.ran for group in groups):
        return None
    baselines = [group for group in groups if group.row.label == table.baseline]
    setup: tuple[str, ...] = (context.config.model.label, context.config.dataset.label) if table.setup_columns else ()
    header = [*(("Model", "Dataset") if setup else ()), table.row_header]
    rows: list[list[Cell]] = [[Cell("label", (text,)) for text in (*setup, group.label)] for group in groups]
    shown: dict[str, Published] = {}
    for column in columns:
        header.append(column.header)
        for cells, group in zip(rows, groups, strict=True):
            cells.append(column.value(group))
        values = [column.published(group, context.config) for group in groups]
        if any(values):
            header.append(f"{column.header}: published (protocol unstated)")
            for cells, found in zip(rows, values, strict=True):
                cells.append(Cell("published", tuple(part for p in found for part in p.parts) or EMPTY, column.header))
                shown |= {p.id: p for p in found}
    for column in (c for c in columns if c.config.compare and baselines):  # after the table itself, which is read first
        header.append(f"{column.header}: difference from row {table.baseline}")
        for cells, group in zip(rows, groups, strict=True):
            cells.append(column.difference(group, baselines))
    done = tuple(tuple(cells) for cells in rows)
    said = notes(table, context, groups, columns, done, list(shown.values()))
    return Block(table.title, f"{table.title}, {context.label}", len(setup) + 1, tuple(header), done, said)
