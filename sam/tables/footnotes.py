"""Footnotes of a block: how its numbers were made, tested and published; and the verdict below it."""

import math
from collections.abc import Iterator, Mapping, Sequence

from data import known
from sam.optimizers.settings import METHODS
from sam.settings import TrainConfig
from sam.tables.cells import Block, Cell
from sam.tables.comparisons import tost_text
from sam.tables.conditions import Condition, RunRow, TableRow, value_text
from sam.tables.published import Published, citations
from sam.tables.settings import ColumnConfig, TableConfig
from sam.tables.statistics import MIN_RUNS, MIN_SEEDS, Paired, decimals, fixed, p_short, rounded
from sam.text import counted, printable


def footnotes(
    table: TableConfig, condition: Condition, rows: Sequence[TableRow], block: Block, shown: Sequence[Published]
) -> Iterator[str]:
    """All footnotes of the block, in order; some come several times."""
    used = [run for row in rows for run in row.shown]
    if table.source:
        yield f"Layout after {table.source}."
    yield trained_by(condition.config)
    for config, notes in ((condition.config, table.notes), *((run.config, run.config.protocol.notes) for run in used)):
        yield from said_of(config, notes, bool(shown))
    for row in rows:
        if row.changed:
            changes = (f"{key} {value_text(value)} instead of {value_text(condition.key[key])}" for key, value in row.changed.items())
            yield f"{row.label}: {', '.join(changes)}; all else as in the other rows."
    if extra := [row.label for row in rows if row.extra]:
        yield f"{', '.join(extra)}: in no row of this layout; shown as description, and in no family of tests."
    yield from _notes_on_numbers(rows, block.rows)
    yield from _notes_on_tests(table, block.rows)
    if runs := max((c.across.n for c in block.correlations), default=0):
        yield from _CORRELATIONS if runs >= MIN_RUNS else [f"Rank correlations are printed from {MIN_RUNS} runs on; here are {runs}."]
    measures = [column.measure for column in table.columns]
    if any("accuracy" in m for m in measures):
        yield "Accuracy is that of the final epoch."
    if "gap" in measures:
        yield from _notes_on_gap(condition)
    for run in used:
        yield from _notes_on_rounding(run)
        o = run.config.optimizer
        if o.method == "xsam" and o.weight_decay_mode == "loss" and o.weight_decay:
            yield _XSAM_DECAY
    yield from citations(shown)
    yield f"Data fingerprint: {', '.join(dict.fromkeys(run.data_fingerprint or 'unknown' for run in used))}."
    for run in used:
        yield from known.notes(run.data_fingerprint, run.data_notes)


def said_of(config: TrainConfig, notes: Sequence[str], published: bool = False) -> Iterator[str]:
    """Those of the notes that hold here, without their condition."""
    noisy = config.dataset.label_noise > 0
    only_if = {"noise: ": noisy, "clean: ": not noisy, "published: ": published}
    for note in notes:
        prefix = next((p for p in only_if if note.startswith(p)), "")
        if not prefix or only_if[prefix]:
            yield note.removeprefix(prefix)


def trained_by(c: TrainConfig) -> str:
    """The training recipe shared by all rows, in one line."""
    o, a = c.optimizer, c.augmentation
    m = f", perturbed in groups of {c.group_size} (m)" if c.group_size else ", one perturbation a batch"
    share = c.dataset.val_size or (f"{100 * c.dataset.val_fraction:g}% of the" if c.dataset.val_fraction else "")
    held = f" ({share} training images held out for validation)" if share else ""
    schedule = {"cosine_step": "cosine per step", "cosine_epoch": "cosine per epoch", "wrn_step": "x0.2 at 30, 60, 80%"}
    warmup = f" after {counted(c.warmup_epochs, 'epoch')} of warm-up" if c.warmup_epochs else ""
    where = f"in the {o.weight_decay_mode}{'' if o.weight_decay_scope == 'all' else ', without normalisation and biases'}"
    cutout = f"Cutout {a.cutout}" + (f" at {a.cutout_probability:g}" if a.cutout_probability < 1 else "")
    crop = f"crop {a.crop_padding} ({a.padding_mode})"
    sgd = f"momentum {o.momentum:g}{' (Nesterov)' if o.nesterov else ''}"
    base = sgd if o.base == "sgd" else f"AdamW, betas {', '.join(f'{b:g}' for b in o.betas)}"
    used = {"flip": a.flip, crop: a.crop_padding, a.policy: a.policy != "none", cutout: a.cutout}
    pictures = [text for text, here in used.items() if here]
    return (
        f"Trained by: {counted(c.epochs, 'epoch')}{held}, batch {c.batch_size}{m},"
        f" last partial batch {'dropped' if c.drop_last else 'kept'};"
        f" lr {o.lr:g}, {schedule.get(c.schedule, c.schedule)}{warmup}; {base};"
        f" weight decay {o.weight_decay:g}{f' {where}' if o.weight_decay else ''}; augmentation {', '.join(pictures) or 'none'};"
        f" {f'clipping at {o.grad_clip:g}' if o.grad_clip else 'no clipping'};"
        f"{'' if c.loss == 'cross_entropy' else f' loss {c.loss};'}"
        f"{f' label smoothing {c.label_smoothing:g};' if c.label_smoothing else ''} precision {c.precision}."
    )


