"""The compact form of a block: one line a cell, for terminals, papers and the top of the report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sam.tables.cells import Block, Cell
from sam.tables.statistics import p_short

GAP = 2  # spaces between two columns
_NOTHING = ("–", "not run", "not measured")


def compact(block: Block, width: int = 80) -> Block:
    """Shorten every cell to one part (mean ± sd, with n where it is not the usual one; difference with its p), and leave out what only the
    full table needs: rows without a run, labels that are in the title, differences that were not to be tested, then what does not fit.

    The columns with a test come first, then the others in their order, then published ones; a table without differences keeps all columns.
    """
    ran = [row for row in block.rows if any(cell.folders for cell in row)] or list(block.rows)
    counts = Counter(cell.summary.n for row in ran for cell in row if cell.summary is not None and cell.summary.n)
    usual = max(counts, key=lambda n: (counts[n], n), default=0)
    rows = [tuple(_short(cell, usual) for cell in row) for row in ran]
    columns = _columns(replace(block, rows=tuple(rows)), width)
    header = [block.header[i] if ran[0][i].kind != "difference" else _versus(ran, i) for i in columns]
    return replace(
        block,
        labels=sum(i < block.labels for i in columns),
        header=tuple(header),
        rows=tuple(tuple(row[i] for i in columns) for row in rows),
        notes=tuple(_notes(block, ran, columns, usual)),
        verdict="",
        correlations=(),
    )


def _short(cell: Cell, usual: int) -> Cell:
    """One part: "97.20 ± 0.26", "97.20 (n=1)", "+0.33 (p 0.12)"; a published value without what is said of it."""
    text = cell.parts[0] if cell.parts else ""
    if cell.kind == "published":
        text = ", ".join(part for part in cell.parts if not part.startswith("("))
        text += " (secondary source)" * ("secondary source" in cell.text)
    elif cell.kind == "difference" and cell.paired is not None and cell.paired.mean is not None:
        holm = cell.comparison.p_holm if cell.comparison is not None else None
        p = cell.paired.p if holm is None else holm
        text += f" (n={cell.paired.n})" if cell.paired.n < 2 else " (all equal)" if p is None else f" ({p_short(p)})"
    elif cell.summary is not None:
        s, lost = cell.summary, len(cell.diverged)
        marks = [f"{lost} of {len(cell.folders)} diverged"] if lost and s.n else []
        marks += ["all equal"] * (s.std == 0) + [f"n={s.n}"] * (0 < s.n != usual and not marks)
        text += f" ({', '.join(marks)})" if marks else ""
    return replace(cell, parts=(text,))


def widths(block: Block) -> list[int]:
    """Width of every column: of its longest cell, or word of its header; one more for the mark of a best cell."""
    texts = [[row[i].text + "*" * row[i].best for row in block.rows] for i in range(len(block.header))]
    return [max([1, *map(len, [*column, *header.split()])]) for column, header in zip(texts, block.header, strict=True)]


def _columns(block: Block, width: int) -> list[int]:
    """Columns to keep, in their new order: a difference stands beside its value."""
    kinds = {i: block.rows[0][i] for i in range(len(block.header))}
    empty = {i for i in kinds if all(row[i].text in _NOTHING for row in block.rows)}
    labels = [i for i in range(block.labels) if i == block.labels - 1 or len({row[i].text for row in block.rows}) > 1]
    differences = [i for i, cell in kinds.items() if cell.kind == "difference"]
    tested = [i for i in differences if any(c.primary for row in block.rows if (c := row[i].comparison))] or differences[:1]
    names = {kinds[i].column for i in tested}
    first = [i for i in kinds if kinds[i].kind == "value" and kinds[i].column in names] + tested
    others = [i for kind in ("value", "published") for i in kinds if kinds[i].kind == kind and i not in first]
    kept, room = list(labels), width - sum(_size(block, i) for i in labels) + GAP
    for i in (i for i in [*first, *others] if i not in empty):
        if i in first or not differences or _size(block, i) <= room:
            kept.append(i)
            room -= _size(block, i)
    return [*labels, *sorted(kept[len(labels) :], key=lambda i: (_place(kept, kinds, i), i))]


def _size(block: Block, i: int) -> int:
    return widths(block)[i] + GAP


def _place(kept: Sequence[int], kinds: dict[int, Cell], i: int) -> int:
    """Where the value column is that this one belongs to."""
    return next((j for j in kept if kinds[j].kind == "value" and kinds[j].column == kinds[i].column), i)


def _versus(rows: Sequence[Sequence[Cell]], i: int) -> str:
    names = dict.fromkeys(row[i].baseline for row in rows if row[i].baseline)
    return f"difference from {next(iter(names))}" if len(names) == 1 else "difference"


def _notes(block: Block, ran: Sequence[Sequence[Cell]], columns: Sequence[int], usual: int) -> list[str]:
    """One sentence on the numbers."""
    shown = [row[i] for row in ran for i in columns]
    texts = [f"Mean ± standard deviation over seeds, n = {usual}"] if usual > 1 else ["One seed" if usual else "No value"]
    if any(cell.summary is not None and cell.summary.n not in (0, usual) for cell in shown):
        texts[0] += " where not said otherwise"
    tests = [cell.comparison for cell in shown if cell.comparison is not None]
    if tests:
        corrected = ", Holm-corrected" if any(c.p_holm is not None for c in tests) else ""
        texts.append(f"p of the paired t test{corrected}")
    texts += ["* best, or not told apart from it"] * any(cell.best for cell in shown)
    missing = [row[block.labels - 1].text for row in block.rows if not any(row is other for other in ran)]
    texts += [f"not run: {', '.join(missing)}"] * bool(missing)
    return ["; ".join(texts) + "."]
