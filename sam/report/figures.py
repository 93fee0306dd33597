"""Which figures a condition has, as panels: the finding, results over what was swept, curves over training and over kept checkpoints,
measures over radii and against the gap, series of the notions. `drawing` makes pictures of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sam.report import directions
from sam.report.looks import Look, Style, looks, method_name
from sam.report.panels import Axis, Panel, Series, Values, averaged, families, first_named, in_words, label, names_of, panel, stem, wide
from sam.report.planes import landscapes
from sam.report.swept import BANDED, CUT, KEYS, Anchors, points, swept, swept_key
from sam.tables.conditions import Condition, RunRow, baseline_for, conditions
from sam.tables.statistics import is_finite, paired_difference, summarize
from sam.text import counted

CROWD = 8  # settings: of more, curves show the best of each method
BAND = "Lines: mean over the finished seeds; bands: ± one sample standard deviation (both of logarithms, where the axis is logarithmic)."
EACH = f"{BAND} Where seeds were measured at different places, each is a thin line."
POINT = "A point is a run and leads to it."
OPENING = "Differences are over common seeds; whiskers: the 95% interval of their mean (none for fewer than three seeds)."
SWEPT = (
    f"{BAND} Fewer than {BANDED} seeds: each, a line through their means, and bands from the least to the largest. Level: without this key."
    f" Differences are of common seeds; an axis that ends at {-CUT} points is cut there."
)
TRAINING = {  # column of metrics.csv -> axis
    **{"test_accuracy": "Test accuracy (%)", "val_accuracy": "Validation accuracy (%)"},
    **{"train_loss": "Training loss (nats)", "test_loss": "Test loss (nats)"},
}
SERIES = (  # columns, axes, heading, caption
    (("eigenvalue", "density"), ("Eigenvalue of the Hessian", "Density"), "Spectra", "A line a seed; all panels have the same axes."),
    (("t", "loss"), ("t (0: the trained weights; unit: the direction)", "Training loss (nats)"), "Loss along lines", EACH),
    (("severity", "accuracy"), ("Severity of the corruption", "Accuracy (%)"), "Accuracy on corrupted images", EACH),
)
NATS = " (nats)"
SPLIT = "Density"  # has a panel a method, logarithmic, cut six decades below the peak

Kept = Mapping[str, Mapping[int, Mapping[str, float | None]]]  # folder of a run -> epoch -> measures of the checkpoint kept there
Section = tuple[str, list[Panel], str, bool]  # heading, panels, caption, folded away
Gallery = list[tuple[Condition, list[Section]]]


def anchors_of(runs: Iterable[RunRow]) -> dict[str, str]:
    return {run.folder: f"run-{i}" for i, run in enumerate(runs, 1)}


def gallery(runs: Sequence[RunRow], kept: Kept) -> Gallery:
    """Every condition's figures: first the finding, then all others. Names of panels begin with the condition's, if there are several:
    with what tells it from the others, if the names, once cut, would be the same."""
    anchors, found, made = anchors_of(runs), conditions(runs), Gallery()
    parts = [c.label.split(", ") for c in found]
    alike = len({stem(c.label) for c in found}) < len(found)
    for c, own in zip(found, parts, strict=True):
        told = ", ".join(part for part in own if len(found) > 1 and not (alike and all(part in other for other in parts)))
        every = sections(c, anchors, kept)
        named = [(heading, [replace(p, name=stem(told, p.title)) for p in panels], *rest) for heading, panels, *rest in every]
        made.append((c, named))  # type: ignore[arg-type]
    return made


def sections(condition: Condition, anchors: Anchors, kept: Kept) -> list[Section]:
    """All figures that the condition has data for. First, with or without a figure, what was found: differences from the baseline, and
    accuracy over what was swept, else sharpness against gap, of several settings."""
    of, note = shown(condition)
    key, over_key = swept_key(condition), swept(condition, anchors)
    leads = key not in ("", "ascent_steps")  # over the number of steps the differences show the results already
    curves, found = partial(lines, condition, of=of), list(families(condition.runs).items())
    training = [p for column, y in TRAINING.items() for p in curves(EPOCH, Axis(y), partial(_epochs, column), over="training")]
    searched = [look for look in looks(condition) if look.row.finished and getattr(look.row.optimizer, "alpha", 0) is None]
    alphas = lines(condition, EPOCH, Axis("α"), partial(_epochs, "alpha"), of=searched or of, over="training")
    scatter = [p for _, names in found[:1] for p in against_gap(condition, anchors, names)]
    others = [p for name, at in found[1:3] for p in (*against_gap(condition, anchors, at)[:1], *over_radii(curves, name, at))]
    missing = sum(len(look.row.finished) for look in looks(condition)) * len(scatter) - sum(len(one.x) for p in scatter for one in p.series)
    hidden = f" Not shown, without a finite value: {counted(missing, 'point')}." if missing else ""
    cut = " The accuracy axis is cut below, where the first climb would flatten what tells the methods apart."
    opening = [*differences(condition), *(over_key if leads else scatter)[: leads or len(of) > 1]]
    made: list[Section] = [
        (f"Results over {KEYS.get(key, key)}", over_key[leads:], SWEPT, False),
        ("Over training", training, BAND + note + (cut if any(p.y.low is not None for p in training) else ""), False),
        ("Along the kept checkpoints", along(condition, kept), BAND + note, False),
        ("Sharpness against gap", scatter[len(of) > 1 and not leads :], POINT + hidden, False),
        ("Sharpness over the measured ρ", [p for family in found[:1] for p in over_radii(curves, *family)], BAND + note, False),
        ("XSAM's α", alphas, f"At α = 1 XSAM's step is SAM's. {BAND}{note * (not searched)}", False),
        *((heading, series_curves(curves, condition, of, *own), caption + note, False) for *own, heading, caption in SERIES),
        ("Loss over planes", *landscapes(condition, of), False),
        ("Where the gradient at the ascent point leads", directions.directions(condition, of), directions.CAPTION, False),
        ("Other measures taken at a radius", others, f"{POINT} {BAND}{note}", True),
    ]
    lost = lambda panels: sum(series.lost for panel in panels for series in panel.series)
    said = lambda n: f" {n} value{'s that are' if n > 1 else ' that is'} not finite: in no mean." if n else ""
    further = [(heading, panels, caption + said(lost(panels)), folded) for heading, panels, caption, folded in made if panels]
    found_first: list[Section] = [("The finding", opening, f"{OPENING} {SWEPT}" if leads else OPENING, False), *further]
    if condition.config.loss == "cross_entropy":
        return found_first
    return [(heading, list(map(unitless, panels)), caption.replace(NATS, ""), folded) for heading, panels, caption, folded in found_first]


def unitless(panel: Panel) -> Panel:
    """Of a loss that is not counted in nats."""
    bare = lambda axis: replace(axis, label=axis.label.replace(NATS, ""))
    return replace(panel, words=panel.words.replace(NATS, ""), x=bare(panel.x), y=bare(panel.y))


def every(found: Gallery) -> Iterator[Panel]:
    """All panels but those folded away, each once."""
    for _, own in found:
        yield from {(panel.name, panel.title): panel for _, panels, _, folded in own if not folded for panel in panels}.values()


def shown(condition: Condition) -> tuple[list[Look], str]:
    """The settings that curves show, and a sentence on it: in a crowd, of each method the one with the best mean accuracy."""
    of = [look for look in looks(condition) if look.row.finished]
    if len(of) <= CROWD:
        return of, ""
    validated = all(is_finite(run.measures.get("val_accuracy")) for look in of for run in look.row.finished.values())
    name = "val_accuracy" if validated else "test_accuracy"
    ordered = sorted(of, key=lambda look: summarize(look.row.values(name, 1.0).values()).mean or 0.0)
    best = {method_name(look.row.optimizer): look for look in ordered}.values()
    return [look for look in of if look in best], f" Of each method, the setting with the best mean {in_words(name)}."


def differences(condition: Condition) -> list[Panel]:
    """Dot and whiskers of each method's mean paired difference from SGD in final test accuracy; without SGD, of the accuracy itself."""
    of = [look for look in looks(condition) if look.row.finished]
    baselines = [look.row for look in of if look.row.optimizer.method == "sgd"]
    found = []
    for look in of:
        own, base = look.row.values("test_accuracy", 1.0), baseline_for(look.row, baselines)
        s = summarize(own.values(), "logit") if base is None else paired_difference(own, base.values("test_accuracy", 1.0))
        if look.row not in baselines and s.mean is not None:
            found.append((look.style, s))
    dots = [Series(style, "whiskers", [s.mean], [i], [s.ci_low], [s.ci_high], n=s.n) for i, (style, s) in enumerate(found)]
    x = Axis("Test accuracy minus SGD's (points)" if baselines else "Test accuracy (%)")
    zero = [Series(Style(""), "mark", [0.0], [None])] if baselines else []
    y, title = Axis("", names=tuple(style.label for style, _ in found)), "Difference in test accuracy from SGD"
    return panel(condition.label, title if baselines else "Test accuracy by method", x, y, [*zero, *dots])


