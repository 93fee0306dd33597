"""Blocks as LaTeX."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from sam.results.blocks import Block
from sam.results.layout import fill, lines_below, panels

LATEX_WIDTH = 105  # characters of \footnotesize that fit in one line of a page, roughly

# "[" is wrapped: after "\\" LaTeX would read it as an optional argument.
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "<": "$<$", ">": "$>$"}
    | {"×": r"$\times$", "±": r"$\pm$", "²": "$^2$", "³": "$^3$", "ρ": r"$\rho$", "α": r"$\alpha$", "λ": r"$\lambda$", "ε": r"$\epsilon$"}
    | {
        "∇": r"$\nabla$",
        "‖": r"$\|$",
        "≤": r"$\le$",
        "≥": r"$\ge$",
        "≈": r"$\approx$",
        "·": r"$\cdot$",
        "–": "--",
        "−": "$-$",
        "Δ": r"$\Delta$",
        "→": r"$\to$",
        "∞": r"$\infty$",
        "|": r"\textbar{}",  # the default font has a dash in its place
    }
)


def escape_latex(text: str) -> str:
    """`text` with every special character escaped, symbols and minus signs as math."""
    return re.sub(r"(?<![\w.\-])-(?=\d)", "$-$", text.translate(_LATEX))


def latex(blocks: Sequence[Block]) -> str:
    """One table environment per block (needs the package booktabs); a wide block becomes several tabulars below each other."""
    return "% \\usepackage{booktabs}\n" + "\n".join(_latex_block(block) for block in blocks)


def _latex_block(block: Block) -> str:
    lines = [r"\begin{table}[tp]", r"\centering\footnotesize", rf"\caption{{{escape_latex(block.title)}}}"]
    for grid, columns, widths in panels(block, LATEX_WIDTH):
        lines += [rf"\begin{{tabular}}{{@{{}}{'l' * len(columns)}@{{}}}}", r"\toprule"]
        lines.append(_latex_row([textwrap.wrap(grid.header[i], w) for i, w in zip(columns, widths, strict=True)]))
        lines.append(r"\midrule")
        lines += [_latex_row([fill(row[i].parts, w) for i, w in zip(columns, widths, strict=True)]) for row in grid.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\par\medskip"]
    lines += [
        r"\begin{minipage}{\linewidth}\footnotesize",
        *(rf"{escape_latex(note)}\par" for note in lines_below(block)),
        r"\end{minipage}",
    ]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_row(cells: Sequence[Sequence[str]]) -> str:
    def stack(lines: Sequence[str]) -> str:
        escaped = [escape_latex(line) for line in lines]
        stacked = r"\begin{tabular}[t]{@{}l@{}}" + r"\\".join(escaped) + r"\end{tabular}"
        return stacked if len(escaped) > 1 else "".join(escaped)

    return " & ".join(map(stack, cells)) + r" \\"
