"""The columns of a table: measures that exist, and what their names say; placeholders filled in; and the value of every row."""

import difflib
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from sam.config import ConfigError
from sam.core.settings import STEP_RULES
from sam.sharpness.settings import NOTIONS, SharpnessConfig
from sam.tables.cells import Cell
from sam.tables.conditions import Condition, RunRow, TableRow
from sam.tables.published import Published, lookup, matches
from sam.tables.settings import ColumnConfig, TableConfig
from sam.tables.statistics import is_finite, summarize, summary_parts

# A line: names ("*": and NAME_stderr, its standard error), then in brackets the keys that follow each of them, in this order. "?": it may
# be missing; "=": its values, where they are no numbers. The first lines hold what only the training saw.
_LINES = f"""
last5_test_loss last5_test_accuracy last5_val_loss last5_val_accuracy best_test_accuracy best_val_accuracy best_val_loss
gap_running gap_perturbed epoch_seconds backwards seconds
eps_over_rho mean_eps_over_rho cos_g_eps mean_cos_g_eps
gap error_gap test_loss_channel ece weight_norm cos_random_level corruption_kinds
test_loss test_accuracy val_loss val_accuracy [bn?=train|recalibrated]
train_loss train_accuracy grad_norm [bn?=train|recalibrated,subset?]
sharpness* ascent_loss [rho,bn=eval|train|recalibrated,batch=all|m,subset?]
first_order second_order limit_worst limit_ascent limit_average* average* [rho,subset?]
maximum maximum_ascent maximum_spread psi alpha_star alpha_star_rise [rho,subset?]
interior_batches interior_batch_size direction_batches direction_batch_size direction_loss* [bn?=train]
interior_ray* interior_ray_length* interior_ball* interior_ball_length* [rho,bn?=train]
n_step n_step_length n_step_cosine n_step_share n_step_gain [rho,n,rule={"|".join(STEP_RULES)},subset?]
adaptive_worst adaptive_worst_ascent adaptive_worst_spread adaptive_average* [rho,norm=l2|linf,logits=plain|normalized,subset?]
direction_best* [rho,reach,bn?=train]
direction_psi* [rho,k,bn?=train]
direction_wins* direction_alpha* direction_alpha_std direction_edge* [rho,reach,k,bn?=train]
direction_rise* direction_share* direction_cosine* direction_low* direction_transfer* [v=g\\d+|arc|plane|random,rho,reach,k,bn?=train]
rounding_readable [to=bf16|fp16|tf32,along=gradient|random,subset?]
rounding_length rounding_cosine [to=bf16|fp16|tf32,along=gradient|random,rho,subset?]
keskar keskar_lbfgsb keskar_sign keskar_spread [epsilon,subset?]
eigenvalue eigenvalue_residual landscape_eigenvalue landscape_eigenvalue_residual [k,subset?]
eigenvalue_min eigenvalue_min_residual lambda1_over_loss lanczos_products trace* [subset?]
cos_gradient_top gradient_top_share curvature_gradient [subset?]
spectrum_mean* spectrum_second_moment* spectrum_smallest spectrum_largest spectrum_probes spectrum_width spectrum_mass [subset?]
corruption_accuracy corruption_loss [kind?=\\w+]
"""
_VALUE = r"[\d.e+-]+|{\w+}"  # a number, or "{rho}" and "{subset}", which stand for some
_NAMES = re.sub(r"(\w+)\*", r"\1 \1_stderr", _LINES)
_KEYS = {name: line.partition(" [")[2].rstrip("]") for line in _NAMES.split("\n") for name in line.partition(" [")[0].split()}