# ------------------------------------------------------------------------------------------------------------------ curves

EPOCH = Axis("Epoch", whole=True)
Curve = Callable[[RunRow], tuple[Values, Values]]
Curves = Callable[..., list[Panel]]  # `lines` of a condition and its methods


def lines(
    condition: Condition, x: Axis, y: Axis, values: Curve, *, of: Sequence[Look], over: str = "", title: str = "", each: bool = False
) -> list[Panel]:
    """One panel of curves (xs, ys) of the finished runs, averaged over a method's seeds, or each a thin line. Its title: y over `over`."""
    found = [(look, [(xs, ys) for run in look.row.finished.values() for xs, ys in [values(run)] if any(map(is_finite, ys))]) for look in of]
    accuracy = "%" in y.label
    y = replace(y, log=y.log or (not accuracy and wide((v for _, pairs in found for _, ys in pairs for v in ys), 20)))
    drawn = []
    for look, pairs in found:
        thin = [Series(look.style, "thin", xs, ys, lost=sum(not is_finite(v) for v in ys)) for xs, ys in pairs]
        drawn += thin if each else [averaged(look.style, pairs, y.log, len(look.row.diverged))] if pairs else []
    y = replace(y, low=_floor(drawn)) if accuracy and x.whole else y
    return panel(condition.label, title or f"{y.label.partition(' (')[0]} over {over}", x, y, drawn)


