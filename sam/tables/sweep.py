"""The table of a sweep: what varies among the runs, and a pivot of each measure over it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data import known as known_data
from sam.config import ConfigError
from sam.optimizers.settings import METHODS
from sam.tables.cells import EMPTY, Block, Cell
from sam.tables.columns import Column, available, expand
from sam.tables.conditions import (
    RunRow,
    TableRow,
    condition_label,
    conditions,
    method_name,
    table_row,
    table_rows,
    value_text,
    varying,
)
from sam.tables.settings import RowConfig, SweepConfig, TableConfig
from sam.tables.statistics import is_finite, summary_parts

METHOD, STEPS, RHO = "optimizer.method", "optimizer.ascent_steps", "optimizer.rho"
# What a run is about rather than how it is tuned: nothing is picked among its values, each has pivots of its own.
_TASK = ("dataset.", "model.", "protocol.", "epochs", "loss", "init_from", "data")
TITLE = "Sweep"
_EXTREME = {True: "Largest", False: "Smallest"}


def is_task(name: str) -> bool:
    return name.startswith(_TASK)


@dataclass(frozen=True)
class Grid:
    """One method at one task, swept over numbers (words too where they were named as an axis).

    label   the method, with the words that tell its grids apart ("XSAM (alpha null)").
    task    settings of the task that vary among the runs, by dotted names.
    keys    the numbers that vary within the grid, by dotted names.
    points  values of all numbers that vary among the runs (those that the method reads) -> runs.
    """

    label: str
    task: Mapping[str, Any]
    keys: tuple[str, ...]
    points: Sequence[tuple[Mapping[str, Any], Sequence[RunRow]]]

    def rows(self) -> list[tuple[dict[str, Any], TableRow]]:
        """(numbers that vary within the grid, row) of each setting, from small to large."""
        found = [({key: numbers[key] for key in self.keys}, runs) for numbers, runs in self.points]
        ordered = sorted(found, key=lambda point: tuple(map(_order, point[0].values())))
        return [(at, table_row(self.label, RowConfig(label=self.label), runs)) for at, runs in ordered]


def name_of(key: str) -> str:
    return key.removeprefix("optimizer.").removeprefix("dataset.")


def at_text(values: Mapping[str, Any]) -> str:
    """Such as "rho 0.1, lr 0.05"."""
    return ", ".join(f"{name_of(key)} {value_text(value)}" for key, value in values.items())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(value: Any) -> tuple[bool, float, str]:
    """Sort key of values: numbers by size, then words."""
    return (False, float(value), "") if _number(value) else (True, 0.0, "" if value is None else value_text(value))


def grids(runs: Sequence[RunRow], config: SweepConfig) -> list[Grid]:
    """The grids among the runs, in the order of METHODS. Raises ConfigError for an axis that does not vary."""
    known = [run.own for run in runs]
    # What only some read, with one value, does not vary: step_rule, idle at N = 1.
    varies = [name for name in varying(known) if len({repr(own[name]) for own in known if name in own}) > 1]
    axes = {at: name for at in ("columns", "rows", "blocks") if (name := getattr(config, at)) is not None}
    for at, name in axes.items():
        if name not in varies:
            raise ConfigError(f"sweep.{at}={name}: does not vary among these runs; {', '.join(varies) or 'nothing'} does.")
    numeric = [name for name in varies if name != STEPS and any(_number(own.get(name)) for own in known)]
    swept = {name for name in numeric if not is_task(name)} | set(axes.values())
    if not swept and numeric:  # nothing was tuned: then sizes, noise, epochs make the columns
        swept = {max(numeric, key=lambda name: len({own.get(name) for own in known}))}
    members: dict[tuple[int, int, str, str], list[tuple[RunRow, dict[str, Any], dict[str, Any]]]] = {}
    for run, own in zip(runs, known, strict=True):
        optimizer = run.config.optimizer
        numbers = {name: own[name] for name in varies if name in swept and name in own}
        numbers = {name: value for name, value in numbers.items() if _number(value) or name in axes.values()}
        words = {name: own[name] for name in varies if name in own and name not in (*numbers, METHOD, STEPS)}
        steps = 0 if STEPS in swept else getattr(optimizer, "ascent_steps", 0)
        label = METHODS[optimizer.method].label if STEPS in swept else method_name(optimizer)
        members.setdefault((list(METHODS).index(optimizer.method), steps, label, repr(words)), []).append((run, numbers, words))
    found = []
    for (_, _, label, _), own_runs in sorted(members.items(), key=lambda item: item[0]):
        points: dict[str, tuple[dict[str, Any], list[RunRow]]] = {}
        for run, numbers, _ in own_runs:
            points.setdefault(repr(numbers), (numbers, []))[1].append(run)
        words = own_runs[0][2]
        task, rest = ({name: value for name, value in words.items() if is_task(name) == wanted} for wanted in (True, False))
        ordered = sorted(points.values(), key=lambda point: tuple(map(_order, point[0].values())))
        keys = [name for name in varies if len({repr(numbers.get(name)) for numbers, _ in points.values()}) > 1]
        found.append((label, rest, Grid(label, task, tuple(sorted(keys, key=lambda name: name != RHO)), ordered)))
    return [replace(grid, label=_labelled(label, rest, [r for other, r, _ in found if other == label])) for label, rest, grid in found]


def _labelled(label: str, words: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    """The label with the settings that tell it from others of the same label; one that is a number in this grid is "set"."""
    differing = varying(alike)
    texts = [f"{name_of(name)} {value_text(words[name]) if name in words else 'set'}" for name in differing]
    return f"{label} ({', '.join(texts)})" if texts else label


@dataclass(frozen=True)
class Pivot:
    """Grids that share their columns. column, block: keys, or None."""

    column: str | None
    block: str | None
    grids: Sequence[Grid]


def pivots(found: Sequence[Grid], config: SweepConfig) -> list[Pivot]:
    """Cut the grids of one task into pivots: by the key of the columns, rho first; grids without any key join the first one."""
    made: list[Pivot] = []
    left = list(found)
    while left:
        counts = {
            key: len({repr(n[key]) for grid in left if key in grid.keys for n, _ in grid.points}) for grid in left for key in grid.keys
        }
        free = [key for key in counts if key not in (config.rows, config.blocks)] or list(counts)
        column = config.columns if config.columns in counts else max(free, key=lambda key: (key == RHO, counts[key]), default=None)
        own = [grid for grid in left if column in grid.keys]
        shared = [key for key in counts if key != column and key != config.rows and all(key in grid.keys for grid in own)]
        block = (
            config.blocks if config.blocks in counts else min(shared, key=lambda key: counts[key], default=None) if len(own) > 1 else None
        )
        own = [grid for grid in left if column in grid.keys or set(grid.keys) <= {block}]
        made.append(Pivot(column, block, own))
        left = [grid for grid in left if not any(grid is other for other in own)]
    return made


def build(config: SweepConfig, runs: Sequence[RunRow], rhos: Sequence[float]) -> list[Block]:
    """The pivots of every measure, task by task."""
    names = {name for run in runs for name in run.measures}
    columns = expand([column for one in config.measures for column in available(one, names)], rhos[:1])
    blocks = list[Block]()
    for own in by_task(grids(runs, config)):
        notes = _notes(config, own)
        for pivot, column in itertools.product(pivots(own, config), columns):
            made = _pivot(pivot, column, own[0].task)
            blocks += [replace(block, notes=(*block.notes, *(() if blocks else notes))) for block in made]
    return blocks


def by_task(found: Sequence[Grid]) -> list[list[Grid]]:
    tasks: dict[str, list[Grid]] = {}
    for grid in found:
        tasks.setdefault(repr(grid.task), []).append(grid)
    return list(tasks.values())


def task_label(run: RunRow, task: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (condition_label(run), at_text(task))))


def _pivot(pivot: Pivot, column: Column, task: Mapping[str, Any]) -> list[Block]:
    """One block for each value of the pivot's block key."""
    values = (
        sorted({n[pivot.block] for grid in pivot.grids for n, _ in grid.points if pivot.block in n}, key=_order) if pivot.block else [None]
    )
    return [block for value in values if (block := _block(pivot, column, task, value)) is not None]


