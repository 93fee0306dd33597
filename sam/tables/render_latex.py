"""Blocks as LaTeX."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from sam.tables.blocks import Block
from sam.tables.layout import fill, lines_below, panels

LATEX_WIDTH = 105  # characters of \footnotesize that fit in one line of a page, roughly
LATEX_LINES = 60  # lines of it on a page

# "[" is wrapped, and "*" at the start: after "\\" LaTeX would read them as an argument.
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "<": "$<$", ">": "$>$"}
    | {"×": r"$\times$", "±": r"$\pm$", "²": "$^2$", "³": "$^3$", "ρ": r"$\rho$", "α": r"$\alpha$", "λ": r"$\lambda$", "ε": r"$\epsilon$"}
    | {"∇": r"$\nabla$", "‖": r"$\|$", "≤": r"$\le$", "≥": r"$\ge$", "≈": r"$\approx$", "·": r"$\cdot$", "–": "--", "−": "$-$"}
    | {"Δ": r"$\Delta$", "→": r"$\to$", "∞": r"$\infty$", "|": r"\textbar{}"}  # for "|" the default font has a dash
)


def escape_latex(text: str) -> str:
    """`text` with every special character escaped, symbols and minus signs as math."""
    return re.sub(r"(?<![\w.\-])-(?=\d)", "$-$", re.sub(r"^\*", "{*}", text.translate(_LATEX)))


def latex(blocks: Sequence[Block]) -> str:
    """Table environments for each block (they need the package booktabs).

    A wide block becomes several tabulars below each other; what is longer than a page goes on in another table of the same number, because
    LaTeX cuts off a float that is too long.
    """
    return "% \\usepackage{booktabs}\n" + "\n".join(_latex_block(block) for block in blocks)


def _latex_block(block: Block) -> str:
    pages: list[list[str]] = []
    room = 0
    for lines, height in [*_tabulars(block), _notes(block)]:
        if not pages or height > room:
            pages.append([])
            room = LATEX_LINES
        pages[-1] += lines
        room -= height
    return "\n".join(_environment(block.title, page, continued=number > 0) for number, page in enumerate(pages)) + "\n"


def _environment(title: str, lines: Sequence[str], continued: bool) -> str:
    caption = rf"\caption{{{escape_latex(title)}{' (continued)' if continued else ''}}}"
    again = [r"\addtocounter{table}{-1}"] if continued else []
    return "\n".join([r"\begin{table}[tp]", r"\centering\footnotesize", *again, caption, *lines, r"\end{table}"])


def _tabulars(block: Block) -> Iterator[tuple[list[str], int]]:
    """The lines of LaTeX of each tabular, and the lines of text that it is high."""
    for grid, columns, widths in panels(block, LATEX_WIDTH):
        header = [textwrap.wrap(grid.header[i], w) for i, w in zip(columns, widths, strict=True)]
        rows = [[fill(row[i].parts, w) for i, w in zip(columns, widths, strict=True)] for row in grid.rows]
        lines = [rf"\begin{{tabular}}{{@{{}}{'l' * len(columns)}@{{}}}}", r"\toprule", _latex_row(header), r"\midrule"]
        lines += [_latex_row(row) for row in rows]
        yield [*lines, r"\bottomrule", r"\end{tabular}", r"\par\medskip"], 3 + sum(max(map(len, row)) for row in (header, *rows))


def _notes(block: Block) -> tuple[list[str], int]:
    notes = lines_below(block)
    lines = [r"\begin{minipage}{\linewidth}\footnotesize", *(rf"{escape_latex(note)}\par" for note in notes), r"\end{minipage}"]
    return lines, sum(1 + len(note) // LATEX_WIDTH for note in notes)


def _latex_row(cells: Sequence[Sequence[str]]) -> str:
    def stack(lines: Sequence[str]) -> str:
        escaped = [escape_latex(line) for line in lines]
        stacked = r"\begin{tabular}[t]{@{}l@{}}" + r"\\".join(escaped) + r"\end{tabular}"
        return stacked if len(escaped) > 1 else "".join(escaped)

    return " & ".join(map(stack, cells)) + r" \\"
