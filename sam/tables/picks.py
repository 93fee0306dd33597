"""What each method of a sweep would pick on the validation images, and what that gives on the test images."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from data.known import BY_FINGERPRINT
from data.settings import DATASETS, Description
from sam.tables.cells import EMPTY, Block, Cell
from sam.tables.columns import Column, expand
from sam.tables.conditions import RunRow, TableRow
from sam.tables.settings import ColumnConfig, SweepConfig
from sam.tables.statistics import is_finite, summarize, summary_parts
from sam.tables.sweep import RHO, Grid, at_text, grids, is_task, name_of, short, task_label

Values = tuple[float, ...]  # of a grid's keys
Scores = Mapping[Values, Mapping[int, float]]  # setting -> seed -> accuracy
Command = Callable[[RunRow, Sequence[int]], str]  # of the final runs with a run's settings and these seeds

# Where one of these alone was swept, the pick is the value nearest to this one within one standard error of the best.
_NEAREST = {RHO: 0.0, "optimizer.alpha": 1.0}
RECALIBRATED = "[bn=recalibrated]"
_ENDS = {"smallest": min, "largest": max}
OPTIMISTIC = "picked on the test set: optimistic"


def pick(scores: Scores, keys: Sequence[str]) -> Values:
    """The setting with the best mean; over rho or alpha alone the smallest rho (the alpha nearest 1) whose mean lies within one standard
    error of it, that of the differences paired by seed. Of equal ones the smallest."""
    best = max(sorted(scores), key=lambda values: mean(scores[values].values()))
    if len(keys) != 1 or keys[0] not in _NEAREST:
        return best
    behind = {values: [scores[best][seed] - own[seed] for seed in scores[best] if seed in own] for values, own in scores.items()}
    near = [v for v, by in behind.items() if v == best or (len(by) > 1 and mean(by) <= stdev(by) / math.sqrt(len(by)))]
    return min(near, key=lambda values: (abs(values[0] - _NEAREST[keys[0]]), values[0]))


def nested(validation: Scores, keys: Sequence[str]) -> dict[int, Values]:
    """Seed -> setting picked from the other seeds' accuracies, for the seeds that all settings have."""
    common = set.intersection(*(set(seeds) for seeds in validation.values()))
    others = lambda seed: {values: {s: score for s, score in own.items() if s != seed} for values, own in validation.items()}
    return {seed: pick(others(seed), keys) for seed in sorted(common)} if len(common) > 1 else {}


def scores(rows: Mapping[Values, TableRow], measure: str) -> dict[Values, dict[int, float]]:
    """What the settings reached, by their numbers; a diverged run counts as chance."""
    kept = lambda row: {seed: value for seed, value in row.values(measure, 1.0).items() if is_finite(value)}
    lost = lambda row: {seed: chance(run) for seed, run in row.diverged.items()}
    return {at: values for at, row in rows.items() if (values := kept(row) | lost(row))}


def about(name: str) -> Description | None:
    """What is known of the data set whose label this text begins with: the longest one, CIFAR-100 before CIFAR-10."""
    like = [row for row in DATASETS.values() if row.about and name.startswith(row.label)]
    return max(like, key=lambda row: len(row.label)).about if like else None


def chance(run: RunRow) -> float:
    """Accuracy of a guess, in percent; 0 if the number of classes is not known. Images from a file are known by their fingerprint."""
    known = BY_FINGERPRINT.get(run.data_fingerprint)
    found = DATASETS[run.config.dataset.name].about or (about(known.name) if known else None)
    return 100 / found.classes if found else 0.0


def recalibrated(measure: str, rows: Iterable[TableRow]) -> str:
    """The measure with BatchNorm recalibrated, if every finished run has it."""
    finished, better = [run for row in rows for run in row.finished.values()], measure + RECALIBRATED
    return better if finished and all(is_finite(run.measures.get(better)) for run in finished) else measure


@dataclass(frozen=True)
class Picked:
    """The pick of one grid. row: its runs; cells: of the block, the last two its test accuracy and the nested one; score: picked by it."""

    grid: Grid
    at: Mapping[str, Any]
    row: TableRow
    cells: tuple[Cell, ...]
    score: float


def build(runs: Sequence[RunRow], command: Command) -> tuple[list[Block], list[str]]:
    """One block for each task in which something was swept; and the command lines of the final runs with the picked values."""
    blocks, commands = list[Block](), list[str]()
    for own in grids(runs, SweepConfig()):
        if any(grid.keys and not any(map(is_task, grid.keys)) for grid in own):
            made, lines = _block(own, command)
            blocks, commands = blocks + made, commands + lines
    return blocks, commands


