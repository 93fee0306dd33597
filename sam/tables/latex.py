"""Blocks as LaTeX: a compact table for a column of a paper, and all statistics for its appendix."""

import re
from collections.abc import Sequence

from sam.tables.cells import EMPTY, Block, Cell
from sam.tables.compact import compact, widths, wrapped
from sam.tables.render import grids, panels

COLUMN, PAGE = 51, 106  # characters of \footnotesize in a column of 3.25 in, and across both

# "[" is wrapped, and "*" at the start: after "\\" LaTeX would read them as an argument.
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "<": "$<$", ">": "$>$"}
    | {"×": r"$\times$", "±": r"$\pm$", "²": "$^2$", "³": "$^3$", "ρ": r"$\rho$", "α": r"$\alpha$", "λ": r"$\lambda$", "ε": r"$\epsilon$"}
    | {"∇": r"$\nabla$", "‖": r"$\|$", "≤": r"$\le$", "≥": r"$\ge$", "≈": r"$\approx$", "·": r"$\cdot$", "–": "--", "−": "$-$"}
    | {letter: rf"$\{name}$" for letter, name in zip("βγδημστ", ["beta", "gamma", "delta", "eta", "mu", "sigma", "tau"], strict=True)}
    | {"Δ": r"$\Delta$", "→": r"$\to$", "∞": r"$\infty$", "|": r"\textbar{}", "†": r"$^{\dagger}$"}  # for "|" the default font has a dash
)


def escape_latex(text: str) -> str:
    """Escape special characters; symbols and minus signs become math."""
    return re.sub(r"(?<![\w.\-])-(?=\d)", "$-$", re.sub(r"^\*", "{*}", text.translate(_LATEX)))


def latex(blocks: Sequence[Block], name: str) -> str:
    """A table environment a block (package booktabs), labelled tab:NAME, tab:NAME-2, ...: in a column as one or two tabulars below each
    other; where these are not enough, across both columns."""
    tables = (_environment(block, name if i == 1 else f"{name}-{i}") for i, block in enumerate(blocks, 1))
    return "% \\usepackage{booktabs}\n" + "\n".join(tables)


def _environment(block: Block, label: str) -> str:
    tried = (compact(block, room, marks=True) for room in range(2 * COLUMN, COLUMN, -4))
    small = next((made for made in tried if len(panels(made, COLUMN)) <= 2), compact(block, COLUMN, marks=True))
    star = "*" if len(panels(small, COLUMN)) > 2 else ""
    lines = [rf"\begin{{table{star}}}[tp]", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"]
    title = re.sub(r"^Table \d layout, ", "", block.title)  # the paper's own table has another number
    lines += [rf"\caption{{{escape_latex(f'{title}. {block.finding}'.strip())}}}", rf"\label{{tab:{label}}}", r"\medskip"]
    for columns in panels(small, PAGE if star else COLUMN):
        every = widths(small)
        header = [_stack(wrapped(small.header[i], every[i])) for i in columns]
        lines += [rf"\begin{{tabular}}{{@{{}}{'l' * len(columns)}@{{}}}}", r"\toprule", _row(header), r"\midrule"]
        bold = lambda cell: rf"\textbf{{{_stack(wrapped(cell.text))}}}" if cell.best else _stack(wrapped(cell.text))
        lines += [_row([bold(row[i]) for i in columns]) for row in small.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\par\smallskip"]
    lines += [r"\begin{minipage}{\linewidth}\footnotesize", *map(escape_latex, small.notes), r"\end{minipage}"]
    return "\n".join([*lines, rf"\end{{table{star}}}"]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _stack(lines: Sequence[str]) -> str:
    escaped = [escape_latex(line) for line in lines]
    return r"\begin{tabular}[b]{@{}l@{}}" + r"\\".join(escaped) + r"\end{tabular}" if len(escaped) > 1 else "".join(escaped)


def latex_full(blocks: Sequence[Block]) -> str:
    """All statistics in long form, a line for every row and column, for a one-column appendix."""
    head = "% For one column (\\onecolumn): \\usepackage{booktabs,longtable,array}\n"
    return head + "\n".join(_long(block) for block in blocks)


def _long(block: Block) -> str:
    lines = [rf"\subsection*{{{escape_latex(block.title)}}}", r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}\raggedright"]
    for grid in grids(block):
        wide = [0.16, 0.2, 0.25, 0.33] if grid is block else [0.3, 0.21, 0.21, 0.21]
        shape = "".join(rf">{{\raggedright\arraybackslash}}p{{{w}\linewidth}}" for w in wide)
        header, rows = _long_rows(grid) if grid is block else (grid.header, [[_spaced(cell) for cell in row] for row in grid.rows])
        lines += [rf"\begin{{longtable}}{{@{{}}{shape}@{{}}}}", r"\toprule", _row([escape_latex(h) for h in header]), r"\midrule\endhead"]
        lines += [*map(_row, rows), r"\bottomrule", r"\end{longtable}"]
    notes = [*filter(None, [block.finding, block.verdict]), *block.notes]
    return "\n".join([*lines, *(rf"{escape_latex(note)}\par" for note in notes), r"\endgroup"]) + "\n"


def _long_rows(block: Block) -> tuple[Sequence[str], list[list[str]]]:
    """A line for every value cell: row, column, value, and what belongs to the same column; header as text, cells as LaTeX."""
    lines = []
    for row in block.rows:
        label = ", ".join(escape_latex(cell.text) for cell in row[: block.labels])
        for cell in (c for c in row if c.kind == "value"):
            others = {block.header[i]: c for i, c in enumerate(row) if c.column == cell.column and c.kind in ("difference", "published")}
            named = [(header.removeprefix(cell.column).strip(": "), c) for header, c in others.items() if c.parts != EMPTY]
            beside = r"\newline ".join(f"{escape_latex(name)}: {_spaced(c)}" for name, c in named)
            lines.append([label, escape_latex(cell.column), _spaced(cell), beside])
            label = ""
    return ("Row", "Column", "Value", "Differences and published values"), lines


def _spaced(cell: Cell) -> str:
    return r"\quad ".join(map(escape_latex, cell.parts))
