"""The table of a sweep: what varies among the runs, and a pivot of each measure over it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from data import known as known_data
from sam.config import ConfigError
from sam.optimizers.settings import METHODS
from sam.tables.cells import EMPTY, Block, Cell
from sam.tables.columns import Column, available, expand
from sam.tables.conditions import RunRow, TableRow, condition_label, grouped, is_number, method_name, order, table_row, value_text, varying
from sam.tables.footnotes import said_of
from sam.tables.settings import RowConfig, SweepConfig
from sam.tables.statistics import summary_parts

METHOD, STEPS, RHO = "optimizer.method", "optimizer.ascent_steps", "optimizer.rho"
# What a run is about rather than how it is tuned: nothing is picked among its values, each has pivots of its own.
_TASK = ("dataset.", "model.", "protocol.", "epochs", "loss", "init_from", "data")
TITLE = "Sweep"


def is_task(name: str) -> bool:
    return name.startswith(_TASK)


class Grid(NamedTuple):
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

    def rows(self) -> dict[tuple[Any, ...], TableRow]:
        """Values of `keys` -> row of that setting, from small to large."""
        found = {tuple(numbers[key] for key in self.keys): runs for numbers, runs in self.points}
        ordered = sorted(found.items(), key=lambda point: tuple(map(order, point[0])))
        return {at: table_row(self.label, RowConfig(label=self.label), runs) for at, runs in ordered}


def name_of(key: str) -> str:
    return key.removeprefix("optimizer.").removeprefix("dataset.")


def at_text(values: Mapping[str, Any]) -> str:
    """Such as "rho 0.1, lr 0.05"."""
    return ", ".join(f"{name_of(key)} {value_text(value)}" for key, value in values.items())


def grids(runs: Sequence[RunRow], config: SweepConfig) -> list[list[Grid]]:
    """The grids among the runs, task by task, in the order of METHODS. Raises ConfigError for an axis that does not vary."""
    known = [run.own for run in runs]
    # What only some read, with one value, does not vary: step_rule, idle at N = 1.
    varies = [name for name in varying(known) if len({repr(own[name]) for own in known if name in own}) > 1]
    axes = {at: name for at in ("columns", "rows", "blocks") if (name := getattr(config, at)) is not None}
    for at, name in axes.items():
        if name not in varies:
            raise ConfigError(f"sweep.{at}={name}: does not vary among these runs; {', '.join(varies) or 'nothing'} does.")
    numeric = [name for name in varies if name != STEPS and any(is_number(own.get(name)) for own in known)]
    swept = {name for name in numeric if not is_task(name)} | set(axes.values())
    if not swept and numeric:  # nothing was tuned: then sizes, noise, epochs make the columns
        swept = {max(numeric, key=lambda name: len({own.get(name) for own in known}))}
    described = list[tuple[tuple[int, int, str, str], RunRow, dict[str, Any], dict[str, Any]]]()
    for run, own in zip(runs, known, strict=True):
        optimizer = run.config.optimizer
        numbers = {n: own[n] for n in varies if n in swept and n in own and (is_number(own[n]) or n in axes.values())}
        words = {name: own[name] for name in varies if name in own and name not in (*numbers, METHOD, STEPS)}
        steps = 0 if STEPS in swept else getattr(optimizer, "ascent_steps", 0)
        label = METHODS[optimizer.method].label if STEPS in swept else method_name(optimizer)
        described.append(((list(METHODS).index(optimizer.method), steps, label, repr(words)), run, numbers, words))
    found = []
    for (_, _, label, _), members in sorted(grouped(described, lambda one: one[0]).items()):
        points = [(same[0][2], [run for _, run, _, _ in same]) for same in grouped(members, lambda one: repr(one[2])).values()]
        points.sort(key=lambda point: tuple(map(order, point[0].values())))
        task, rest = ({name: value for name, value in members[0][3].items() if is_task(name) == wanted} for wanted in (True, False))
        keys = [name for name in varies if len({repr(numbers.get(name)) for numbers, _ in points}) > 1]
        found.append((rest, Grid(label, task, tuple(sorted(keys, key=lambda name: name != RHO)), points)))
    named = [grid._replace(label=_labelled(grid, rest, [r for r, g in found if g.label == grid.label])) for rest, grid in found]
    return list(grouped(named, lambda grid: repr(grid.task)).values())


def _labelled(grid: Grid, words: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    """The label with the settings that tell it from others of the same label; one of several numbers in this grid is "set"."""
    fixed = {**grid.points[0][0], **dict.fromkeys(grid.keys, "set"), **words}
    said = at_text({name: fixed.get(name, "set") for name in varying(alike)})
    return f"{grid.label} ({said})" if said else grid.label


class Pivot(NamedTuple):
    """Grids that share their columns. column, block: keys, or None; values: of the block key, one block each."""

    column: str | None
    block: str | None
    values: Sequence[Any]
    grids: Sequence[Grid]


def pivots(found: Sequence[Grid], config: SweepConfig) -> list[Pivot]:
    """Cut the grids of one task into pivots: by the key of the columns, rho first; grids without any key join the first one."""
    made, left = list[Pivot](), list(found)
    while left:
        keys = dict.fromkeys(key for grid in left for key in grid.keys)
        counts = {key: len({repr(n[key]) for grid in left if key in grid.keys for n, _ in grid.points}) for key in keys}
        free = [key for key in counts if key not in (config.rows, config.blocks)] or list(counts)
        column = config.columns if config.columns in counts else max(free, key=lambda key: (key == RHO, counts[key]), default=None)
        own = [grid for grid in left if column in grid.keys]
        shared = [key for key in counts if key not in (column, config.rows) and all(key in grid.keys for grid in own) and len(own) > 1]
        block = config.blocks if config.blocks in counts else min(shared, key=lambda key: counts[key], default=None)
        own = [grid for grid in left if column in grid.keys or set(grid.keys) <= {block}]
        values = sorted({n[block] for grid in own for n, _ in grid.points if block in n}, key=order) if block else [None]
        made.append(Pivot(column, block, values, own))
        left = [grid for grid in left if not any(grid is other for other in own)]
    return made


def build(config: SweepConfig, runs: Sequence[RunRow], rhos: Sequence[float]) -> list[Block]:
    """The pivots of every measure, task by task."""
    names = {name for run in runs for name in run.measures}
    columns = expand([column for one in config.measures for column in available(one, names)], rhos[:1])
    blocks = list[Block]()
    for own in grids(runs, config):
        for pivot, column in itertools.product(pivots(own, config), columns):
            made = [_block(pivot, column, own[0].task, value) for value in pivot.values]
            notes = () if blocks else _notes(config, own)
            blocks += [replace(block, notes=notes) for block in made if block is not None]
    return blocks


def task_label(run: RunRow, task: Mapping[str, Any]) -> str:
    label = condition_label(run)  # which may name the epochs
    return ", ".join(filter(None, (label, at_text({n: v for n, v in task.items() if n != "epochs" or f"{v} epoch" not in label}))))


def _block(pivot: Pivot, column: Column, task: Mapping[str, Any], value: Any) -> Block | None:
    """value: of the pivot's block key. None if no cell has a mean without a diverged run."""
    lines, key = dict[str, dict[Any, TableRow]](), pivot.column or ""
    for grid, (numbers, runs) in ((one, point) for one in pivot.grids for point in one.points):
        if pivot.block is not None and numbers.get(pivot.block, value) != value:  # a method without the key stands in every block
            continue
        others = {n: numbers[n] for n in grid.keys if n in numbers and n not in (pivot.column, pivot.block)}
        label = f"{grid.label} ({at_text(others)})" if others else grid.label
        lines.setdefault(label, {})[numbers.get(key)] = table_row(label, RowConfig(label=label), runs)
    places = sorted({at for line in lines.values() for at in line}, key=lambda at: (at is not None, order(at)))
    head = lambda at: f"no {name_of(key)}" if at is None else at_text({key: at})
    shown = {at: replace(column, header=head(at)) if pivot.column else column for at in places}
    cell_of = lambda row, one: Cell("value", EMPTY, one.header) if row is None else short(one.value(row))
    cells = {label: [cell_of(line.get(at), one) for at, one in shown.items()] for label, line in lines.items()}
    whole = [(c.summary, label, c.column) for label, line in cells.items() for c in line if c.summary and c.summary.n and not c.diverged]
    if not whole:
        return None
    extreme, word = (max, "Largest") if "accuracy" in column.measure else (min, "Smallest")
    summary, label, header = extreme(whole, key=lambda one: one[0].mean or 0.0)
    mark = lambda cell: replace(cell, best=cell.summary is not None and cell.summary.mean == summary.mean and not cell.diverged)
    where = f" at {header}" if pivot.column and len(places) > 1 else ""
    about = task_label(pivot.grids[0].points[0][1][0], {**task, **({pivot.block: value} if pivot.block else {})})
    return Block(
        table=TITLE,
        title=f"{column.header}{f' by {name_of(pivot.column)}' if pivot.column else ''}, {about}",
        about=about,
        labels=1,
        header=("Method", *(one.header for one in shown.values())),
        rows=tuple((Cell("label", (name,)), *map(mark, line)) for name, line in cells.items()),
        finding=f"{word} {column.header}: {label}{where}, {summary_parts(summary, column.config.digits)[0]}.",
    )


def short(cell: Cell) -> Cell:
    """Without the interval, which is in the CSV."""
    return replace(cell, parts=tuple(part for part in cell.parts if not part.startswith("[")))


def _notes(config: SweepConfig, found: Sequence[Grid]) -> tuple[str, ...]:
    runs = [run for grid in found for _, members in grid.points for run in members]
    rows = [row for grid in found for row in grid.rows().values()]
    notes = [
        "± is the sample standard deviation over seeds; n counts seeds, diverged runs are in no mean.",
        "Bold: the largest mean accuracy, the smallest mean of any other measure, among cells without a diverged run. It describes; the"
        " largest of many cells is larger than its method's expectation.",
        *(*config.notes, *(note for run in runs for note in said_of(run.config, run.config.protocol.notes))),
        *(f"{run.folder} is left out: seed {run.config.seed} was run more than once." for row in rows for run in row.duplicates),
        f"Data fingerprint: {', '.join(dict.fromkeys(run.data_fingerprint or 'unknown' for run in runs))}.",
        *(note for run in runs for note in known_data.notes(run.data_fingerprint, run.data_notes)),
    ]
    return tuple(dict.fromkeys(notes))
