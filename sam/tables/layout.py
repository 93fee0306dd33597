"""How a block is laid out, whatever the format: its tables, their panels, and the lines of text below."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from sam.tables.blocks import Block, Cell, Correlation
from sam.tables.correlation import RankCorrelation
from sam.tables.statistics import fixed

GAP = 2  # spaces between two columns of a terminal table
CORRELATION_HEADER = ("Rank correlation", "all runs", "within methods", "between methods")


def grids(block: Block) -> list[Block]:
    """The block's table, and its rank correlations as a table of their own, if there are any."""
    if not block.correlations:
        return [block]
    rows = []
    for c in block.correlations:
        name = tuple(textwrap.wrap(f"{c.x} with {c.y}", 36, break_on_hyphens=False))
        rows.append((Cell("label", name), *(Cell("correlation", parts) for parts in coefficients(c).values())))
    return [block, Block(block.table, block.title, 1, CORRELATION_HEADER, tuple(rows), ())]


def coefficients(c: Correlation) -> dict[str, tuple[str, ...]]:
    """Header -> what is printed below it."""
    found = (c.across, c.within, c.between)
    return {name: _rank_parts(r, "methods" if r is c.between else "runs") for name, r in zip(CORRELATION_HEADER[1:], found, strict=True)}


def _rank_parts(r: RankCorrelation, unit: str) -> tuple[str, ...]:
    if r.rho is None:
        return ("–", f"n = {r.n} {unit}")
    interval = "[–]" if r.ci_low is None or r.ci_high is None else f"[{fixed(r.ci_low, 2, sign=True)}, {fixed(r.ci_high, 2, sign=True)}]"
    return fixed(r.rho, 2, sign=True), interval, f"n = {r.n} {unit}"


def lines_below(block: Block) -> tuple[str, ...]:
    return (block.verdict, *block.notes) if block.verdict else block.notes


def fill(parts: Sequence[str], width: int) -> list[str]:
    """The parts in as few lines of `width` as possible; a part is never broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return lines


def _widths(block: Block, stacked: bool) -> list[int]:
    """The width of every column; with `stacked`, a cell's parts stand below each other."""
    cells = [[row[i] for row in block.rows] for i in range(len(block.header))]
    pieces = [[part for cell in column for part in (cell.parts if stacked else (cell.text,))] for column in cells]
    return [max([1, *map(len, [*parts, *header.split()])]) for parts, header in zip(pieces, block.header, strict=True)]


def _columns_of_panels(block: Block, width: int) -> list[tuple[list[int], list[int]]]:
    """(columns, widths) of each panel: one if the table fits, with its cells stacked if need be; else several that repeat the labels.

    A value column stays with its published column; the differences follow the values, in panels of their own.
    """
    every = list(range(len(block.header)))
    for stacked in (False, True):
        widths = _widths(block, stacked)
        if sum(widths) + GAP * (len(widths) - 1) <= width:
            return [(every, widths)]
    labels = every[: block.labels]
    families: list[list[int]] = []
    for i in every[block.labels :]:
        if block.rows[0][i].kind != "published" or not families:
            families.append([])
        families[-1].append(i)
    first_difference = next((f for f in families if block.rows[0][f[0]].kind == "difference"), None)

    def size(columns: Sequence[int]) -> int:
        return sum(widths[i] + GAP for i in (*labels, *columns)) - GAP

    families = [part for f in families for part in ([f] if size(f) <= width else [[i] for i in f])]
    panels: list[list[int]] = []
    for family in families:
        if panels and family is not first_difference and size(panels[-1] + family) <= width:
            panels[-1] += family
        else:
            panels.append(list(family))
    return [([*labels, *p], [widths[i] for i in (*labels, *p)]) for p in panels]


def panels(block: Block, width: int) -> Iterator[tuple[Block, list[int], list[int]]]:
    """(grid, columns, widths) of every panel of the block, from top to bottom."""
    for grid in grids(block):
        for columns, widths in _columns_of_panels(grid, width):
            yield grid, columns, widths
