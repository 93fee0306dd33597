"""Build tables as data: runs in, blocks of cells out. `sam.tables.render` prints them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sam.config import ConfigError
from sam.tables.cells import EMPTY, Block, Cell
from sam.tables.columns import Column, check_columns, expand
from sam.tables.comparisons import best, correlations, differences
from sam.tables.conditions import Condition, RunRow, TableRow, check_match, conditions, data_label, extra_rows, split_match, table_rows
from sam.tables.footnotes import finding, footnotes, verdict
from sam.tables.published import Published, lookup
from sam.tables.settings import TableConfig


def build(table: TableConfig, runs: Sequence[RunRow], rhos: Sequence[float], unmatched: Sequence[RunRow] = ()) -> list[Block]:
    """One block per condition with a run in the table, except those whose runs all appear in other blocks. rhos: the measured radii;
    unmatched: runs that get rows of their own below a block of their condition. Raises ConfigError for a reference to no row, column or
    id, and for a test that cannot be made."""
    check(table)
    columns = expand(table.columns, rhos)
    headers = [column.header for column in columns]
    for header in headers:
        if headers.count(header) > 1:
            raise ConfigError(f"columns: header={header}: stands over {headers.count(header)} columns; each needs its own.")
    found = conditions(runs)
    shown = _worth_a_block(found, [_rows(table, c, found) for c in found])
    return [_block(table, condition, [*rows, *extra_rows(condition, unmatched)], columns) for condition, rows in shown]


def unmatched(tables: Sequence[TableConfig], runs: Sequence[RunRow]) -> list[RunRow]:
    """The runs that match no row of any of the tables."""
    found = conditions(runs)
    matched = {id(run) for table in tables for c in found for row in _rows(table, c, found) for run in row.runs}
    return [run for run in runs if id(run) not in matched]


def check(table: TableConfig) -> None:
    """Refuse a table with references to nothing, or tests that cannot be made. Raises ConfigError."""
    check_columns(table)
    for wrong, message in _faults(table):
        if wrong:
            raise ConfigError(message)
    for row in table.rows:
        check_match(row)
        for ids in row.published.values():
            lookup(ids)


def _faults(table: TableConfig) -> Iterator[tuple[bool, str]]:
    """What can be wrong with references and tests: whether it is, and the message."""
    labels, keys = [row.label for row in table.rows], [column.key for column in table.columns]
    yield table.baseline not in (None, *labels), f"baseline={table.baseline}: must be the label of a row: {', '.join(labels)}."
    named = [(f"published.{key}", key) for row in table.rows for key in row.published]
    named += [(f"correlations: {axis}={key}", key) for c in table.correlations for axis, key in (("x", c.x), ("y", c.y))]
    named += [(f"primary={table.primary}", table.primary)] if table.primary is not None else []
    for what, key in named:
        yield key not in keys, f"{what}: must be the key of a column: {', '.join(keys)}."
    compared = [column.key for column in table.columns if column.compare]
    if table.primary is not None:
        primary, among = f"primary={table.primary}", ", ".join(compared) or "there is none"
        yield table.baseline is None, f"{primary}: needs a baseline row to compare with; set baseline to the label of a row."
        yield table.primary not in compared, f"{primary}: must be a column with compare: true: {among}."
    margins = [column.key for column in table.columns if column.margin is not None]
    for key in margins:
        yield key not in compared, f"columns: {key}.margin: only a column with compare: true is tested for equivalence."
    needs = "a baseline, which is another row" if margins else "a margin in a column with compare: true"
    for row in table.rows:
        untested = row.equivalence and (not margins or table.baseline in (None, row.label))
        yield untested, f"rows: {row.label}.equivalence=true: needs {needs}."


def _rows(table: TableConfig, condition: Condition, found: Sequence[Condition]) -> list[TableRow]:
    """Rows of the condition's block. A row that names settings of this very condition is dropped if another shows its runs."""
    plain = {id(run) for spec in table.rows if not split_match(spec)[1] for row in table_rows(spec, condition.runs) for run in row.runs}
    rows = []
    for spec in table.rows:
        named = split_match(spec)[1]
        changed = {key: value for key, value in named.items() if condition.key[key] != value}
        wanted = {**condition.key, **changed}
        for row in table_rows(spec, [run for other in found if other.key == wanted for run in other.runs]):
            repeated = named and not changed and row.ran and {id(run) for run in row.runs} <= plain
            rows += [] if repeated else [replace(row, changed=changed)]
    return rows


def _worth_a_block(found: Sequence[Condition], rows: Sequence[list[TableRow]]) -> list[tuple[Condition, list[TableRow]]]:
    """Conditions with a run in the table; from last to first, drop those whose runs all appear in others."""
    shown = [{id(run) for row in own for run in row.runs} for own in rows]
    kept = [i for i, condition in enumerate(found) if shown[i] & {id(run) for run in condition.runs}]
    for i in reversed(kept):
        if shown[i] <= set[int]().union(*(shown[j] for j in kept if j != i)):
            kept = [j for j in kept if j != i]
    return [(found[i], rows[i]) for i in kept]


def _block(table: TableConfig, condition: Condition, rows: Sequence[TableRow], columns: Sequence[Column]) -> Block:
    runs = [(row.runs or condition.runs)[0] for row in rows]
    names = [(table.row_header, [row.label for row in rows])]
    if table.setup_columns:
        datasets = [data_label(run.config.dataset, run.data_fingerprint) for run in runs]
        names = [("Model", [run.config.model.label for run in runs]), ("Dataset", datasets), *names]
    made = [(header, [Cell("label", (text,)) for text in texts]) for header, texts in names]
    shown: dict[str, Published] = {}
    for column in columns:
        made.append((column.header, best([column.value(row) for row in rows], column.config.measure)))
        values = [column.published(row, condition) for row in rows]
        if any(values):
            texts = [tuple(part for p in found for part in p.parts) or EMPTY for found in values]
            made.append((f"{column.header}: published (protocol unstated)", [Cell("published", parts, column.header) for parts in texts]))
            shown |= {p.id: p for found in values for p in found}
    # The differences come after the table itself, which is read first.
    made += [(f"{c.header}: difference from row {table.baseline}", cells) for c, cells in differences(table, columns, rows)]
    done = tuple(zip(*(cells for _, cells in made), strict=True))
    header = tuple(header for header, _ in made)
    title, related = f"{table.title}, {condition.label}", correlations(table, columns, rows)
    block = Block(table.title, title, len(names), header, done, verdict=verdict(table, rows, done), correlations=related)
    block = replace(block, finding=finding(table, rows, done), about=condition.label)
    return replace(block, notes=tuple(dict.fromkeys(footnotes(table, condition, rows, block, list(shown.values())))))