def _measures(own: Sequence[Grid]) -> tuple[str, str]:
    """(measure to pick on, measure of the result): validation accuracy, BatchNorm recalibrated if every finished run was measured so."""
    rows = [row for grid in own for row in grid.rows().values()]
    validation, test = (recalibrated(f"{split}_accuracy", rows) for split in ("val", "test"))
    have = [is_finite(run.measures.get(validation)) for row in rows for run in row.finished.values()]
    if validation == "val_accuracy" and have and all(have):
        return validation, "test_accuracy"  # both with the statistics of the training
    return (validation if any(have) else test), test


def _block(own: Sequence[Grid], command: Command) -> tuple[list[Block], list[str]]:
    judge, result = _measures(own)
    validated = judge.startswith("val")
    said, its = (", BatchNorm recalibrated" if name.endswith(RECALIBRATED) else "" for name in (judge, result))
    shown = {f"Validation accuracy (%){said}": judge} if validated else {}
    shown[f"Test accuracy (%){its}{'' if validated else f', {OPTIMISTIC}'}"] = result
    columns = expand([ColumnConfig(key="accuracy", header=header, measure=measure) for header, measure in shown.items()], [])
    header = ("Method", "Picked", *shown, f"Test accuracy (%){its}, nested by seed")
    picked = [one for grid in own if (one := _picked(grid, judge, columns, header[-1], result)) is not None]
    if not picked:
        return [], []
    best = max(picked, key=lambda one: one.score)
    where = f" at {at_text(best.at)}" if best.at else ""
    reached = best.cells[-2].summary
    text = f"{summary_parts(reached, 2)[0]}%{its}" if reached is not None and reached.n else f"validation accuracy {best.score:.2f}%"
    first = own[0].points[0][1][0]
    guess = f"chance ({chance(first):g}%)" if chance(first) else "0%"
    final = picked if validated else []  # those without a pick too: what they are compared with
    commands = [command(one.row.shown[0], sorted({run.config.seed for run in one.row.runs})) for one in final]
    uneven = any(len({frozenset({**row.finished, **row.diverged}) for row in grid.rows().values()}) > 1 for grid in own)
    notes = (
        f"Picked: per method the best mean {'validation' if validated else 'test'} accuracy{said} of the final epoch. Over rho alone the"
        " smallest rho within one standard error of the best (over alpha the one nearest 1), that of the differences paired by seed; over"
        f" several numbers the best mean. A diverged run counts as {guess} where a value is picked, and in the nested accuracy; elsewhere"
        " it is in no mean.",
        "Nested by seed: each seed's values are picked on the other seeds, and its own test accuracy counts; ± over seeds.",
        *(("Settings have different seeds here: some runs are missing, and a pick may change with them.",) if uneven else ()),
        *(() if validated else ("No validation images were held out: dataset.val_fraction=0.1 holds out a tenth of the training images.",)),
    )
    about = task_label(first, own[0].task)
    block = Block(
        table="Picked",
        title=f"Picked {'on validation' if validated else 'on the test set: optimistic'}, {about}",
        about=about,
        labels=1,
        header=header,
        rows=tuple((Cell("label", (one.grid.label,)), *one.cells) for one in picked),
        notes=notes,
        finding=f"Best: {best.grid.label}{where}, {text} ({'picked on validation' if validated else OPTIMISTIC}).",
    )
    return [block], commands


def _picked(grid: Grid, judge: str, columns: Sequence[Column], header: str, result: str) -> Picked | None:
    rows = grid.rows()
    found = scores(rows, judge)
    if not found:
        return None
    values = pick(found, grid.keys)
    at = dict(zip(grid.keys, values, strict=True))
    tried = dict(zip(grid.keys, zip(*rows, strict=True), strict=True))
    edges = [f"({name_of(key)}: {side} tried)" for key in at for side, end in _ENDS.items() if at[key] == end(tried[key])]
    cells = [Cell("value", (at_text(at), *edges) if at else EMPTY, "Picked")]
    cells += [short(column.value(rows[values])) for column in columns]
    cells.append(_nested_cell(found, rows, grid.keys, result, header))
    return Picked(grid, at, rows[values], tuple(cells), mean(found[values].values()))


def _nested_cell(found: Scores, rows: Mapping[Values, TableRow], keys: Sequence[str], result: str, header: str) -> Cell:
    reached = scores(rows, result)
    own = {seed: values for seed, values in nested(found, keys).items() if seed in reached.get(values, {})} if keys else {}
    if not own:
        return Cell("value", EMPTY, header)
    numbers = [reached[values][seed] for seed, values in own.items()]
    runs = [rows[values].finished.get(seed) or rows[values].diverged[seed] for seed, values in own.items()]
    summary, folders = summarize(numbers), tuple(run.folder for run in runs)
    return short(Cell("value", summary_parts(summary, 2), header, summary, seeds=tuple(own), folders=folders, numbers=tuple(numbers)))
