"""Tables as data: runs in, blocks of cells out. Nothing here prints; `sam.tables.render` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sam.config import ConfigError, TableConfig
from sam.tables.cells import EMPTY, Block, Cell
from sam.tables.columns import Column, check_columns, expand
from sam.tables.comparisons import correlations, differences
from sam.tables.conditions import Context, Group, RunRow, asked, check_match, context_label, contexts, distinguish, group_runs, row_matches
from sam.tables.footnotes import notes, verdict
from sam.tables.published import Published, lookup

__all__ = ["Block", "Cell", "Context", "Group", "RunRow", "build", "context_label", "contexts", "distinguish", "group_runs", "row_matches"]


def build(table: TableConfig, runs: Sequence[RunRow], rhos: Sequence[float]) -> list[Block]:
    """One block per context in which at least one row of the table has a run, but none where other blocks show all of it: a row whose
    `match` names settings of the context takes the runs of that other context.

    rhos: the radii at which sharpness was measured. Raises `ConfigError` where the table refers to a row, column or id that is not there,
    or asks for a test that cannot be made.
    """
    check(table)
    columns = expand(table.columns, rhos)
    headers = [column.header for column in columns]
    for header in headers:
        if headers.count(header) > 1:
            raise ConfigError(f"columns: header={header}: stands over {headers.count(header)} columns; each needs its own.")
    found = contexts(runs)
    return [_block(table, context, groups, columns) for context, groups in _worth_a_block(found, [_groups(table, c, found) for c in found])]


def check(table: TableConfig) -> None:
    """Refuse a table that refers to what is not there, or asks for a test that cannot be made. Raises ConfigError."""
    check_columns(table)
    _check_references(table)
    _check_tests(table)
    for row in table.rows:
        check_match(row)
        for ids in row.published.values():
            lookup(ids)


def _check_references(table: TableConfig) -> None:
    labels, keys = [row.label for row in table.rows], [column.key for column in table.columns]
    if table.baseline is not None and table.baseline not in labels:
        raise ConfigError(f"baseline={table.baseline}: must be the label of a row: {', '.join(labels)}.")
    named = [(f"published.{key}", key) for row in table.rows for key in row.published]
    named += [(f"correlations: {axis}={key}", key) for c in table.correlations for axis, key in (("x", c.x), ("y", c.y))]
    named += [(f"primary={table.primary}", table.primary)] if table.primary is not None else []
    for what, key in named:
        if key not in keys:
            raise ConfigError(f"{what}: must be the key of a column: {', '.join(keys)}.")


def _check_tests(table: TableConfig) -> None:
    compared = [column.key for column in table.columns if column.compare]
    if table.primary is not None and table.baseline is None:
        raise ConfigError(f"primary={table.primary}: needs a baseline row to compare with; set baseline to the label of a row.")
    if table.primary is not None and table.primary not in compared:
        raise ConfigError(f"primary={table.primary}: must be a column with compare: true: {', '.join(compared) or 'there is none'}.")
    margins = [column.key for column in table.columns if column.margin is not None]
    for key in margins:
        if key not in compared:
            raise ConfigError(f"columns: {key}.margin: only a column with compare: true is tested for equivalence.")
    for row in table.rows:
        if row.equivalence and (not margins or table.baseline in (None, row.label)):
            needs = "a margin in a column with compare: true" if not margins else "a baseline, which is another row"
            raise ConfigError(f"rows: {row.label}.equivalence=true: needs {needs}.")


def _groups(table: TableConfig, context: Context, found: Sequence[Context]) -> list[Group]:
    """The rows of the context's block. A row that names the context's own settings is left out where another row shows its runs anyway."""
    plain = {id(run) for row in table.rows if not asked(row)[1] for group in group_runs(row, context.runs) for run in group.runs}
    groups = []
    for row in table.rows:
        changed = {key: value for key, value in asked(row)[1].items() if context.key[key] != value}
        wanted = {**context.key, **changed}
        runs = [run for other in found if other.key == wanted for run in other.runs]
        groups += [replace(group, changed=changed) for group in group_runs(row, runs)]
    repeated = [bool(asked(g.row)[1]) and not g.changed and g.ran and all(id(run) in plain for run in g.runs) for g in groups]
    return [group for group, again in zip(groups, repeated, strict=True) if not again]


def _worth_a_block(found: Sequence[Context], groups: Sequence[list[Group]]) -> list[tuple[Context, list[Group]]]:
    """The contexts of which a row of the table has a run; from the last to the first, those are left out that others show all of."""
    shown = [{id(run) for group in own for run in group.runs} for own in groups]
    kept = [i for i, context in enumerate(found) if shown[i] & {id(run) for run in context.runs}]
    for i in reversed(kept):
        if shown[i] <= set[int]().union(*(shown[j] for j in kept if j != i)):
            kept = [j for j in kept if j != i]
    return [(found[i], groups[i]) for i in kept]


def _block(table: TableConfig, context: Context, groups: Sequence[Group], columns: Sequence[Column]) -> Block:
    firsts = [(group.runs or context.runs)[0] for group in groups]
    setup = [(run.config.model.label, run.data_label) for run in firsts]
    header = [*(("Model", "Dataset") if table.setup_columns else ()), table.row_header]
    labels = [(*names, group.label)[-len(header) :] for names, group in zip(setup, groups, strict=True)]
    rows: list[list[Cell]] = [[Cell("label", (text,)) for text in texts] for texts in labels]
    shown: dict[str, Published] = {}
    for column in columns:
        header.append(column.header)
        for cells, group in zip(rows, groups, strict=True):
            cells.append(column.value(group))
        values = [column.published(group, context) for group in groups]
        if any(values):
            header.append(f"{column.header}: published (protocol unstated)")
            for cells, found in zip(rows, values, strict=True):
                cells.append(Cell("published", tuple(part for p in found for part in p.parts) or EMPTY, column.header))
                shown |= {p.id: p for p in found}
    for column, compared in differences(table, columns, groups):  # after the table itself, which is read first
        header.append(f"{column.header}: difference from row {table.baseline}")
        for cells, cell in zip(rows, compared, strict=True):
            cells.append(cell)
    done = tuple(tuple(cells) for cells in rows)
    related = correlations(table, columns, groups)
    return Block(
        table=table.title,
        title=f"{table.title}, {context.label}",
        labels=3 if table.setup_columns else 1,
        header=tuple(header),
        rows=done,
        notes=notes(table, context, groups, columns, done, list(shown.values()), bool(related)),
        verdict=verdict(table, groups, done),
        correlations=related,
    )