def _block(pivot: Pivot, column: Column, task: Mapping[str, Any], value: Any) -> Block | None:
    lines: dict[str, dict[Any, TableRow]] = {}
    for grid in pivot.grids:
        for numbers, runs in grid.points:
            if pivot.block is not None and numbers.get(pivot.block, value) != value:  # a method without the key stands in every block
                continue
            label = f"{grid.label} ({others})" if (others := at_text(_others(grid, numbers, pivot))) else grid.label
            at = numbers.get(pivot.column) if pivot.column else None
            lines.setdefault(label, {})[at] = table_row(label, RowConfig(label=label), runs)
    places = sorted({at for line in lines.values() for at in line}, key=lambda at: (at is not None, _order(at)))
    headers = [_header(pivot, column, at) for at in places]
    cells = [[_cell(line.get(at), column, header) for at, header in zip(places, headers, strict=True)] for line in lines.values()]
    largest = "accuracy" in column.measure
    means = [c.summary.mean for line in cells for c in line if c.summary is not None and not c.diverged and is_finite(c.summary.mean)]
    if not means:
        return None
    best = (max if largest else min)(means)
    mark = lambda cell: replace(cell, best=cell.summary is not None and cell.summary.mean == best and not cell.diverged)
    cells = [list(map(mark, line)) for line in cells]
    label, where, cell = next(
        (name, header, c) for name, line in zip(lines, cells, strict=True) for header, c in zip(headers, line, strict=True) if c.best
    )
    best_at = f" at {where}" if pivot.column and len(places) > 1 else ""
    over = f" by {name_of(pivot.column)}" if pivot.column else ""
    run = pivot.grids[0].points[0][1][0]
    about = task_label(run, {**task, **({pivot.block: value} if pivot.block else {})})
    assert cell.summary is not None
    return Block(
        table=TITLE,
        title=f"{column.header}{over}, {about}",
        about=about,
        labels=1,
        header=("Method", *headers),
        rows=tuple((Cell("label", (name,)), *line) for name, line in zip(lines, cells, strict=True)),
        notes=(),
        finding=f"{_EXTREME[largest]} {column.header}: {label}{best_at}, {summary_parts(cell.summary, column.config.digits)[0]}.",
    )


