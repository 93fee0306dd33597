"""Print blocks as text for a terminal, Markdown, CSV and LaTeX: pure functions with the same content."""

import csv as csv_module
import io
import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sam.tables.cells import Block, Cell, Correlation
from sam.tables.correlation import RankCorrelation
from sam.tables.statistics import fixed, interval

GAP = 2  # spaces between two columns of a terminal table
CORRELATION_HEADER = ("Rank correlation", "all runs", "within methods", "between methods")


def grids(block: Block) -> list[Block]:
    """The block's table, followed by a table of its rank correlations, if any."""
    if not block.correlations:
        return [block]
    rows = []
    for c in block.correlations:
        name = tuple(textwrap.wrap(f"{c.x} with {c.y}", 36, break_on_hyphens=False))
        rows.append((Cell("label", name), *(Cell("correlation", parts) for parts in coefficients(c).values())))
    return [block, Block(block.table, block.title, 1, CORRELATION_HEADER, tuple(rows))]


def coefficients(c: Correlation) -> dict[str, tuple[str, ...]]:
    """Column header -> text of its cell."""
    found = (c.across, c.within, c.between)
    return {name: _rank_parts(r, "methods" if r is c.between else "runs") for name, r in zip(CORRELATION_HEADER[1:], found, strict=True)}


def _rank_parts(r: RankCorrelation, unit: str) -> tuple[str, ...]:
    if r.rho is None:
        return ("–", f"n = {r.n} {unit}")
    return (fixed(r.rho, 2, sign=True), *(interval(r, 2, sign=True) or ("[–]",)), f"n = {r.n} {unit}")


def lines_below(block: Block) -> tuple[str, ...]:
    return (block.verdict, *block.notes) if block.verdict else block.notes


def fill(parts: Sequence[str], width: int) -> list[str]:
    """Join the parts into as few lines of `width` as possible; never break a part."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return lines


def _widths(block: Block, stacked: bool) -> list[int]:
    """Width of every column; `stacked`: a cell's parts on separate lines."""
    cells = [[row[i] for row in block.rows] for i in range(len(block.header))]
    pieces = [[part for cell in column for part in (cell.parts if stacked else (cell.text,))] for column in cells]
    return [max([1, *map(len, [*parts, *header.split()])]) for parts, header in zip(pieces, block.header, strict=True)]