def _notes_on_numbers(rows: Sequence[TableRow], lines: Sequence[Sequence[Cell]]) -> Iterator[str]:
    cells = [(row, cell) for row, line in zip(rows, lines, strict=True) for cell in line]
    summaries = [cell.summary for _, cell in cells if cell.summary is not None]
    moved = {s.scale for s in summaries if s.scale and s.std and s.ci_low is not None}
    scales = {"logit": "accuracies and shares on the logit scale", "log": "positive measures on the log scale"}
    where = " and ".join(text for name, text in scales.items() if name in moved)
    yield "± is the sample standard deviation over seeds; [ ] is the 95% confidence interval of the mean (Student's t); n counts seeds."
    if moved:
        yield (
            f"Intervals of {where} are taken there and transformed back: of a centre near the median, within the measure's bounds, not"
            " symmetric about the mean, and with a seed far out beside it."
        )
    if any(s.std and s.ci_low is None for s in summaries):
        yield f"Below {MIN_SEEDS} seeds, or with a seed at 0 or 100%, the smallest to the largest value in place of an interval."
    if any(cell.best for _, cell in cells):
        yield (
            "Bold: the best mean of its column, of rows without a diverged run, and what the 95% interval of the paired difference (below"
            " three common seeds, the overlap of the values) does not tell apart from it. It describes, and is not corrected for the"
            " number of rows."
        )
    lists = {row.label: sorted({*row.finished, *row.diverged}) for row in rows if row.ran}
    seeds = {label: f"{', '.join(map(str, own))} ({len(own)})" for label, own in lists.items()}
    if len(set(seeds.values())) == 1:
        yield f"Seeds of every row that was run: {next(iter(seeds.values()))}."
    else:
        yield "Seeds: " + "; ".join(f"{label}: {text}" for label, text in seeds.items()) + "."
    if single := dict.fromkeys(row.label for row, cell in cells if cell.summary is not None and cell.summary.n == 1):
        yield f"{', '.join(single)}: one seed: no spread can be given."
    for row, cell in cells:
        if cell.paired is not None and 0 < cell.paired.n < len(row.finished):  # without one the cell says so itself
            common = ", ".join(map(str, cell.paired.seeds))
            yield f"{cell.column}, {row.label} against {cell.baseline}: common seeds {common} (n = {cell.paired.n})."
    if any(row.diverged for row in rows):
        yield "Diverged runs are counted, and are in no mean, interval or difference: the numbers of that row are of the survivors."
    for row in rows:
        yield from (f"{row.label}: seed {run.config.seed} was run more than once; {run.folder} is left out." for run in row.duplicates)


def _notes_on_tests(table: TableConfig, lines: Sequence[Sequence[Cell]]) -> Iterator[str]:
    """Explain the difference cells, and name the test declared in advance."""
    cells = [cell for line in lines for cell in line if cell.kind == "difference"]
    found = [cell.comparison for cell in cells if cell.comparison is not None]
    if not cells:
        return
    yield (
        f"Differences are the row minus row {table.baseline}, paired by seed: mean, [95% confidence interval] (Student's t), p of the"
        " two-sided paired t test. Welch p: the two-sided test without pairing, as description only."
    )
    headers = dict.fromkeys(cell.column for cell in cells if cell.comparison is not None and cell.comparison.primary)
    number = next((c.tests for c in found if c.tests), 0)  # of tests named in advance
    if headers:
        tests = counted(number, "test") if number else "no test could be made"
        yield (
            f"The layout's test, named in advance (a study's plan may name others): {', '.join(headers)}, at level {table.alpha:g} after"
            f" Holm's correction within this block ({tests}); Holm: the corrected p. Other differences are exploratory, not corrected."
        )
    elif found:
        yield "No test was named in advance: all differences are exploratory, and not corrected for the number of comparisons."
    if any(c.detectable is not None for c in found):
        level = f"{table.alpha:g}"
        level += f"/{number} (Holm's strictest; {level} in exploratory columns)" if number > 1 else ""
        yield (
            f"Minimum detectable difference: the smallest true difference that the paired test at level {level} finds with"
            f" {table.power:.0%} power at this n, if the spread of the differences seen here is the true one."
        )
    if any(c.equivalence is not None for c in found):
        yield (
            f"TOST: two one-sided paired t tests, the larger p, level {table.alpha:g}, not part of Holm's family; equivalent: the"
            f" {1 - 2 * table.alpha:.0%} confidence interval of the difference lies within the margin. Equivalence not"
            " established does not mean that a difference was shown."
        )


