"""Tables as data: runs in, blocks of cells out. Nothing here prints; `sam.results.render` does.

A block holds the runs of one *context*: everything but the seed and the keys of the method (rho, ascent steps, ...). Learning rate,
momentum and weight decay belong to the context, so that two rows of a block differ in the method alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sam.config import (
    BASE_KEYS,
    METHODS,
    MODELS,
    ColumnConfig,
    ConfigError,
    DatasetConfig,
    ModelConfig,
    OptimizerConfig,
    ProtocolConfig,
    RowConfig,
    TableConfig,
    TrackingConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from sam.results.published import Published, citations, lookup, matches
from sam.results.statistics import Paired, Summary, paired_difference, paired_parts, summarize, summary_parts

PUBLISHED_RHO = 0.05  # radius of the published sharpness: Tiwary & Aananth 2024, section 4.1
EMPTY = ("–",)


@dataclass(frozen=True)
class RunRow:
    """One run as the tables see it; `measures` in plain units (accuracy in percent, losses in nats), None where not measured.

    setting  identity of everything but the seed: runs with equal `setting` are replicas over seeds.
    status   finished | diverged.
    epochs   the rows of metrics.csv (epoch, test_accuracy, train_loss, ...).
    """

    config: TrainConfig
    setting: str
    status: str
    diverged_epoch: int | None
    measures: Mapping[str, float | None]
    epochs: Sequence[Mapping[str, float]]
    folder: str
    fingerprint: str
    data_fingerprint: str
    data_notes: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """`parts` is what is printed, in pieces that may go on lines of their own; the rest is what a program reads.

    kind       label | value | difference | published.
    column     header of the value column that the cell belongs to. Numbers are in that column's unit.
    diverged   seeds of diverged runs: in none of the numbers.
    """

    kind: str
    parts: tuple[str, ...]
    column: str = ""
    summary: Summary | None = None
    paired: Paired | None = None
    baseline: str = ""
    seeds: tuple[int, ...] = ()
    diverged: tuple[int, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(self.parts)


@dataclass(frozen=True)
class Block:
    """One printed table; the first `labels` columns name the row."""

    table: str
    title: str
    labels: int
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------------- contexts


@dataclass(frozen=True)
class Context:
    """Runs that differ in method and seed only. `config` is the first run's; `label` tells contexts apart."""

    label: str
    config: TrainConfig
    runs: tuple[RunRow, ...]

    @property
    def noisy(self) -> bool:
        return self.config.dataset.label_noise > 0


def _context_key(run: RunRow) -> dict[str, Any]:
    """The run's settings without seed, method, names and places; a model's idle keys count for nothing."""
    c = run.config
    neutral = replace(
        c,
        optimizer=OptimizerConfig(**{key: getattr(c.optimizer, key) for key in BASE_KEYS} | {"method": "sgd"}),
        model=ModelConfig(**{key: getattr(c.model, key) for key in ("name", "init", *MODELS[c.model.name])}),
        dataset=replace(c.dataset, path="file" if c.dataset.path else None, root=DatasetConfig.root, download=False),
        protocol=ProtocolConfig(name=c.protocol.name),
        tracking=TrackingConfig(),
        **{f.name: f.default for f in dataclasses.fields(TrainConfig) if f.name in _NEUTRAL},  # type: ignore[arg-type]
    )
    return _flat(to_dict(neutral)) | {"data": run.data_fingerprint}


_NEUTRAL = ("seed", "runs_dir", "run_dir", "force", "device", "threads", "eval_batch_size", "checkpoint_interval")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def context_label(config: TrainConfig) -> str:
    """ "digits demo", or "CIFAR-10, WRN-28-10, 200 epochs, protocol tiwary2024"."""
    data = config.dataset
    if data.name == "digits" and config.protocol.name.startswith("demo"):
        return "digits demo" + data.label.removeprefix("digits")
    return f"{data.label}, {config.model.label}, {config.epochs} epochs, protocol {config.protocol.name}"


