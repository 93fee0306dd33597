"""Compare every row with the baseline row, and correlate columns by rank."""

from collections.abc import Sequence
from dataclasses import replace

from sam.tables import statistics as stats
from sam.tables.cells import EMPTY, Cell, Comparison, Correlation
from sam.tables.columns import Column, direction
from sam.tables.conditions import TableRow, baseline_for
from sam.tables.settings import TableConfig
from sam.tables.statistics import Equivalence, Paired, fixed, is_finite, p_text


def differences(table: TableConfig, columns: Sequence[Column], rows: Sequence[TableRow]) -> list[tuple[Column, list[Cell]]]:
    """One cell per row for every column with `compare`. Holm's family: all primary differences of the block that have a p value."""
    baselines = [row for row in rows if row.spec.label == table.baseline]
    compared = [column for column in columns if column.config.compare and baselines]
    bases = {i: baseline_for(row, baselines) for i, row in enumerate(rows) if row.ran and row.spec.label != table.baseline}
    against = {i: base for i, base in bases.items() if base is not None and base.ran}
    paired = {(c.header, i): stats.paired_difference(c.values(rows[i]), c.values(base)) for c in compared for i, base in against.items()}
    named = [column.header for column in compared if column.config.key == table.primary]
    p_values = {(header, i): d.p for (header, i), d in paired.items() if header in named and not rows[i].extra}
    corrected = dict(zip(p_values, stats.holm([*p_values.values()]), strict=True))
    tests = sum(p is not None for p in corrected.values())

    def cell(column: Column, i: int) -> Cell:
        if i not in against:
            return Cell("difference", ("baseline",) if rows[i].spec.label == table.baseline else EMPTY, column.header)
        family = (tests if (column.header, i) in corrected else None, corrected.get((column.header, i)))
        made = _cell(table, column, rows[i], against[i], paired[column.header, i], *family)
        return made if len(baselines) == 1 else replace(made, parts=(*made.parts, f"vs {made.baseline}"))

    return [(column, [cell(column, i) for i in range(len(rows))]) for column in compared]


def _cell(
    table: TableConfig, column: Column, row: TableRow, base: TableRow, paired: Paired, tests: int | None, p_holm: float | None
) -> Cell:
    """Test one difference and print it. tests: size of Holm's family, None if not in it."""
    digits, level = column.config.digits, table.alpha / (tests or 1)
    margin = column.config.margin if row.spec.equivalence else None
    detectable = stats.smallest_detectable(paired.std, paired.n, level, table.power)
    comparison = Comparison(
        primary=tests is not None,
        tests=tests,
        p_holm=p_holm,
        alpha=table.alpha,
        level=None if detectable is None else level,
        detectable=detectable,
        welch=stats.welch(column.values(row).values(), column.values(base).values()),
        equivalence=None if margin is None else stats.equivalence(paired, margin, table.alpha),
    )
    parts = stats.paired_parts(paired, digits, p_holm)
    if comparison.welch is not None:
        parts += (f"Welch p {p_text(comparison.welch.p)}",)
    if detectable is not None:
        shown = fixed(detectable, stats.decimals(paired.std, digits))
        parts += ("minimum detectable", f"difference {shown} ({table.power:.0%} power)")
    if comparison.equivalence is not None:
        within = f"within ±{fixed(comparison.equivalence.margin, digits)}"
        parts += ("equivalent", within) if comparison.equivalence.shown else (f"equivalence {within}", "not established")
        parts += (tost_text(comparison.equivalence),)
    return Cell("difference", parts, column.header, paired=paired, comparison=comparison, baseline=base.label, seeds=paired.seeds)


def best(cells: Sequence[Cell], measure: str) -> list[Cell]:
    """Mark the value cell with the best mean, and those not told apart from it: the interval of the paired difference holds 0, or, where
    there is none (too few common seeds, equal differences), the values overlap. No measure without a direction, no single value."""
    sign = direction(measure)
    found = {i: cell.summary.mean for i, cell in enumerate(cells) if cell.summary is not None and not cell.diverged}
    means = {i: sign * mean for i, mean in found.items() if mean is not None}
    if not sign or len(means) < 2:
        return list(cells)
    top = cells[max(means, key=lambda i: means[i])]
    return [replace(cell, best=i in means and not _worse(cell, top, sign)) for i, cell in enumerate(cells)]


def _worse(cell: Cell, other: Cell, sign: int) -> bool:
    a, b = (dict(zip(c.seeds, filter(is_finite, c.numbers), strict=True)) for c in (cell, other))
    difference = stats.paired_difference(a, b)
    if difference.ci_low is not None and difference.ci_high is not None:
        return max(sign * difference.ci_low, sign * difference.ci_high) < 0
    return max(a.values()) < min(b.values()) or max(b.values()) < min(a.values())


def tost_text(found: Equivalence) -> str:
    return "(no test)" if found.p is None else f"(TOST p {p_text(found.p)})"


def correlations(table: TableConfig, columns: Sequence[Column], rows: Sequence[TableRow]) -> tuple[Correlation, ...]:
    """One rank correlation per pair of `correlations` and radius, over runs with two finite values; a run counts in its first row only."""
    found = []
    first = {run.folder: i for i, row in reversed([*enumerate(rows)]) for run in row.finished.values()}  # rows may overlap
    own = [{seed for seed, run in row.finished.items() if first[run.folder] == i} for i, row in enumerate(rows)]
    for wanted in table.correlations:
        xs, ys = ([c for c in columns if c.config.key == key] for key in (wanted.x, wanted.y))
        for x, y in ((x, y) for x in xs for y in ys if None in (x.rho, y.rho) or x.rho == y.rho):
            every = [stats.finite_pairs(x.values(row), y.values(row)) for row in rows]
            pairs = {str(i): {seed: pair for seed, pair in both.items() if seed in own[i]} for i, both in enumerate(every)}
            found.append(Correlation(x.header, y.header, stats.across(pairs), stats.within(pairs), stats.between(pairs)))
    return tuple(found)