def check_measure(measure: str, where: str) -> None:
    """Refuse a measure that no notion ever records. Raises ConfigError, which begins with `where`."""
    name, _, inside = measure.removesuffix("]").partition("[")
    if any(row.is_foreign and name.startswith(notion) for notion, row in NOTIONS.items()):
        return  # a plug-in's notion names its measures after itself
    if name not in _KEYS:
        near = difflib.get_close_matches(name, _KEYS, 3) or ["gap", "test_accuracy"]
        raise ConfigError(f"{where}={measure}: nothing is measured under this name; there are, for example, {', '.join(near)}.")
    each = (key.partition("=") for key in _KEYS[name].split(",") if key)
    pattern = "".join(f"(,{key.rstrip('?')}=({values or _VALUE}))" + "?" * key.endswith("?") for key, _, values in each)
    if measure != name + (f"[{inside}]" if inside else "") or not re.fullmatch(pattern, f",{inside}" if inside else ""):
        keys = f"[{_KEYS[name]}], a key with ? may be left out" if _KEYS[name] else "nothing"
        raise ConfigError(f"{where}={measure}: {name} is followed by {keys}.")


# Cannot be negative by what they are. Gaps, cosines, the smallest eigenvalue and what a plug-in measures keep their own scale.
_POSITIVE = re.compile(
    r"sharpness|ascent_loss|\w*_loss$|(first|second)_order|limit_|average|maximum|n_step(?!_cosine|_gain)|adaptive_|keskar|lambda1_over_loss$|"
    r"(landscape_)?eigenvalue(?!_min)|trace|(grad|weight)_norm$|(mean_)?eps_over_rho$|spectrum_|ece$|epoch_seconds$"
)
_SHARE = re.compile(r"interior_(ray|ball)$|direction_(wins|edge|low)$|cos_gradient_top$|gradient_top_share$")  # from 0 to 1
_UP = re.compile(r"(last5_)?(test|val|corruption)_accuracy")
_DOWN = re.compile(r"(last5_)?(test|val|corruption)_loss|(error_)?gap(_\w+)?$|ece$")


def interval_scale(measure: str) -> str:
    """Scale of the measure's interval (a key of `statistics.SCALES`): logit for accuracies and shares, log for positive measures."""
    name = measure.partition("[")[0]
    return "logit" if name.endswith("accuracy") or _SHARE.match(name) else "log" if _POSITIVE.match(name) else ""


def direction(measure: str) -> int:
    """1: more is better, -1: less; 0: neither is known. Of what was seen in training alone, and of sharpness, nobody knows."""
    name = measure.partition("[")[0]
    return 1 if _UP.fullmatch(name) else -1 if _DOWN.fullmatch(name) else 0


SUBSET = "subset={subset}"


def filled(table: TableConfig, sharpness: SharpnessConfig, runs: Sequence[RunRow]) -> TableConfig | None:
    """Fill in "{m}" and "{subset}" ("{rho}" is left to `expand`), and drop optional columns that no run has, with all that refers to them.
    Returns None if the table is optional and none of its optional columns was measured."""
    names = {name for run in runs for name in run.measures}
    columns = [column for before in table.columns for column in available(before, names)]
    if table.optional and not any(column.optional for column in columns):
        return None
    keys = {column.key for column in columns}
    return replace(
        table,
        columns=[replace(column, header=column.header.replace("{m}", str(sharpness.m))) for column in columns],
        rows=[replace(row, published={k: ids for k, ids in row.published.items() if k in keys}) for row in table.rows],
        correlations=[c for c in table.correlations if {c.x, c.y} <= keys],
        notes=[note.replace("{m}", str(sharpness.m)) for note in table.notes],
    )


def check_columns(table: TableConfig) -> None:
    """Refuse columns that cannot be filled in, or must not be optional. Raises ConfigError."""
    for column in table.columns:
        if "{subset}" in column.measure and not re.search(rf"[\[,]{re.escape(SUBSET)}\]$", column.measure):
            raise ConfigError(f"columns: {column.key}.measure={column.measure}: {{subset}} must stand at its end, as in trace[{SUBSET}].")
        if ("{subset}" in column.measure) != ("{subset}" in column.header):
            raise ConfigError(f"columns: {column.key}: {{subset}} must stand in its measure and in its header, or in neither.")
        if column.optional and (column.key == table.primary or column.margin is not None):
            raise ConfigError(f"columns: {column.key}.optional=true: the test named in advance, and one of equivalence, need their column.")
        check_measure(column.measure, f"columns: {column.key}.measure")


