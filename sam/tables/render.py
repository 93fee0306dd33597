"""Blocks as text for a terminal, Markdown, CSV and LaTeX: pure functions, and the same content in all four."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from sam.tables.blocks import Block
from sam.tables.layout import GAP, fill, grids, lines_below, panels
from sam.tables.render_csv import CSV_HEADER, csv
from sam.tables.render_latex import escape_latex, latex

__all__ = ["CSV_HEADER", "csv", "escape_latex", "latex", "markdown", "terminal"]


def terminal(blocks: Sequence[Block], width: int = 120) -> str:
    """The blocks as plain text at most `width` characters wide (as long as the row labels and one column fit)."""
    return "\n".join(_terminal_block(block, width) for block in blocks)


def _terminal_block(block: Block, width: int) -> str:
    lines = [*textwrap.wrap(block.title, width), ""]
    for grid, columns, widths in panels(block, width):
        lines += _grid_row([textwrap.wrap(grid.header[i], w) or [""] for i, w in zip(columns, widths, strict=True)], widths)
        lines.append("-" * (sum(widths) + GAP * (len(widths) - 1)))
        for row in grid.rows:
            lines += _grid_row([fill(row[i].parts, w) for i, w in zip(columns, widths, strict=True)], widths)
        lines.append("")
    for note in lines_below(block):
        lines += textwrap.wrap(note, width, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _grid_row(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    height = max(map(len, cells))
    padded = [[*cell, *[""] * (height - len(cell))] for cell in cells]
    return [(" " * GAP).join(line.ljust(w) for line, w in zip(row, widths, strict=True)).rstrip() for row in zip(*padded, strict=True)]


# "](", "][" and "]:" make links and what they refer to, "[" at the start of a note a box to tick; some readers link bare addresses too.
_LINKS = re.compile(r"\](?=[(\[:])|^\[(?=[ xX]\])|(?<=\w):(?=//)|(?<=[wW]{3})\.|@")
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\|*_~$`#"} | {"<": "&lt;", ">": "&gt;"})


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as GitHub tables, titles as headings of level 3, notes as lists."""
    return "\n".join(_markdown_block(block) for block in blocks)


def escape_markdown(text: str) -> str:
    """`text` in which nothing acts: no link, image, table, HTML or emphasis."""
    return _LINKS.sub(r"\\\g<0>", text.translate(_MARKDOWN))


def _markdown_block(block: Block) -> str:
    line = lambda cells: f"| {' | '.join(cells)} |"
    lines = [f"### {escape_markdown(block.title)}", ""]
    for grid in grids(block):
        lines += [line([escape_markdown(h) for h in grid.header]), line(["---"] * len(grid.header))]
        lines += [line(["<br>".join(escape_markdown(part) for part in cell.parts) for cell in row]) for row in grid.rows]
        lines.append("")
    return "\n".join([*lines, *(f"- {escape_markdown(note)}" for note in lines_below(block))]) + "\n"
