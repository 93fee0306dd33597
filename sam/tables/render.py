"""Print blocks as text: the compact form for a terminal, all content as Markdown and CSV. LaTeX is in `sam.tables.latex`."""

import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from sam.tables.cells import EMPTY, Block, Cell, Correlation
from sam.tables.compact import GAP, compact, widths, wrapped
from sam.tables.statistics import MIN_RUNS, fixed, interval
from sam.text import counted, csv_text

PIVOTS = ("Sweep", "Picked")  # tables of a sweep

CORRELATION_HEADER = ("Rank correlation", "all runs", "within methods", "between methods")


def grids(block: Block) -> list[Block]:
    """The block's table, followed by a table of its rank correlations, if one of them is of enough runs."""
    rows = []
    for c in block.correlations:
        name = tuple(textwrap.wrap(f"{c.x} with {c.y}", 36, break_on_hyphens=False))
        rows.append((Cell("label", name), *(Cell("correlation", parts) for parts in coefficients(c).values())))
    enough = any(c.across.n >= MIN_RUNS for c in block.correlations)
    return [block, Block(block.table, block.title, 1, CORRELATION_HEADER, tuple(rows))] if enough else [block]


def coefficients(c: Correlation) -> dict[str, tuple[str, ...]]:
    """Column header -> text of its cell."""
    if c.across.n < MIN_RUNS:
        return dict.fromkeys(CORRELATION_HEADER[1:], (f"fewer than {MIN_RUNS} runs", f"n = {c.across.n}"))
    found = zip(CORRELATION_HEADER[1:], (c.across, c.within, c.between), ("runs", "runs", "methods"), strict=True)
    value = lambda r: EMPTY if r.rho is None else (fixed(r.rho, 2, sign=True), *(interval(r, 2, sign=True) or ("[–]",)))
    return {name: (*value(r), f"n = {r.n} {unit}") for name, r, unit in found}


def panels(block: Block, width: int) -> list[list[int]]:
    """Columns of each panel: as many as fit beside the labels, which are repeated."""
    every = widths(block)
    size = lambda columns: sum(every[i] + GAP for i in columns) - GAP
    found: list[list[int]] = [labels := list(range(block.labels))]
    for i in range(block.labels, len(block.header)):
        if found[-1] == labels or size([*found[-1], i]) <= width:
            found[-1] = [*found[-1], i]
        else:
            found.append([*labels, i])
    return found


def terminal(blocks: Sequence[Block], width: int = 80) -> str:
    """The compact form of the blocks as plain text, at most `width` characters wide (as long as the row labels and one column fit). Beside
    the pivots of a sweep, which show every run, layouts with a single row are left to the files: they compare nothing."""
    ran = lambda block: sum(any(cell.folders for cell in row) for row in block.rows)
    pivots = [block for block in blocks if block.table in PIVOTS]
    alone = [b for b in blocks if pivots and b.table not in PIVOTS and not b.brief and ran(b) == 1]
    text = "\n".join(_terminal_block(compact(block, width), width) for block in blocks if not any(block is other for other in alone))
    return text + (f"\n{counted(len(alone), 'table')} of a single row: in the files alone.\n" if alone else "")


def _terminal_block(block: Block, width: int) -> str:
    lines, every = [*textwrap.wrap(block.title, width), ""], widths(block)
    for columns in panels(block, width):
        sizes = [every[i] for i in columns]
        header = itertools.zip_longest(*(wrapped(block.header[i], every[i]) for i in columns), fillvalue="")
        rows = [itertools.zip_longest(*(wrapped(row[i].text + "*" * row[i].best) for i in columns), fillvalue="") for row in block.rows]
        lines += [_line(cells, sizes) for cells in header] + ["-" * (sum(sizes) + GAP * (len(sizes) - 1))]
        lines += [_line(cells, sizes) for row in rows for cells in row] + [""]
    for text in (block.finding, *(note.replace("; bold: ", "; *: ") for note in block.notes)):
        whole = re.sub(r"\b([pn]) (?=\d)", "\\1\xa0", text)  # a number stays with its name
        lines += [line.replace("\xa0", " ") for line in textwrap.wrap(whole, width, break_on_hyphens=False)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], sizes: Sequence[int]) -> str:
    return (" " * GAP).join(map(str.ljust, cells, sizes)).rstrip()


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
    parts = lambda cell: (f"**{part}**" if cell.best and not i else part for i, part in enumerate(map(escape_markdown, cell.parts)))
    lines = [f"### {escape_markdown(block.title)}", "", *([escape_markdown(block.finding), ""] if block.finding else [])]
    for grid in grids(block):
        lines += [line(map(escape_markdown, grid.header)), line(["---"] * len(grid.header))]
        lines += [*(line("<br>".join(parts(cell)) for cell in row) for row in grid.rows), ""]
    return "\n".join([*lines, *(f"- {escape_markdown(note)}" for note in (*filter(None, [block.verdict]), *block.notes))]) + "\n"


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_STATISTICS = ("n", "mean", "std", "ci_low", "ci_high", "excluded")
_RANGE = ("low", "high", "scale")  # smallest, largest; scale of the interval
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
    **{name: f"value.summary.{name}" for name in _RANGE},
    "best": "value.best",
    **{f"difference_{name}": f"difference.paired.{name}" for name in _RANGE[:2]},
}
CSV_HEADER = ("table", "block", "row", "column", *_COLUMNS)


def csv(blocks: Sequence[Block]) -> str:
    """Long form: a line for every row and value column, numbers at full precision in the column's unit; lists are separated by ";". Then
    three lines a rank correlation, by row, and the verdict and notes, whose column is "verdict" or "note", in `text`."""
    lines = list[Mapping[str, object]]()
    for block in blocks:
        block_keys = {"table": inert(block.table), "block": inert(block.title)}
        for row in block.rows:
            label = inert(row[block.labels - 1].text)
            for cell in (c for c in row if c.kind == "value"):
                family = {c.kind: c for c in row if c.column == cell.column and c.kind != "label"}
                values = {name: _csv_value(family, path) for name, path in _COLUMNS.items()} | {"diverged": len(cell.diverged)}
                lines.append(block_keys | {"row": label, "column": inert(cell.column)} | values)
        for c in block.correlations:
            for (name, parts), r in zip(coefficients(c).items(), (c.across, c.within, c.between), strict=True):
                numbers = {"n": r.n, "ci_low": r.ci_low, "ci_high": r.ci_high, "rank_correlation": r.rho}
                lines.append(block_keys | numbers | {"row": name, "column": inert(f"{c.x} with {c.y}"), "text": " ".join(parts)})
        single = [(name, [text]) for name, text in (("finding", block.finding), ("verdict", block.verdict)) if text]
        for column, texts in (*single, ("note", block.notes)):
            lines += [block_keys | {"column": column, "text": inert(text)} for text in texts]
    return csv_text(lines, CSV_HEADER)


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