_CORRELATIONS = (
    "Rank correlation is Spearman's, of finished runs. All runs: whatever their method; within methods: of the ranks within each method"
    " (Taylor 1987); between methods: of the methods' means. They can differ in sign, and none of them is a cause.",
    "[ ] beside a rank correlation is an approximate 95% interval. All runs, within methods: over new seeds of these methods, the wider"
    " of Bonett & Wright's (runs as independent) and a jackknife's over seeds (which the methods share); between methods: over new"
    " methods (Bonett & Wright). None is given at ±1, for fewer than 4 points, or over fewer than 3 seeds.",
)


def verdict(table: TableConfig, rows: Sequence[TableRow], lines: Sequence[Sequence[Cell]]) -> str:
    """What the table can show, what its tests found, and what it does not show, in one line; empty if there is nothing to say."""
    every = {column: [*_told(told, same, len(rows)), *rest] for column, told, same, rest in _tested(table, rows, lines)}
    found = [f"{column}: {'; '.join(texts)}" for column, texts in every.items() if texts]
    parts = {"Shows": table.shows, "Found": "; ".join(found), "Does not show": table.shows_not}
    return " ".join(f"{name}: {text}." for name, text in parts.items() if text)


FEW = 3  # clauses of a finding


def finding(table: TableConfig, rows: Sequence[TableRow], lines: Sequence[Sequence[Cell]]) -> str:
    """What the test named in advance found, in one sentence; without one the best of the first column that has a best."""
    found = [(column, told, same) for column, told, same, _ in _tested(table, rows, lines) if told or same]
    if found:
        named = lambda column: "" if "accuracy" in column.lower() else f"{column}: "
        return "; ".join(named(column) + "; ".join(_told(told, same, FEW)) for column, told, same in found) + "."
    first = next((own[0].column for own in zip(*lines, strict=True) if any(cell.best for cell in own)), "")
    name = lambda label: f"{table.row_header} {label}" if label[:1].isdigit() else label
    best = [(name(row.label), cell) for row, line in zip(rows, lines, strict=True) for cell in line if cell.best and cell.column == first]
    texts = [f"{label} ({cell.parts[0]}, n {cell.summary.n})" for label, cell in best if cell.summary is not None]
    be, ties = ("is", "") if len(texts) == 1 else ("are", ", not told apart")
    return f"{first}: best {be} {', '.join(texts)}{ties}; nothing was tested." if texts else ""


def _told(told: Sequence[str], same: Mapping[str, Sequence[str]], most: int) -> list[str]:
    """What differs and what does not, in clauses; of more than `most` clauses or names the number."""
    clauses = [*told[:most], *([f"{len(told) - most} more differ"] if len(told) > most else [])]
    for base, names in same.items():
        listed = f"{len(names)} rows" if len(names) > most else " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        clauses.append(f"{listed} {'is' if len(names) == 1 else 'are'} not told apart from {base}")
    return clauses