def contexts(runs: Sequence[RunRow]) -> list[Context]:
    """The runs by context, in the order in which they first appear; where labels would collide, the settings that differ are appended."""
    groups: dict[str, list[RunRow]] = {}
    for run in runs:
        if run.status not in ("finished", "diverged"):
            raise ValueError(f"{run.folder}: status {run.status}: only finished and diverged runs belong in a table.")
        groups.setdefault(json.dumps(_context_key(run), sort_keys=True), []).append(run)
    by_label: dict[str, list[str]] = {}
    for key, members in groups.items():
        by_label.setdefault(context_label(members[0].config), []).append(key)
    found = []
    for label, keys in by_label.items():
        settings = [json.loads(key) for key in keys]
        differing = [name for name in settings[0] if len({repr(s.get(name)) for s in settings}) > 1]
        for key, setting in zip(keys, settings, strict=True):
            members = groups[key]
            suffix = "".join(f", {name}={str(setting[name])[:12] if name == 'data' else _word(setting[name])}" for name in differing)
            found.append(Context(label + suffix, members[0].config, tuple(members)))
    return found


# -------------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Group:
    """Replicas of one setting: its label, the row that it belongs to, and one run per seed. Empty for a row without runs."""

    label: str
    row: RowConfig
    optimizer: OptimizerConfig
    finished: Mapping[int, RunRow]
    diverged: Mapping[int, RunRow]
    duplicates: tuple[RunRow, ...] = ()

    @property
    def ran(self) -> bool:
        return bool(self.finished or self.diverged)

    def values(self, measure: str, scale: float) -> dict[int, float | None]:
        """Seed -> measure times scale, of the finished runs."""
        raw = {seed: run.measures.get(measure) for seed, run in sorted(self.finished.items())}
        return {seed: None if value is None else value * scale for seed, value in raw.items()}


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_word, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def row_matches(match: Mapping[str, Any], optimizer: OptimizerConfig) -> bool:
    """Whether the settings equal `match`. A key of the method that is idle here (step_rule at one step) cannot tell runs apart."""
    known = BASE_KEYS + METHODS[optimizer.method].keys
    return all(key in known and (key not in optimizer.used_keys or getattr(optimizer, key) == value) for key, value in match.items())


def distinguish(optimizers: Sequence[OptimizerConfig]) -> list[str]:
    """For each, what tells it from the others: " (rho 0.1, perturb no_norm)", or "" if there is one only."""
    if len(optimizers) < 2:
        return [""] * len(optimizers)
    names = [f.name for f in dataclasses.fields(OptimizerConfig)]
    differing = [n for n in names if len({repr(getattr(o, n)) for o in optimizers if n in o.used_keys}) > 1]
    texts = [", ".join(f"{n} {_word(getattr(o, n))}" for n in differing if n in o.used_keys) for o in optimizers]
    if len(set(texts)) < len(texts):  # the settings differ in something else: number them rather than show two equal labels
        texts = [f"{text}{', ' if text else ''}setting {i}" for i, text in enumerate(texts, 1)]
    return [f" ({text})" for text in texts]


def group_runs(row: RowConfig, runs: Sequence[RunRow]) -> list[Group]:
    """One group per setting among the runs that the row matches; a row without runs is one empty group."""
    by_setting: dict[str, list[RunRow]] = {}
    for run in runs:
        if row_matches(row.match, run.config.optimizer):
            by_setting.setdefault(run.setting, []).append(run)
    if not by_setting:
        return [Group(row.label, row, from_dict(OptimizerConfig, row.match, "match."), {}, {})]
    order = sorted(by_setting.values(), key=lambda members: _numeric_first(members[0].config.optimizer))
    optimizers = [members[0].config.optimizer for members in order]
    groups = []
    for members, suffix in zip(order, distinguish(optimizers), strict=True):
        chosen: dict[int, RunRow] = {}
        for run in sorted(members, key=lambda r: (r.status != "finished", r.folder)):
            chosen.setdefault(run.config.seed, run)
        kept = {id(run) for run in chosen.values()}
        finished = {seed: run for seed, run in sorted(chosen.items()) if run.status == "finished"}
        diverged = {seed: run for seed, run in sorted(chosen.items()) if run.status != "finished"}
        duplicates = tuple(run for run in members if id(run) not in kept)
        groups.append(Group(row.label + suffix, row, members[0].config.optimizer, finished, diverged, duplicates))
    return groups


