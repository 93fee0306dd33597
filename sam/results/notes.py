"""What must be said under a block."""

from __future__ import annotations

from collections.abc import Sequence

from sam.config import TableConfig
from sam.results.blocks import Cell
from sam.results.columns import Column
from sam.results.contexts import Context
from sam.results.groups import Group
from sam.results.published import Published, citations


def notes(
    table: TableConfig,
    context: Context,
    groups: Sequence[Group],
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    published: Sequence[Published],
) -> tuple[str, ...]:
    """Everything that must be said under the block, once each, in order."""
    used = [run for g in groups for run in (*g.finished.values(), *g.diverged.values())]
    given = [*table.notes, *(note for run in used for note in run.config.protocol.notes)]
    conditions = {"noise: ": context.noisy, "clean: ": not context.noisy, "published: ": bool(published)}
    lines = [f"Layout after {table.source}."] if table.source else []
    for note in given:
        prefix = next((p for p in conditions if note.startswith(p)), "")
        if not prefix or conditions[prefix]:
            lines.append(note.removeprefix(prefix))
    lines += _notes_on_numbers(table, groups, rows)
    measures = [column.config.measure for column in columns]
    if any("accuracy" in m for m in measures):
        lines.append("Accuracy is that of the final epoch.")
    if "gap" in measures:
        lines += _notes_on_gap(context)
    lines += citations(published)
    prints = dict.fromkeys(run.data_fingerprint or "unknown" for run in used)
    lines.append(f"Data fingerprint: {', '.join(prints)}.")
    lines += [note for run in used for note in run.data_notes]
    return tuple(dict.fromkeys(lines))


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
