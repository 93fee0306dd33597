"""The compact form of a block: one line a cell, for terminals, papers and the top of the report."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sam.tables.cells import EMPTY, Block, Cell
from sam.tables.statistics import p_short
from sam.text import counted

GAP = 2  # spaces between two columns
LONGEST = 44  # characters of a cell's line
_NOTHING = ("–", "baseline", "not run", "not measured", "no common seed")


def compact(block: Block, width: int = 80, marks: bool = False) -> Block:
    """Shorten every cell to one part (mean ± sd, with n where it is not the usual one; difference with its p), and leave out what only the
    full table needs: rows without a run, labels that are in the title, differences that were not to be tested, then what does not fit.

    The columns with a test come first, then the others in their order, then published ones; a table without differences keeps all columns.
    marks: in place of a tested difference "†" at a value that differs at the level of the test.
    """
    if block.brief:
        first = lambda row: tuple(replace(row[i], parts=row[i].parts[:1], best=False) for i in block.brief)
        return replace(block, header=tuple(block.header[i] for i in block.brief), rows=tuple(map(first, block.rows)), notes=())
    ran = [row for row in block.rows if any(cell.folders for cell in row)] or list(block.rows)
    counts = Counter(cell.summary.n for row in ran for cell in row if cell.summary is not None and cell.summary.n)
    usual = max(counts, key=lambda n: (counts[n], n), default=0)
    labels, tested, others = _order(block, ran, marks)
    order = [*labels, *tested, *others]
    rows = [_shorten([row[i] for i in order], usual, row if marks else ()) for row in ran]
    header = [block.header[i] if ran[0][i].kind != "difference" else _versus(ran, i) for i in order]
    whole = replace(block, labels=len(labels), header=tuple(header), rows=tuple(rows), verdict="", correlations=())
    kept, every = list[int](), widths(whole)
    must = len(labels) + len(tested) if tested else len(order)
    for i in range(len(order)):  # those that must be there, then each that still fits
        if i < must or sum(every[j] + GAP for j in [*kept, i]) - GAP <= width:
            kept.append(i)
    shown = [[row[i] for i in kept] for row in rows]
    notes = _notes(block, ran, shown, usual, marks)
    return replace(whole, header=tuple(header[i] for i in kept), rows=tuple(map(tuple, shown)), notes=(notes,))


def _shorten(row: Sequence[Cell], usual: int, marked: Sequence[Cell]) -> tuple[Cell, ...]:
    """Every cell in one part; the first value says how many seeds there are, the others only where they have another number."""
    told, line = (usual, 0), list[Cell]()
    for cell in row:
        line.append(_short(cell, told, marked))
        if cell.summary is not None and cell.summary.n:
            told = (cell.summary.n, len(cell.diverged))
    return tuple(line)


def _short(cell: Cell, told: tuple[int, int], marked: Sequence[Cell]) -> Cell:
    """One part: "97.20 ± 0.26", "97.20 (n=1)", "+0.33 (p 0.12)"; a published value without what is said of it. told: (seeds, diverged runs)
    that need not be said; marked: cells whose tests mark this one."""
    text = " ".join(cell.parts if cell.column == "Picked" else cell.parts[:1])  # a pick with its edge
    if cell.kind == "published":
        text = ", ".join(part for part in cell.parts if not part.startswith("("))
        text += " (secondary source)" * ("secondary source" in cell.text)
    elif cell.kind == "difference" and cell.paired is not None and cell.paired.mean is not None:
        holm = cell.comparison.p_holm if cell.comparison is not None else None
        p = cell.paired.p if holm is None else holm
        how = [] if cell.paired.n < 2 else ["all equal" if p is None else p_short(p)]
        text += f" ({', '.join([f'n={cell.paired.n}'] * (cell.paired.n < 2 or cell.paired.n != told[0]) + how)})"
    elif cell.summary is not None:
        s, lost = cell.summary, len(cell.diverged)
        marks = ["all equal"] * (s.std == 0)
        if (s.n or lost) and (s.n, lost) != told:
            marks.append(f"{lost}/{len(cell.folders)} diverged" if lost else f"n={s.n}")
        text += "†" * any(c.comparison.significant for c in marked if c.comparison is not None and c.column == cell.column)
        text += f" ({', '.join(marks)})" if marks else ""
    return replace(cell, parts=(text,))


def wrapped(header: str, width: int = LONGEST) -> list[str]:
    """Lines of a header or a cell, in which a radius stays with its number."""
    lines = textwrap.wrap(_glued(header), width, break_on_hyphens=False) or [""]
    return [line.replace("\xa0", " ") for line in lines]


def _glued(header: str) -> str:
    return header.replace("ρ ", "ρ\xa0")


def widths(block: Block) -> list[int]:
    """Width of every column: of its longest line, a word or a quarter of its header; one more for the mark of a best cell."""
    sizes = [len(header) // 4 for header in block.header]
    words = [_glued(header).split(" ") for header in block.header]
    texts = [[line for row in block.rows for line in wrapped(row[i].text + "*" * row[i].best)] for i in range(len(sizes))]
    return [max([1, size, *map(len, [*column, *above])]) for size, column, above in zip(sizes, texts, words, strict=True)]


def _order(block: Block, ran: Sequence[Sequence[Cell]], marks: bool) -> tuple[list[int], list[int], list[int]]:
    """Columns that say something: labels that vary; values that were tested, each with its difference; all others, the published last."""
    says = [i for i in range(len(block.header)) if any(row[i].diverged or (row[i].parts or EMPTY)[0] not in _NOTHING for row in ran)]
    kind, column = [cell.kind for cell in ran[0]], [cell.column for cell in ran[0]]
    labels = [i for i in range(block.labels) if i == block.labels - 1 or len({row[i].text for row in ran}) > 1]
    differences = [i for i in range(len(kind)) if kind[i] == "difference"]
    primary = [i for i in differences if any(c.primary for row in ran if (c := row[i].comparison))] or differences[:1]
    tested = [j for i in primary for j in says if column[j] == column[i] and (kind[j] == "value" or (j == i and not marks))]
    return labels, tested, [i for one in ("value", "published") for i in says if kind[i] == one and i not in tested]


def _versus(rows: Sequence[Sequence[Cell]], i: int) -> str:
    names = dict.fromkeys(row[i].baseline for row in rows if row[i].baseline)
    return f"difference from {next(iter(names))}" if len(names) == 1 else "difference"


def _notes(block: Block, ran: Sequence[Sequence[Cell]], shown: Sequence[Sequence[Cell]], usual: int, marks: bool) -> str:
    """One sentence on the numbers."""
    cells = [cell for row in shown for cell in row]
    tests = [cell.comparison for row in (ran if marks else shown) for cell in row if cell.comparison and cell.paired and cell.paired.p]
    family = [test for test in tests if test.p_holm is not None]
    texts = [f"Mean ± standard deviation over seeds, n = {usual}"] if usual > 1 else ["One seed" if usual else "No value"]
    if any(cell.summary is not None and cell.summary.n not in (0, usual) for cell in cells):
        texts[0] += " where not said otherwise"
    if marks and family:
        versus = next(_versus(ran, i).removeprefix("difference") for i, cell in enumerate(ran[0]) if cell.kind == "difference")
        texts.append(f"† differs{versus}, paired t test, Holm-corrected p ≤ {family[0].alpha:g}")
    elif tests and not marks:
        texts.append(f"p of the paired t test{', Holm-corrected' if family else ''}")
    own = [[c.comparison for c in row if c.comparison is not None] for row in ran]
    beside = sum(bool(of) and not any(c.primary for c in of) for of in own)
    texts += [f"{counted(beside, 'row')} in no row of the layout: p uncorrected, part of no test"] * bool(family and beside)
    best = "the best mean" if block.table == "Sweep" else "best, or not told apart from it"  # a sweep only describes
    texts += [f"bold: {best}"] * any(cell.best for cell in cells)
    missing = [row[block.labels - 1].text for row in block.rows if not any(row is other for other in ran)]
    texts += [f"not run: {', '.join(missing)}"] * bool(missing)
    return "; ".join(texts) + "."