def _numeric_first(optimizer: OptimizerConfig) -> list[tuple[bool, float, str]]:
    """Sorts settings by their values, 0.05 before 0.1 before 10."""
    values = [getattr(optimizer, f.name) for f in dataclasses.fields(OptimizerConfig)]
    return [(False, float(v), "") if isinstance(v, (int, float)) else (True, 0.0, repr(v)) for v in values]


def _baseline_for(group: Group, baselines: Sequence[Group]) -> Group | None:
    """The baseline to compare with: the one at the same radius, then with the most settings in common, then the first."""

    def likeness(other: Group) -> tuple[bool, int]:
        a, b = group.optimizer, other.optimizer
        shared = [k for k in a.used_keys if k in b.used_keys and k not in BASE_KEYS and getattr(a, k) == getattr(b, k)]
        return "rho" in shared, len(shared)

    return max(baselines, key=likeness, default=None)


# ----------------------------------------------------------------------------------------------------------------- columns


@dataclass(frozen=True)
class _Column:
    """A column for one radius (rho None where the measure has none)."""

    config: ColumnConfig
    rho: float | None

    def _fill(self, text: str) -> str:
        return text if self.rho is None else text.replace("{rho}", f"{self.rho:g}")

    @property
    def header(self) -> str:
        return self._fill(self.config.header)

    @property
    def measure(self) -> str:
        return self._fill(self.config.measure)

    def value(self, group: Group) -> Cell:
        if not group.ran:
            return Cell("value", ("not run",), self.header)
        values = group.values(self.measure, self.config.scale)
        summary = summarize(values.values())
        parts = summary_parts(summary, self.config.digits)
        if group.diverged:
            epochs = [r.diverged_epoch for r in group.diverged.values()]
            when = ", ".join("unknown" if e is None else str(e) for e in epochs)
            total = len(group.diverged) + len(group.finished)
            parts += (f"{len(group.diverged)} of {total} diverged", f"(epoch{'s' if len(epochs) > 1 else ''} {when})")
        seeds = tuple(s for s, v in values.items() if v is not None and math.isfinite(v))
        folders = tuple(r.folder for r in (*group.finished.values(), *group.diverged.values()))
        return Cell("value", parts, self.header, summary, seeds=seeds, diverged=tuple(group.diverged), folders=folders)

    def difference(self, group: Group, baselines: Sequence[Group]) -> Cell:
        base = _baseline_for(group, baselines)
        if any(group is other for other in baselines):
            return Cell("difference", ("baseline",), self.header)
        if base is None or not base.ran or not group.ran:
            return Cell("difference", EMPTY, self.header)
        measure, scale = self.measure, self.config.scale
        paired = paired_difference(group.values(measure, scale), base.values(measure, scale))
        parts = paired_parts(paired, self.config.digits)
        if len(baselines) > 1:
            parts += (f"vs {base.label}",)
        return Cell("difference", parts, self.header, paired=paired, baseline=base.label, seeds=paired.seeds)

    def published(self, group: Group, context: TrainConfig) -> list[Published]:
        ids = group.row.published.get(self.config.key, [])
        here = self.rho is None or math.isclose(self.rho, PUBLISHED_RHO)
        return [p for p in lookup(ids) if here and matches(p, replace(context, optimizer=group.optimizer))]