def available(column: ColumnConfig, names: Collection[str]) -> list[ColumnConfig]:
    """One column per subset size for which this measure exists at any radius: the full set ("all") first, then by size. Where a measure of
    the full set was taken on subsets alone, these are shown, and the header says so."""
    pattern = lambda measure: re.escape(measure).replace(re.escape("{rho}"), r"[^,\]]+").replace(re.escape("{subset}"), r"(\d+)")
    having = lambda measure: [match for name in names if (match := re.fullmatch(pattern(measure), name))]
    whole = re.sub(rf"\[{re.escape(SUBSET)}\]$|,{re.escape(SUBSET)}(?=\]$)", "", column.measure)  # a name without it: all images
    part = f"{whole.removesuffix(']')}{',' if '[' in whole else '['}{SUBSET}]"
    found, sizes = ["all"] if having(whole) else [], sorted({match[1] for match in having(part)}, key=int)
    if "{subset}" in column.measure:
        found += sizes
    elif not found and sizes:
        column, found = replace(column, measure=part, header=f"{column.header}, {{subset}} images"), sizes
    if not found and column.optional:
        return []
    measures = {subset: whole if subset == "all" else column.measure.replace("{subset}", subset) for subset in found or ["all"]}
    return [replace(column, measure=name, header=column.header.replace("{subset}", subset)) for subset, name in measures.items()]


PUBLISHED_RHO = 0.05  # radius of the published sharpness: Tiwary & Aananth 2024, section 4.1


@dataclass(frozen=True)
class Column:
    """A column at one radius; rho is None if the measure has none."""

    config: ColumnConfig
    rho: float | None
    header: str
    measure: str

    def values(self, row: TableRow) -> dict[int, float | None]:
        """Seed -> value in the column's unit, for finished runs."""
        return row.values(self.measure, self.config.scale)

    def value(self, row: TableRow) -> Cell:
        if not row.ran:
            return Cell("value", ("not run",), self.header)
        values = self.values(row)
        top = self.config.scale * (1 if _SHARE.match(self.measure.partition("[")[0]) else 100)
        summary = summarize(values.values(), interval_scale(self.measure), top=top)
        lost = [self.measure in run.measures for seed, run in row.finished.items() if not is_finite(values[seed])]  # was it measured
        parts = ("no finite value",) if summary.n == 0 and any(lost) else summary_parts(summary, self.config.digits)
        parts = parts if any(lost) else tuple(part.replace("without a finite value", "not measured") for part in parts)
        if row.diverged:
            epochs = [r.diverged_epoch for r in row.diverged.values()]
            when = ", ".join("unknown" if e is None else str(e) for e in epochs)
            parts += (f"{len(row.diverged)} of {len(row.shown)} diverged", f"(epoch{'s' if len(epochs) > 1 else ''} {when})")
        seeds = tuple(s for s, v in values.items() if is_finite(v))
        folders = tuple(run.folder for run in row.shown)
        numbers = tuple(values.get(run.config.seed) for run in row.shown)
        return Cell("value", parts, self.header, summary, seeds=seeds, diverged=tuple(row.diverged), folders=folders, numbers=numbers)

    def published(self, row: TableRow, condition: Condition) -> list[Published]:
        ids = row.spec.published.get(self.config.key, [])
        whole = "subset=" not in self.measure and all(run.genuine for run in row.runs or condition.runs)
        here = whole and (self.rho is None or math.isclose(self.rho, PUBLISHED_RHO))
        config = row.config if row.changed else replace(condition.config, optimizer=row.optimizer)
        return [p for p in lookup(ids) if here and config is not None and matches(p, config)]


def expand(columns: Sequence[ColumnConfig], rhos: Sequence[float]) -> list[Column]:
    radii = [(c, rho, "{rho}" if rho is None else f"{rho:g}") for c in columns for rho in (rhos if c.each_rho else [None])]
    return [Column(c, rho, c.header.replace("{rho}", text), c.measure.replace("{rho}", text)) for c, rho, text in radii]
