"""Figures over a swept key: a line a method, a level where a method does not read the key, and paired differences from SGD."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from sam.optimizers.settings import METHODS
from sam.report.looks import Look, Style, looks, method_name
from sam.report.panels import Axis, Panel, Series, averaged, families, first_named, label, panel, spread, wide
from sam.schema import to_dict
from sam.tables.conditions import Condition, RunRow, grouped, is_number
from sam.tables.statistics import finite_pairs, is_finite

BANDED = 5  # seeds: of fewer, a sweep shows each
CUT = 10  # points: differences further below the baseline's are beyond the axis
PAPERS_RHO = 0.05
KEYS = {"rho": "the ρ of training", "ascent_steps": "the number of ascent steps"}

Anchors = Mapping[str, str]  # folder of a run -> id of its entry in the page


def swept_key(condition: Condition) -> str:
    """The numeric key with most values within a method, the number of steps after all others; "" if none has two."""
    used = [look.row.optimizer for look in looks(condition) if look.row.finished]
    values = dict.fromkeys((key, o.method, value) for o in used for key in o.used_keys if is_number(value := getattr(o, key)))
    number = Counter((key, method) for key, method, _ in values)
    most = {key: max(n for (other, _), n in number.items() if other == key) for key, _ in number}
    return max((k for k in most if most[k] > 1), key=lambda k: (k != "ascent_steps", most[k], k == "rho"), default="")


def swept(condition: Condition, anchors: Anchors) -> list[Panel]:
    """Accuracies, sharpness, λ1 and L(w) over the swept key, a line a method; methods without the key are levels."""
    key, reads = swept_key(condition), lambda look: key in look.row.optimizer.used_keys and is_number(getattr(look.row.optimizer, key))
    rest = lambda look: repr([item for item in to_dict(look.row.optimizer).items() if not reads(look) or item[0] != key])
    groups = grouped([look for look in looks(condition) if key], rest)
    places = [float(getattr(o.row.optimizer, key)) for of in groups.values() for o in of if reads(o)]
    mark = Series(Style(""), "mark", [PAPERS_RHO], [None], names=["papers' ρ"])
    papers = [mark] if key == "rho" and min(places) <= PAPERS_RHO <= max(places) else []
    radii = [name for names in families(condition.runs).values() for name in names.values()]
    whole, panels = key == "ascent_steps", list[Panel]()
    x, over = Axis(label(KEYS.get(key, key)), log=not whole and wide(places, 3.9), whole=whole), f"over {KEYS.get(key, key)}"
    accuracies = [f"{split}_accuracy{kind}" for split in ("test", "val") for kind in ("", "[bn=recalibrated]")]
    others = [*radii[:1], *first_named(condition.runs, "second_order"), *first_named(condition.runs, "eigenvalue", "k=1"), "train_loss"]
    for name in (*accuracies, *others):
        values = [run.measures.get(name) for run in condition.runs if run.is_finished]
        y = Axis(label(name), log=name not in accuracies and wide(values, 10))
        own = lambda look, name=name: look.row.values(name, 1.0)
        drawn = [s for of in groups.values() for s in _over_key(of, key, own, y.log, anchors)]
        panels += panel(condition.label, f"{label(name, '')} {over}", x, y, [*drawn, *papers])
    base = [of[0] for of in groups.values() if of[0].row.optimizer.method == "sgd" and of[0].row.finished]
    for name in [name for name in accuracies if base and any(is_finite(run.measures.get(name)) for run in condition.runs)][-1:]:
        sgd = base[0].row.values(name, 1.0)
        above = lambda look, name=name, sgd=sgd: {s: v - w for s, (v, w) in finite_pairs(look.row.values(name, 1.0), sgd).items()}
        drawn = [s for of in groups.values() if of[0] not in base for s in _over_key(of, key, above, False, anchors)]
        low = min((v for one in drawn for v in one.y if v is not None), default=0.0)
        y = Axis(f"{label(name, '')} minus SGD's (points)", low=-CUT if low < -CUT else None)
        level = Series(base[0].style, "level", [None], [0.0], [None], [None], n=sum(map(is_finite, sgd.values())))
        differences = panel(condition.label, f"{label(name, '')}, minus SGD's {over}", x, y, [level, *drawn, *papers])
        panels = [*differences, *panels] if drawn else panels  # the finding: it opens the report
    return panels


def _over_key(of: Sequence[Look], key: str, values: Callable[..., Mapping[int, float | None]], log: bool, anchors: Anchors) -> list[Series]:
    """A line through the means with its band, or with single seeds; a level for a method without the key."""
    style, diverged = of[0].style, sum(len(look.row.diverged) for look in of)
    seeds = max(sum(map(is_finite, values(look).values())) for look in of)
    if key not in of[0].row.optimizer.used_keys or not is_number(getattr(of[0].row.optimizer, key)):  # alpha=null: a search
        mean, low, high = spread(values(of[0]).values(), log, seeds < BANDED)
        return [Series(style, "level", [None], [mean], [low], [high], n=seeds, diverged=diverged)]
    inside = re.search(r"\((.*)\)$", style.label)
    rest = [part for part in (inside[1].split(", ") if inside else []) if not part.startswith(f"{key} ")]
    method = METHODS[of[0].row.optimizer.method].label if key == "ascent_steps" else method_name(of[0].row.optimizer)
    style = replace(style, label=method + (f" ({', '.join(rest)})" if rest else ""))
    found = [(float(getattr(o.row.optimizer, key)), v, o.row.finished[seed]) for o in of for seed, v in values(o).items()]
    line = replace(averaged(style, [([at], [value]) for at, value, _ in found], log, diverged), n=seeds)
    single = replace(points(style, found, anchors, diverged), n=seeds)
    return [line] if seeds >= BANDED else [replace(line, kind="thin", low=(), high=(), n=0), single]


def points(style: Style, found: Iterable[tuple[float | None, float | None, RunRow]], anchors: Anchors, diverged: int = 0) -> Series:
    """A point a run, with its name and the link to it."""
    good = [(x, y, run) for x, y, run in found if is_finite(x) and is_finite(y)]
    names = [f"{style.label}, seed {run.config.seed}: {x:.4g}, {y:.4g}" for x, y, run in good]
    links = [f"#{anchors.get(run.folder, '')}" for *_, run in good]
    x, y = [x for x, *_ in good], [y for _, y, _ in good]
    return Series(style, "points", x, y, names=names, links=links, n=len(good), diverged=diverged)