def _expand(columns: Sequence[ColumnConfig], rhos: Sequence[float]) -> list[_Column]:
    return [_Column(c, rho) for c in columns for rho in (rhos if c.each_rho else [None])]


# ------------------------------------------------------------------------------------------------------------------ blocks


def build(table: TableConfig, runs: Sequence[RunRow], rhos: Sequence[float]) -> list[Block]:
    """One block per context in which at least one row of the table has a run.

    rhos: the radii at which sharpness was measured. Raises `ConfigError` where the table refers to a row, column or id that is not there.
    """
    labels, keys = [row.label for row in table.rows], [column.key for column in table.columns]
    if table.baseline is not None and table.baseline not in labels:
        raise ConfigError(f"baseline={table.baseline}: must be the label of a row: {', '.join(labels)}.")
    for row in table.rows:
        for key in row.published:
            if key not in keys:
                raise ConfigError(f"published.{key}: must be the key of a column: {', '.join(keys)}.")
    columns = _expand(table.columns, rhos)
    headers = [column.header for column in columns]
    for header in headers:
        if headers.count(header) > 1:
            raise ConfigError(f"columns: header={header}: stands over {headers.count(header)} columns; each needs its own.")
    blocks = [_block(table, context, columns) for context in contexts(runs)]
    return [block for block in blocks if block is not None]


def _block(table: TableConfig, context: Context, columns: Sequence[_Column]) -> Block | None:
    groups = [group for row in table.rows for group in group_runs(row, context.runs)]
    if not any(group.ran for group in groups):
        return None
    baselines = [group for group in groups if group.row.label == table.baseline]
    setup: tuple[str, ...] = (context.config.model.label, context.config.dataset.label) if table.setup_columns else ()
    header = [*(("Model", "Dataset") if setup else ()), table.row_header]
    rows: list[list[Cell]] = [[Cell("label", (text,)) for text in (*setup, group.label)] for group in groups]
    shown: dict[str, Published] = {}
    for column in columns:
        header.append(column.header)
        for cells, group in zip(rows, groups, strict=True):
            cells.append(column.value(group))
        values = [column.published(group, context.config) for group in groups]
        if any(values):
            header.append(f"{column.header}: published (protocol unstated)")
            for cells, found in zip(rows, values, strict=True):
                cells.append(Cell("published", tuple(part for p in found for part in p.parts) or EMPTY, column.header))
                shown |= {p.id: p for p in found}
    for column in (c for c in columns if c.config.compare and baselines):  # after the table itself, which is read first
        header.append(f"{column.header}: difference from row {table.baseline}")
        for cells, group in zip(rows, groups, strict=True):
            cells.append(column.difference(group, baselines))
    done = tuple(tuple(cells) for cells in rows)
    notes = _notes(table, context, groups, columns, done, list(shown.values()))
    return Block(table.title, f"{table.title}, {context.label}", len(setup) + 1, tuple(header), done, notes)


# ------------------------------------------------------------------------------------------------------------------- notes


def _notes(
    table: TableConfig,
    context: Context,
    groups: Sequence[Group],
    columns: Sequence[_Column],
    rows: Sequence[Sequence[Cell]],
    published: Sequence[Published],
) -> tuple[str, ...]:
    """Everything that must be said under the block, once each, in order."""
    used = [run for g in groups for run in (*g.finished.values(), *g.diverged.values())]
    given = [*table.notes, *(note for run in used for note in run.config.protocol.notes)]
    conditions = {"noise: ": context.noisy, "clean: ": not context.noisy, "published: ": bool(published)}
    notes = [f"Layout after {table.source}."] if table.source else []
    for note in given:
        prefix = next((p for p in conditions if note.startswith(p)), "")
        if not prefix or conditions[prefix]:
            notes.append(note.removeprefix(prefix))
    notes += _notes_on_numbers(table, groups, rows)
    measures = [column.config.measure for column in columns]
    if any("accuracy" in m for m in measures):
        notes.append("Accuracy is that of the final epoch.")
    if "gap" in measures:
        notes += _notes_on_gap(context)
    notes += [_lost_in_rounding(run.config) for run in used if _rounds_a_random_direction(run.config)]
    notes += citations(published)
    prints = dict.fromkeys(run.data_fingerprint or "unknown" for run in used)
    notes.append(f"Data fingerprint: {', '.join(prints)}.")
    notes += [note for run in used for note in run.data_notes]
    return tuple(dict.fromkeys(notes))


