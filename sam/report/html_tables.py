"""Tables as HTML: sortable columns, and numbers that open to the runs behind them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from sam.report.html import Html, el
from sam.tables.cells import Block, Cell, Correlation
from sam.tables.conditions import RunRow
from sam.tables.render import grids
from sam.tables.statistics import is_finite

PAPER = 6  # columns, beside the labels, that fit on a printed page
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Trace:
    """Links from cells to runs. runs: folder -> run; anchors: folder -> id of the run's entry in the page."""

    runs: Mapping[str, RunRow]
    anchors: Mapping[str, str]

    def link(self, folder: str) -> Html:
        """Link to the run's entry in the page."""
        name = PurePath(folder).name or folder
        return el("a", name, href=f"#{self.anchors[folder]}") if folder in self.anchors else el("code", folder)


def section(block: Block, trace: Trace, anchor: str) -> Html:
    """One block: its tables, each in a scrolling container, verdict and notes. anchor: id of the section."""
    tables = [part for grid in grids(block) for part in _table(block, grid, trace)]
    verdict = el("p", block.verdict, class_="verdict") if block.verdict else None
    notes = el("ul", *(el("li", note) for note in block.notes), class_="notes")
    return el("section", el("h3", block.title), *tables, verdict, notes, id=anchor, class_="block")


def _table(block: Block, grid: Block, trace: Trace) -> list[Html]:
    """A grid for the screen, and a second version for paper if it is too wide for a page."""
    head = []
    for i, header in enumerate(grid.header):
        button = el("button", header, type="button", title="Sort by this column")
        head.append(el("th", button, scope="col", aria_sort="none", class_="label" if i == grid.labels - 1 else None))
    rows = [el("tr", *(_cell(block, grid, y, x, trace) for x in range(len(row)))) for y, row in enumerate(grid.rows)]
    name = block.title if grid is block else f"{grid.header[0]}, {block.title}"
    table = el("table", el("caption", name, class_="hidden"), el("thead", el("tr", *head)), el("tbody", *rows))
    paper = _paper(grid)
    box = el("div", table, class_="scroll wide" if paper else "scroll", tabindex=0, role="region", aria_label=name)
    return [box, *paper]


def _paper(block: Block) -> list[Html]:
    """Split a wide table for print, which cannot scroll, into several that repeat the row's name; empty if it fits."""
    columns, tables = range(block.labels, len(block.header)), []
    for start in range(0, len(columns), PAPER) if len(columns) > PAPER else ():
        panel = [block.labels - 1, *columns[start : start + PAPER]]
        head = el("tr", *(el("th", block.header[i]) for i in panel))
        rows = [el("tr", *(el("td", *(el("span", part) for part in row[i].parts)) for i in panel)) for row in block.rows]
        tables.append(el("table", el("thead", head), el("tbody", *rows), class_="paper"))
    return tables


def sort_key(cell: Cell) -> float | None:
    """The mean; else the number that the text begins with; else None."""
    if found := cell.summary or cell.paired:
        return found.mean
    match = _NUMBER.search(cell.parts[0]) if cell.kind not in ("label", "value") and cell.parts else None
    return float(match[0]) if match else None


def _cell(block: Block, grid: Block, y: int, x: int, trace: Trace) -> Html:
    cell = grid.rows[y][x]
    words = [el("span", part) for part in cell.parts]
    if cell.kind == "label":
        last = x == grid.labels - 1
        return el("th" if last else "td", *words, scope="row" if last else None, class_="label" if last else None)
    key = sort_key(cell)
    data = repr(key) if is_finite(key) else None
    behind = _pairs(block, block.correlations[y], trace) if cell.kind == "correlation" else _behind(block, grid.rows[y], cell, trace)
    inside = el("details", el("summary", *words), *behind) if behind else el("span", *words, class_="text")
    return el("td", inside, data_sort=data, class_=cell.kind)


def _behind(block: Block, row: Sequence[Cell], cell: Cell, trace: Trace) -> list[Html]:
    """The runs of a cell, one line each, with their numbers."""
    if cell.kind == "difference":
        own = _value_cell(row, cell.column)
        base = next((_value_cell(other, cell.column) for other in block.rows if other[block.labels - 1].text == cell.baseline), None)
        if cell.paired is None or own is None or base is None:
            return []
        return [_list(own, "this row", trace), _list(base, cell.baseline, trace)]
    return [_list(cell, "", trace)] if cell.folders else []


def _pairs(block: Block, related: Correlation, trace: Trace) -> list[Html]:
    """The runs behind a rank correlation, with both numbers of each."""
    both = [(_value_cell(row, related.x), _value_cell(row, related.y)) for row in block.rows]
    # By folder, as rows may overlap and the coefficient counts a run once.
    found = {folder: numbers for x, y in both if x and y for folder, *numbers in zip(x.folders, x.numbers, y.numbers, strict=True)}
    items = [el("li", f"{x:.6g}, {y:.6g} ", trace.link(folder)) for folder, (x, y) in found.items() if is_finite(x) and is_finite(y)]
    return [el("div", el("ul", *items), class_="behind")] if items else []


def _value_cell(row: Sequence[Cell], column: str) -> Cell | None:
    return next((c for c in row if c.kind == "value" and c.column == column), None)


def _list(cell: Cell, title: str, trace: Trace) -> Html:
    items = []
    for folder, value in zip(cell.folders, cell.numbers, strict=True):
        run = trace.runs.get(folder)
        number = f"{value:.6g}" if value is not None else "diverged" if run is not None and not run.is_finished else "no finite value"
        seed = f"seed {run.config.seed}: " if run is not None else ""
        items.append(el("li", f"{seed}{number} ", trace.link(folder)))
    return el("div", el("b", title) if title else None, el("ul", *items), class_="behind")
