"""Tables as HTML: sortable columns, numbers that open to the runs behind them, and footnotes that stand once for the whole page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sam.report.html import Html, el, join
from sam.tables.cells import Block, Cell, Correlation
from sam.tables.compact import compact
from sam.tables.conditions import RunRow
from sam.tables.render import grids
from sam.tables.statistics import is_finite

_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
RAW = (
    "Sharpness: raw sharpness shrinks with the training loss, whatever the curvature. Read it beside L(w), the second-order part"
    " (L^Asc - L(w) - ρ‖∇L(w)‖) and λ1/L(w), where they were measured: the smaller sharpness need not be the flatter minimum."
)


@dataclass(frozen=True)
class Trace:
    """Where tables lead. runs: folder -> run; links: folder -> link to the run's entry in the page; notes: note -> its number there."""

    runs: Mapping[str, RunRow]
    links: Mapping[str, Html]
    notes: Mapping[str, int]

    def link(self, folder: str) -> Html:
        return self.links.get(folder) or el("code", folder)


def noted(block: Block) -> tuple[str, ...]:
    """The block's notes; with `RAW` where sharpness is shown, if no note says so already."""
    told = any("raw sharpness" in note.lower() for note in block.notes)
    return block.notes if told or not any(h.startswith("Sharpness") for h in block.header) else (*block.notes, RAW)


def footnotes(blocks: Mapping[str, Block], notes: Mapping[str, int]) -> Html:
    """All notes of the page, numbered, each with links back to its tables. blocks: by id of their section."""
    items = []
    for note, number in notes.items():
        back = [el("a", "↩", href=f"#{at}", aria_label=f"back to {b.title}", title=b.title) for at, b in blocks.items() if note in noted(b)]
        items.append(el("li", note, *(join(" ", link) for link in back), id=f"note-{number}"))
    return el("ol", *items, class_="notes")


def _marks(notes: Sequence[str], trace: Trace) -> list[Html]:
    """Numbers of the notes, each a link, with a space before it."""
    return [join(" ", el("a", n, href=f"#note-{n}", aria_label=f"note {n}")) for n in sorted(trace.notes[note] for note in notes)]


def _about(name: str, block: Block, trace: Trace) -> Html | None:
    """Numbers of the notes that begin with the name of this column or row, or with the first words of it."""
    about = [note for note in noted(block) if ":" in note and f"{name} ".startswith(f"{note.partition(':')[0]} ")]
    return el("sup", *_marks(about, trace)) if about else None


def section(block: Block, trace: Trace, anchor: str) -> Html:
    """One block: its compact table, verdict, numbers of its notes, and the full table, folded. anchor: id of the section."""
    brief = compact(block)
    said = [el("p", note, class_="note") for note in brief.notes if note not in block.notes]
    tables = lambda b: [_table(b, grid, trace) for grid in grids(b)]
    full = el("details", el("summary", "All statistics of this table"), *tables(block), class_="more") if brief != block else None
    verdict = el("p", block.verdict, class_="verdict") if block.verdict else None
    marks = el("p", "Notes:", *_marks(own, trace), class_="note") if (own := noted(block)) else None
    short = tables(replace(brief, notes=block.notes))
    return el("section", el("h3", block.title), *short, *said, verdict, marks, full, id=anchor, class_="block")


def _table(block: Block, grid: Block, trace: Trace) -> Html:
    """A grid in a box that scrolls."""
    head = []
    for i, header in enumerate(grid.header):
        button = el("button", header, type="button", title="Sort by this column")
        label = "label" if i == grid.labels - 1 else None
        head.append(el("th", button, _about(header, block, trace), scope="col", aria_sort="none", class_=label))
    rows = [el("tr", *(_cell(block, grid, y, x, trace) for x in range(len(row)))) for y, row in enumerate(grid.rows)]
    name = block.title if grid is block else f"{grid.header[0]}, {block.title}"
    table = el("table", el("caption", name, class_="hidden"), el("thead", el("tr", *head)), el("tbody", *rows))
    return el("div", table, class_="scroll", tabindex=0, role="region", aria_label=name)


def _cell(block: Block, grid: Block, y: int, x: int, trace: Trace) -> Html:
    cell = grid.rows[y][x]
    words = [el("span", el("b", part) if cell.best and not i else part) for i, part in enumerate(cell.parts)]
    if cell.kind == "label" and x < grid.labels - 1:
        return el("td", *words)
    if cell.kind == "label":
        return el("th", *words, _about(cell.text, block, trace), scope="row", class_="label")
    found = cell.summary or cell.paired
    first = _NUMBER.match(cell.parts[0]) if cell.kind != "value" and cell.parts else None
    key = found.mean if found else float(first[0]) if first else None  # the mean; else the number that the text begins with
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
