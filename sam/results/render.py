"""Blocks as text for a terminal, Markdown, CSV and LaTeX: pure functions, and the same content in all four."""

from __future__ import annotations

import csv as csv_module
import io
import re
import textwrap
from collections.abc import Sequence

from sam.results.statistics import Paired, Summary
from sam.results.tables import Block, Cell

GAP = 2  # spaces between two columns of a terminal table
LATEX_WIDTH = 105  # characters of \footnotesize that fit in one line of a page, roughly


# ------------------------------------------------------------------------------------------------------------------ layout


def _fill(parts: Sequence[str], width: int) -> list[str]:
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
    widths = []
    for i, header in enumerate(block.header):
        pieces = [part for row in block.rows for part in (row[i].parts if stacked else (row[i].text,))]
        words = header.split()
        widths.append(max([1, *map(len, pieces), *map(len, words)]))
    return widths


def _panels(block: Block, width: int) -> list[tuple[list[int], list[int]]]:
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


# ---------------------------------------------------------------------------------------------------------------- terminal


def terminal(blocks: Sequence[Block], width: int = 120) -> str:
    """The blocks as plain text at most `width` characters wide (as long as the row labels and one column fit)."""
    return "\n".join(_terminal_block(block, width) for block in blocks)


def _terminal_block(block: Block, width: int) -> str:
    lines = [*textwrap.wrap(block.title, width), ""]
    for columns, widths in _panels(block, width):
        lines += _grid_row([textwrap.wrap(block.header[i], w) or [""] for i, w in zip(columns, widths, strict=True)], widths)
        lines.append("-" * (sum(widths) + GAP * (len(widths) - 1)))
        for row in block.rows:
            lines += _grid_row([_fill(row[i].parts, w) for i, w in zip(columns, widths, strict=True)], widths)
        lines.append("")
    for note in block.notes:
        lines += textwrap.wrap(note, width, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _grid_row(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    height = max(map(len, cells))
    padded = [[*cell, *[""] * (height - len(cell))] for cell in cells]
    return [(" " * GAP).join(line.ljust(w) for line, w in zip(row, widths, strict=True)).rstrip() for row in zip(*padded, strict=True)]


# ---------------------------------------------------------------------------------------------------------------- markdown

_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\|*_~$`#"} | {"<": "&lt;", ">": "&gt;"})


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as GitHub tables, titles as headings of level 3, notes as lists."""
    return "\n".join(_markdown_block(block) for block in blocks)


def _markdown_block(block: Block) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [f"### {block.title.translate(_MARKDOWN)}", "", line([h.translate(_MARKDOWN) for h in block.header])]
    lines.append(line(["---"] * len(block.header)))
    lines += [line(["<br>".join(part.translate(_MARKDOWN) for part in cell.parts) for cell in row]) for row in block.rows]
    return "\n".join([*lines, "", *(f"- {note.translate(_MARKDOWN)}" for note in block.notes)]) + "\n"


# --------------------------------------------------------------------------------------------------------------------- CSV

_STATISTICS = ("n", "mean", "std", "ci_low", "ci_high", "excluded")
CSV_HEADER = (
    *("table", "block", "row", "column", *_STATISTICS, "diverged"),
    *(f"difference_{name}" for name in (*_STATISTICS, "p")),
    *("baseline", "published", "seeds", "difference_seeds", "diverged_seeds", "folders", "text", "difference_text"),
)


def csv(blocks: Sequence[Block]) -> str:
    """Long form: a line for every row and value column, numbers at full precision in the column's unit; then a line for every note.

    Lists are separated by ";". A line whose column is "note" holds a note in `text`.
    """
    out = io.StringIO()
    writer = csv_module.DictWriter(out, CSV_HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    for block in blocks:
        place = {"table": block.table, "block": block.title}
        for row in block.rows:
            label = row[block.labels - 1].text
            for cell in (c for c in row if c.kind == "value"):
                family = {c.kind: c for c in row if c.column == cell.column and c.kind != "label"}
                writer.writerow(place | {"row": label, "column": cell.column} | _csv_values(family))
        for note in block.notes:
            writer.writerow(place | {"column": "note", "text": note})
    return out.getvalue()


def _csv_values(family: dict[str, Cell]) -> dict[str, str]:
    value, difference, published = family["value"], family.get("difference"), family.get("published")
    line = _csv_numbers(value.summary, _STATISTICS, "")
    line |= {"seeds": _join(value.seeds), "diverged_seeds": _join(value.diverged), "diverged": str(len(value.diverged))}
    line |= {"folders": _join(value.folders), "text": value.text}
    if difference is not None:
        line |= _csv_numbers(difference.paired, (*_STATISTICS, "p"), "difference_")
        line |= {"baseline": difference.baseline, "difference_seeds": _join(difference.seeds), "difference_text": difference.text}
    return line | ({"published": published.text} if published is not None else {})


def _csv_numbers(source: Summary | Paired | None, names: Sequence[str], prefix: str) -> dict[str, str]:
    values = {name: getattr(source, name, None) for name in names}
    return {f"{prefix}{name}": repr(v) for name, v in values.items() if v is not None}


def _join(values: Sequence[object]) -> str:
    return ";".join(map(str, values))


# ------------------------------------------------------------------------------------------------------------------- LaTeX

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
    for columns, widths in _panels(block, LATEX_WIDTH):
        lines += [rf"\begin{{tabular}}{{@{{}}{'l' * len(columns)}@{{}}}}", r"\toprule"]
        lines.append(_latex_row([textwrap.wrap(block.header[i], w) for i, w in zip(columns, widths, strict=True)]))
        lines.append(r"\midrule")
        lines += [_latex_row([_fill(row[i].parts, w) for i, w in zip(columns, widths, strict=True)]) for row in block.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\par\medskip"]
    lines += [r"\begin{minipage}{\linewidth}\footnotesize", *(rf"{escape_latex(note)}\par" for note in block.notes), r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_row(cells: Sequence[Sequence[str]]) -> str:
    def stack(lines: Sequence[str]) -> str:
        escaped = [escape_latex(line) for line in lines]
        stacked = r"\begin{tabular}[t]{@{}l@{}}" + r"\\".join(escaped) + r"\end{tabular}"
        return stacked if len(escaped) > 1 else "".join(escaped)

    return " & ".join(map(stack, cells)) + r" \\"