def _epochs(column: str, run: RunRow, x: str = "epoch") -> tuple[Values, Values]:
    rows = [row for row in run.epochs if column in row and x in row]
    return [row[x] for row in rows], [row[column] for row in rows]


def _floor(drawn: Sequence[Series]) -> float | None:
    """Lower limit of an axis for the last three quarters of the lines with their bands; None if it would cut nothing."""
    late = [v for one in drawn for edge in (one.y, one.low, one.high) for v in edge[len(one.x) // 4 :] if v is not None]
    low = min(late, default=0.0) - 0.08 * (max(late, default=0.0) - min(late, default=0.0))
    return low if any(y is not None and y < low for one in drawn for y in one.y) else None


def along(condition: Condition, kept: Kept) -> list[Panel]:
    """λ1, trace and alignment over the epochs of kept checkpoints, and sharpness against L(w) on the way."""
    if all(len(kept.get(run.folder, {})) < 2 for run in condition.runs):
        return []
    known = [replace(run, measures=measures) for run in condition.runs for measures in kept.get(run.folder, {}).values()]
    radii = [name for names in families(known).values() for name in names.values()][:1]
    names = [*first_named(known, "eigenvalue", "k=1"), *first_named(known, "trace"), *first_named(known, "cos_gradient_top"), *radii]
    names += [name for kind in ("share", "alpha", "wins") for name in first_named(known, f"direction_{kind}", "v=g1" * (kind == "share"))]
    rows: Any = lambda run: [{"epoch": epoch, **measures} for epoch, measures in sorted(kept.get(run.folder, {}).items())]
    at = replace(condition, runs=tuple(replace(run, epochs=rows(run)) for run in condition.runs))
    curves = partial(lines, at, of=shown(at)[0])
    panels = [p for name in names for p in curves(EPOCH, Axis(label(name)), partial(_epochs, name), over="kept checkpoints")]
    way = "Sharpness against L(w) over training, a line a run"
    loss = Axis(label("train_loss"), log=wide((run.measures.get("train_loss") for run in known), 10))
    return panels + [
        p for name in radii for p in curves(loss, Axis(label(name)), partial(_epochs, name, x="train_loss"), title=way, each=True)
    ]


def series_curves(curves: Curves, condition: Condition, of: Sequence[Look], columns: Sequence[str], axes: Sequence[str]) -> list[Panel]:
    """A panel a series with these columns, or a series and method."""
    panels, (x, y), split = list[Panel](), columns, axes[1] == SPLIT
    for name in names_of(condition, x, y):
        found = {run.folder: run.series[name] for look in of for run in look.row.finished.values() if name in run.series}
        values = lambda run, found=found: (found[run.folder][x], found[run.folder][y]) if run.folder in found else ((), ())
        peak = max((v for s in found.values() for v in s[y] if v is not None), default=0.0) if split else 0.0
        places = [v for s in found.values() for v in s[x] if is_finite(v)] if peak > 0 else []
        across = Axis(axes[0], low=min(places, default=None), high=max(places, default=None))
        up = Axis(axes[1], log=peak > 0, low=peak * 1e-6 or None, high=peak * 2 or None)
        differ = len({repr(s[x]) for s in found.values()}) > 1
        for own in [[look] for look in of] if split else [of]:
            title = label(name, f", {own[0].style.label}" if split else "")
            panels += curves(across, up, values, of=own, title=title, each=split or differ)
    return panels


# ------------------------------------------------------------------------------------------------------------ radii and gap


def against_gap(condition: Condition, anchors: Anchors, names: Mapping[float, str]) -> list[Panel]:
    """Scatter of a measure against the gap at each radius, a linked point a finished run; in a crowd, a look a method."""
    panels, of, first = list[Panel](), looks(condition), dict[str, Style]()  # of each method
    for name in names.values():
        drawn = []
        for look in of:
            style, own = look.style, look.row.optimizer
            style = replace(first.setdefault(method_name(own), style), label=method_name(own), dash=0) if len(of) > CROWD else style
            pairs = [(run.measures.get(name), run.measures.get("gap"), run) for run in look.row.finished.values()]
            drawn.append(points(style, pairs, anchors, len(look.row.diverged)))
        x = Axis(label(name), log=wide((v for one in drawn for v in one.x), 10))
        panels += panel(condition.label, f"{label(name, '')}, against the generalisation gap", x, Axis(label("gap")), drawn)
    return panels


def over_radii(curves: Curves, family: str, names: Mapping[float, str]) -> list[Panel]:
    """A measure over the radii at which it was taken, if there are several."""
    x = Axis("Measured ρ", log=wide(names, 3.9))
    values = lambda run: (list(names), [run.measures.get(name) for name in names.values()])
    return curves(x, Axis(label(family)), values, over="the measured ρ") if len(names) > 1 else []