def _rounds_a_random_direction(config: TrainConfig) -> bool:
    return config.optimizer.method == "rand_sam" and config.precision in ("bf16", "fp16")


def _lost_in_rounding(config: TrainConfig) -> str:
    return (
        f"Rand-SAM at rho {config.optimizer.rho:g} in {config.precision} autocast: rounding the weights perturbs them too, at a small rho "
        "by more than the method does; the row is not interpretable."
    )


def _notes_on_numbers(table: TableConfig, groups: Sequence[Group], rows: Sequence[Sequence[Cell]]) -> list[str]:
    cells = [(group, cell) for group, row in zip(groups, rows, strict=True) for cell in row]
    notes = ["± is the sample standard deviation over seeds; [ ] is the 95% confidence interval of the mean (Student's t); n counts seeds."]
    if any(cell.kind == "difference" for _, cell in cells):
        notes.append(
            f"Differences are the row minus row {table.baseline}, paired by seed: mean, [95% confidence interval], p of the two-sided"
            " paired t test, not corrected for the number of comparisons."
        )
    seeds = {g.label: ", ".join(map(str, sorted({*g.finished, *g.diverged}))) for g in groups if g.ran}
    if len(set(seeds.values())) == 1:
        text = next(iter(seeds.values()))
        notes.append(f"Seeds of every row that was run: {text} ({text.count(',') + 1}).")
    else:
        notes.append("Seeds: " + "; ".join(f"{label}: {text} ({text.count(',') + 1})" for label, text in seeds.items()) + ".")
    single = dict.fromkeys(g.label for g, cell in cells if cell.summary is not None and cell.summary.n == 1)
    if single:
        notes.append(f"{', '.join(single)}: one seed: no spread can be given.")
    for group, cell in cells:
        if cell.paired is not None and cell.paired.n < len(group.finished):
            common = ", ".join(map(str, cell.paired.seeds)) or "none"
            notes.append(f"{cell.column}, {group.label} against {cell.baseline}: common seeds {common} (n = {cell.paired.n}).")
    if any(g.diverged for g in groups):
        notes.append("Diverged runs are counted, and are in no mean, interval or difference: the numbers of that row are of the survivors.")
    for g in groups:
        for run in g.duplicates:
            notes.append(f"{g.label}: seed {run.config.seed} was run more than once; {run.folder} is left out.")
    return notes


def _notes_on_gap(context: Context) -> list[str]:
    """What the gap is. The expected values: cross-entropies of WRN-28-10 in eval mode, lines u01 to u06 of paper_values.csv."""
    if context.noisy:
        return ["Gap: test loss in expectation over the label channel minus noisy training loss."]
    notes = ["Gap: mean test loss - mean loss on the unaugmented training set, both in eval mode."]
    if context.config.model.label == "WRN-28-10" and context.config.dataset.name == "cifar10":
        notes.append(
            "An SGD gap near 130-160 ×10³ is expected here in eval mode, while Tiwary & Aananth 2024 print 46-48 ×10³ for SAM:"
            " their definition may differ."
        )
    if context.config.model.label == "WRN-28-10" and context.config.dataset.name == "cifar100":
        notes.append("An SGD gap near 800-870 ×10³ is expected here in eval mode; Tiwary & Aananth 2024 print none for CIFAR-100.")
    return notes
