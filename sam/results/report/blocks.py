"""Tables as HTML: sortable columns, and every number opens to the runs behind it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from sam.config import TableConfig
from sam.results.report.html import Html, el
from sam.results.tables import Block, Cell, RunRow

PAPER = 6  # columns, beside the labels, that fit on a printed page
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Trace:
    """What leads from a cell to its runs.

    runs      folder -> run.
    anchors   folder -> id of the run's entry in the page.
    measures  table title -> column header -> (measure, scale): the column shows the measure times scale.
    """

    runs: Mapping[str, RunRow]
    anchors: Mapping[str, str]
    measures: Mapping[str, Mapping[str, tuple[str, float]]]

    def value(self, block: Block, cell: Cell, folder: str) -> float | None:
        """The number of one run in this cell's column, in the column's unit; None if it has none."""
        run, column = self.runs.get(folder), self.measures.get(block.table, {}).get(cell.column)
        value = run.measures.get(column[0]) if run is not None and column is not None and run.status == "finished" else None
        return None if value is None or column is None else value * column[1]


def column_measures(table: TableConfig, rhos: Sequence[float]) -> dict[str, tuple[str, float]]:
    """Header -> (measure, scale) of every column, with the radius filled in."""
    found = {}
    for column in table.columns:
        for rho in [f"{rho:g}" for rho in rhos] if column.each_rho else [""]:
            found[column.header.replace("{rho}", rho) if rho else column.header] = (
                column.measure.replace("{rho}", rho) if rho else column.measure,
                column.scale,
            )
    return found


def table(block: Block, trace: Trace, place: str) -> Html:
    """One block: title, table in a container that scrolls by itself, notes. `place`: the id of the section."""
    head = []
    for i, header in enumerate(block.header):
        button = el("button", header, type="button", title="Sort by this column")
        head.append(el("th", button, scope="col", aria_sort="none", class_="label" if i == block.labels - 1 else None))
    rows = [el("tr", *(_cell(block, row, i, trace) for i in range(len(row)))) for row in block.rows]
    caption = el("caption", block.title, class_="hidden")
    grid = el("table", caption, el("thead", el("tr", *head)), el("tbody", *rows))
    paper = _paper(block)
    box = el("div", grid, class_="scroll wide" if paper else "scroll", tabindex=0, role="region", aria_label=block.title)
    notes = el("ul", *(el("li", note) for note in block.notes), class_="notes")
    return el("section", el("h3", block.title), box, *paper, notes, id=place, class_="block")


def _paper(block: Block) -> list[Html]:
    """For print, which cannot scroll: a wide table as several that repeat the row's name. Nothing, if it fits."""
    columns = list(range(block.labels, len(block.header)))
    if len(columns) <= PAPER:
        return []
    name = block.labels - 1
    panels = [[name, *columns[i : i + PAPER]] for i in range(0, len(columns), PAPER)]
    tables = []
    for panel in panels:
        head = el("tr", *(el("th", block.header[i]) for i in panel))
        rows = [el("tr", *(el("td", *(el("span", part) for part in row[i].parts)) for i in panel)) for row in block.rows]
        tables.append(el("table", el("thead", head), el("tbody", *rows), class_="paper"))
    return tables


def sort_key(cell: Cell) -> float | None:
    """The mean; for other cells the first number in their text; None if there is neither."""
    for source in (cell.summary, cell.paired):
        if source is not None:
            return source.mean
    match = _NUMBER.search(cell.text) if cell.kind not in ("label", "value") else None
    return float(match[0]) if match else None


def _cell(block: Block, row: Sequence[Cell], index: int, trace: Trace) -> Html:
    cell = row[index]
    words = [el("span", part) for part in cell.parts]
    if cell.kind == "label":
        last = index == block.labels - 1
        return el("th" if last else "td", *words, scope="row" if last else None, class_="label" if last else None)
    key = sort_key(cell)
    data = repr(key) if key is not None and math.isfinite(key) else None
    behind = _behind(block, row, cell, trace)
    inside = el("details", el("summary", *words), *behind) if behind else el("span", *words, class_="text")
    return el("td", inside, data_sort=data, class_=cell.kind)


def _behind(block: Block, row: Sequence[Cell], cell: Cell, trace: Trace) -> list[Html]:
    """The runs of a cell: a line for each, with its number."""
    if cell.kind == "difference":
        own, base = _value_cell(row, cell.column), _baseline_cell(block, cell)
        if cell.paired is None or own is None or base is None:
            return []
        return [_list(block, own, "this row", trace), _list(block, base, cell.baseline, trace)]
    return [_list(block, cell, "", trace)] if cell.folders else []


def _value_cell(row: Sequence[Cell], column: str) -> Cell | None:
    return next((c for c in row if c.kind == "value" and c.column == column), None)


def _baseline_cell(block: Block, cell: Cell) -> Cell | None:
    """The value that the difference was taken from."""
    for row in block.rows:
        if row[block.labels - 1].text == cell.baseline:
            return _value_cell(row, cell.column)
    return None


def _list(block: Block, cell: Cell, title: str, trace: Trace) -> Html:
    items = []
    for folder in cell.folders:
        run = trace.runs.get(folder)
        value = trace.value(block, cell, folder)
        number = f"{value:.6g}" if value is not None else "diverged" if run is not None and run.status != "finished" else "no finite value"
        seed = f"seed {run.config.seed}: " if run is not None else ""
        link = el("a", PurePath(folder).name or folder, href=f"#{trace.anchors[folder]}") if folder in trace.anchors else el("code", folder)
        items.append(el("li", f"{seed}{number} ", link))
    return el("div", el("b", title) if title else None, el("ul", *items), class_="behind")