def _columns_of_panels(block: Block, width: int) -> list[tuple[list[int], list[int]]]:
    """(columns, widths) per panel: one panel if the table fits, stacked if need be; else several that repeat the labels.

    A value column stays with its published column; differences follow the values, in panels of their own.
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


def panels(block: Block, width: int) -> Iterator[tuple[list[list[list[str]]], list[int]]]:
    """Per panel, from top to bottom: rows of cells (header first) as lines of text, and column widths."""
    for grid in grids(block):
        for columns, widths in _columns_of_panels(grid, width):
            at = list(zip(columns, widths, strict=True))
            header = [textwrap.wrap(grid.header[i], w) or [""] for i, w in at]
            yield [header, *([fill(row[i].parts, w) for i, w in at] for row in grid.rows)], widths


def terminal(blocks: Sequence[Block], width: int = 120) -> str:
    """Plain text at most `width` characters wide (as long as the row labels and one column fit)."""
    return "\n".join(_terminal_block(block, width) for block in blocks)


def _terminal_block(block: Block, width: int) -> str:
    lines = [*textwrap.wrap(block.title, width), ""]
    for (header, *rows), widths in panels(block, width):
        lines += [*_grid_row(header, widths), "-" * (sum(widths) + GAP * (len(widths) - 1))]
        lines += [line for row in rows for line in _grid_row(row, widths)] + [""]
    for note in lines_below(block):
        lines += textwrap.wrap(note, width, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _grid_row(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    lines = itertools.zip_longest(*cells, fillvalue="")
    return [(" " * GAP).join(part.ljust(w) for part, w in zip(line, widths, strict=True)).rstrip() for line in lines]


# "](", "][" and "]:" make links and what they refer to, "[" at the start of a note a box to tick; some readers link bare addresses too.
_LINKS = re.compile(r"\](?=[(\[:])|^\[(?=[ xX]\])|(?<=\w):(?=//)|(?<=[wW]{3})\.|@")
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\|*_~$`#"} | {"<": "&lt;", ">": "&gt;"})


def markdown(blocks: Sequence[Block]) -> str:
    """GitHub tables, with titles as headings of level 3 and notes as lists."""
    return "\n".join(_markdown_block(block) for block in blocks)


def escape_markdown(text: str) -> str:
    """Escape all markup: links, images, tables, HTML, emphasis."""
    return _LINKS.sub(r"\\\g<0>", text.translate(_MARKDOWN))


def _markdown_block(block: Block) -> str:
    line = lambda cells: f"| {' | '.join(cells)} |"
    lines = [f"### {escape_markdown(block.title)}", ""]
    for grid in grids(block):
        lines += [line([escape_markdown(h) for h in grid.header]), line(["---"] * len(grid.header))]
        lines += [line(["<br>".join(escape_markdown(part) for part in cell.parts) for cell in row]) for row in grid.rows]
        lines.append("")
    return "\n".join([*lines, *(f"- {escape_markdown(note)}" for note in lines_below(block))]) + "\n"


# ---------------------------------------------------------------------------------------------------------------------- CSV

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_STATISTICS = ("n", "mean", "std", "ci_low", "ci_high", "excluded")
_TESTS = ("p_holm", "primary", "tests", "welch.p", "welch.df", "detectable", "level")
_EQUIVALENCE = ("margin", "p", "shown", "ci_low", "ci_high")
_COLUMNS = {  # header -> where it stands: the kind of cell, and its attributes
    **{name: f"value.summary.{name}" for name in _STATISTICS},
    "diverged": "",
    **{f"difference_{name}": f"difference.paired.{name}" for name in (*_STATISTICS, "p")},
    **{name.replace(".", "_").replace("level", "detectable_level"): f"difference.comparison.{name}" for name in _TESTS},
    **{f"equivalence_{name}": f"difference.comparison.equivalence.{name}" for name in _EQUIVALENCE},
    **{"rank_correlation": "", "baseline": "difference.baseline", "published": "published.text", "seeds": "value.seeds"},
    **{"difference_seeds": "difference.seeds", "diverged_seeds": "value.diverged", "folders": "value.folders"},
    **{"text": "value.text", "difference_text": "difference.text"},
}
CSV_HEADER = ("table", "block", "row", "column", *_COLUMNS)


def csv(blocks: Sequence[Block]) -> str:
    """Long form: a line for every row and value column, numbers at full precision in the column's unit; then the rest, a line each.

    Lists are separated by ";". A line whose column is "note" or "verdict" holds that in `text`. A rank correlation has three lines, whose
    row is "all runs", "within methods" or "between methods".
    """
    out = io.StringIO()
    writer = csv_module.DictWriter(out, CSV_HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    for block in blocks:
        block_keys = {"table": inert(block.table), "block": inert(block.title)}
        for row in block.rows:
            label = inert(row[block.labels - 1].text)
            for cell in (c for c in row if c.kind == "value"):
                family = {c.kind: c for c in row if c.column == cell.column and c.kind != "label"}
                values = {name: _csv_value(family, path) for name, path in _COLUMNS.items()} | {"diverged": len(cell.diverged)}
                writer.writerow(block_keys | {"row": label, "column": inert(cell.column)} | values)
        for c in block.correlations:
            for (name, parts), r in zip(coefficients(c).items(), (c.across, c.within, c.between), strict=True):
                numbers = {"n": r.n, "ci_low": r.ci_low, "ci_high": r.ci_high, "rank_correlation": r.rho}
                writer.writerow(block_keys | numbers | {"row": name, "column": inert(f"{c.x} with {c.y}"), "text": " ".join(parts)})
        for column, texts in (("verdict", filter(None, [block.verdict])), ("note", block.notes)):
            writer.writerows(block_keys | {"column": column, "text": inert(text)} for text in texts)
    return out.getvalue()


def inert(text: str) -> str:
    """Quote text that a spreadsheet would take for a formula; a number stays a number."""
    return f"'{text}" if re.match(r"\s*[=+\-@＝＋－＠]", text) and not _NUMBER.fullmatch(text) else text


def _csv_value(family: Mapping[str, Cell], path: str) -> object:
    kind, *names = path.split(".")
    value: Any = family.get(kind)
    for name in names:
        value = getattr(value, name, None)
    value = ";".join(map(str, value)) if isinstance(value, tuple) else value
    return inert(value) if isinstance(value, str) and names != ["text"] else value


# -------------------------------------------------------------------------------------------------------------------- LaTeX

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
    """Escape special characters; symbols and minus signs become math."""
    return re.sub(r"(?<![\w.\-])-(?=\d)", "$-$", re.sub(r"^\*", "{*}", text.translate(_LATEX)))


def latex(blocks: Sequence[Block]) -> str:
    """Table environments (package booktabs).

    A wide block becomes several tabulars below each other; what exceeds a page continues in another table of the same number, because
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
    """Per tabular: its lines of LaTeX, and its height in lines of text."""
    for (header, *rows), widths in panels(block, LATEX_WIDTH):
        lines = [rf"\begin{{tabular}}{{@{{}}{'l' * len(widths)}@{{}}}}", r"\toprule", _latex_row(header), r"\midrule"]
        lines += map(_latex_row, rows)
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