def _others(grid: Grid, numbers: Mapping[str, Any], pivot: Pivot) -> dict[str, Any]:
    return {key: numbers[key] for key in grid.keys if key in numbers and key not in (pivot.column, pivot.block)}


def _header(pivot: Pivot, column: Column, at: Any) -> str:
    if pivot.column is None:
        return column.header
    return f"no {name_of(pivot.column)}" if at is None else at_text({pivot.column: at})


def _cell(row: TableRow | None, column: Column, header: str) -> Cell:
    return Cell("value", EMPTY, header) if row is None else short(replace(column, header=header).value(row))


def short(cell: Cell) -> Cell:
    """Without the interval, which is in the CSV."""
    return replace(cell, parts=tuple(part for part in cell.parts if not part.startswith("[")))


def _notes(config: SweepConfig, found: Sequence[Grid]) -> list[str]:
    runs = [run for grid in found for _, members in grid.points for run in members]
    rows = [row for grid in found for _, row in grid.rows()]
    notes = [
        "± is the sample standard deviation over seeds; n counts seeds, diverged runs are in no mean.",
        "Bold: the largest mean accuracy, the smallest mean of any other measure, among cells without a diverged run. It describes; the"
        " largest of many cells is larger than its method's expectation.",
        *config.notes,
        *(f"{run.folder} is left out: seed {run.config.seed} was run more than once." for row in rows for run in row.duplicates),
        f"Data fingerprint: {', '.join(dict.fromkeys(run.data_fingerprint or 'unknown' for run in runs))}.",
        *(note for run in runs for note in known_data.notes(run.data_fingerprint, run.data_notes)),
    ]
    return list(dict.fromkeys(notes))


def needed(tables: Sequence[TableConfig], runs: Sequence[RunRow], lost: Sequence[RunRow]) -> bool:
    """True if the layouts do not fit the runs: some match no row (`lost`), a row splits by settings, or conditions differ in a number of
    three or more values, or in two numbers."""
    found = conditions(runs)
    if lost or any(len(table_rows(spec, c.runs)) > 1 for table in tables for spec in table.rows for c in found):
        return True
    numbers = {name: {value for c in found if _number(value := c.key[name])} for name in varying([c.key for c in found])}
    sizes = [len(values) for values in numbers.values() if len(values) > 1]
    return len(sizes) > 1 or any(size > 2 for size in sizes)