def _tested(
    table: TableConfig, rows: Sequence[TableRow], lines: Sequence[Sequence[Cell]]
) -> Iterator[tuple[str, list[str], dict[str, list[str]], list[str]]]:
    """Per column: its header, what differs, what is not told apart from which baseline, and what could not be tested or is equivalent;
    without exploratory differences."""
    name = lambda label: f"{table.row_header} {label}" if label[:1].isdigit() else label
    every = [(row.label, cell) for row, line in zip(rows, lines, strict=True) for cell in line if cell.comparison is not None]
    lost = {printable(row.label): len(row.diverged) for row in rows}
    named = next((column for column in table.columns if column.key == table.primary), ColumnConfig())
    for column in dict.fromkeys(cell.column for _, cell in every):
        told, same, untested, equal = list[str](), dict[str, list[str]](), list[str](), list[str]()
        for own, cell in every:
            c, d, label, base = cell.comparison, cell.paired, name(own), name(cell.baseline)
            gone = lost[printable(own)] + lost[cell.baseline]
            if cell.column != column or c is None or d is None:
                continue
            if c.p_holm is not None and c.significant:
                told.append(f"{label} is {_size(d, base, named)} (Holm {p_short(c.p_holm)}, n {d.n}{f', {gone} diverged' * bool(gone)})")
            elif c.p_holm is not None:
                same.setdefault(base, []).append(f"{label} ({p_short(c.p_holm)})")
            elif c.primary:
                untested.append(f"{label} against {base}")
            if c.equivalence is not None:
                margin, tost = f"within ±{c.equivalence.margin:g}", tost_text(c.equivalence)
                known = f"{label} is equivalent to {base} {margin}", f"equivalence of {label} and {base} {margin} not established {tost}"
                equal.append(known[0] if c.equivalence.shown else known[1])
        yield column, told, same, [*([f"no test possible for {', '.join(untested)}"] if untested else []), *equal]


def _size(d: Paired, base: str, column: ColumnConfig) -> str:
    """ "above SGD by 8.76 points [7.97, 9.55]": the difference without its sign."""
    assert d.mean is not None
    sign, digits, unit = math.copysign(1, d.mean), decimals(d.std, column.digits), " points" if "accuracy" in column.measure else ""
    ends = () if d.ci_low is None or d.ci_high is None else sorted((sign * d.ci_low, sign * d.ci_high))
    interval = f" [{', '.join(fixed(end, digits) for end in ends)}]" if ends else ""
    return f"{'above' if sign > 0 else 'below'} {base} by {rounded(abs(d.mean), digits)}{unit}{interval}"


def _notes_on_gap(condition: Condition) -> Iterator[str]:
    """Define the gap. Expected values: cross-entropies of WRN-28-10 in eval mode, lines u01 to u06 of paper_values.csv."""
    if condition.config.dataset.label_noise:
        yield "Gap: test loss in expectation over the label channel minus noisy training loss."
        return
    yield "Gap: mean test loss - mean loss on the unaugmented training set, both in eval mode."
    named = condition.config.dataset.name if condition.config.model.label == "WRN-28-10" and condition.runs[0].genuine else ""
    if named == "cifar10":
        yield (
            "An SGD gap near 130-160 ×10³ is expected here in eval mode, while Tiwary & Aananth 2024 print 46-48 ×10³ for SAM:"
            " their definition may differ."
        )
    if named == "cifar100":
        yield "An SGD gap near 800-870 ×10³ is expected here in eval mode; Tiwary & Aananth 2024 print none for CIFAR-100."


FORMATS = {"bf16": "bf16 autocast", "fp16": "fp16 autocast", "tf32": "tf32"}
_XSAM_DECAY = (
    "XSAM with weight decay in the loss is not the released algorithm: there decay stays in SGD, and neither the perturbation nor"
    " the search sees it (optimizer.weight_decay_mode=optimizer)."
)


def _notes_on_rounding(run: RunRow) -> Iterator[str]:
    """Warn of a perturbation that the run's number format does not resolve: by the readable rho, where the notion `rounding` found it for
    the trained weights; else by rule, of Rand-SAM in 16 bits."""
    o, method, to = run.config.optimizer, METHODS[run.config.optimizer.method].label, run.config.precision
    if to not in FORMATS or "rho" not in o.used_keys:
        return
    along = "random" if o.method == "rand_sam" else "gradient"
    found = [value for name, value in run.measures.items() if name.startswith(f"rounding_readable[to={to},along={along}")]
    said = f"{method} at rho {o.rho:g} in {FORMATS[to]}: rounding the weights perturbs them too,"
    if found and (found[0] is None or o.rho < found[0]):
        edge = "and at every rho" if found[0] is None else f"and below rho {found[0]:.2g}, measured at the trained weights,"
        rest = "the row is not interpretable" if along == "random" else "the row is of another one, whose part along the gradient is kept"
        yield f"{said} {edge} turns the perturbation too far (rounding in docs/measures.md); {rest}."
    if not found and o.method == "rand_sam" and to != "tf32":
        yield f"{said} at a small rho by more than the method does; the row is not interpretable."
