"""What the walks show: effects of each starting point, contrasts over them, figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sam.report.looks import Style
from sam.report.panels import Axis, Panel, Series, averaged, panel
from sam.tables.statistics import paired_difference
from sam.theory.network import sam_edge
from sam.theory.settings import NetworkConfig
from sam.theory.toys import ENDS, START
from sam.theory.walks import Record

Walks = Mapping[tuple[str, int], Sequence[Record]]  # (arm, starting point)
Row = dict[str, Any]
# Arm -> colour, dash; the colours are those that the methods have in the other figures.
_LOOKS = {"GD": (0, 0), "SGD, batch 1": (7, 1), "SAM": (2, 0), "SAM, batch 1": (3, 1), "GD on L^Asc": (5, 3), "Rand-SAM": (1, 2)}
LOOKS = {name: Style(name, colour, dash, colour) for name, (colour, dash) in _LOOKS.items()}
EIGENVALUES = {"top": "λ1", "trace": "trace", "smallest": "λ_M"}
COSINES = ("cosine", "near_top", "cosine_smallest")
LATE = 10  # an end is the mean over the last tenth of the records
DIFFERENCES: tuple[tuple[str, str, str, str, str, Callable[[Row], float]], ...] = (  # claim, what, arm, minus arm, expected, of an effect
    ("8", "Δ log λ1", "SAM", "GD", "below 0", lambda e: e["top"]),
    ("8", "mean |cos| with the top eigenvector", "SAM", "GD", "above 0", lambda e: e["cosine"]),
    ("9", "Δ log Tr - Δ log λ1", "SAM, batch 1", "SAM", "below 0", lambda e: e["trace"] - e["top"]),
    ("10", "Δ log λ_M", "GD on L^Asc", "GD", "below 0", lambda e: e["smallest"]),
    ("beside 8", "mean |cos| with all eigenvectors within a tenth of λ1", "SAM", "GD", "above 0", lambda e: e["near_top"]),
    ("beside 9", "Δ log Tr", "SAM, batch 1", "SGD, batch 1", "below 0", lambda e: e["trace"]),
    ("beside 9", "Δ log λ1", "SAM, batch 1", "SAM", "", lambda e: e["top"]),
    ("beside 10", "Δ log λ1", "GD on L^Asc", "GD", "", lambda e: e["top"]),
    ("beside 10", "Δ log λ_M", "SAM", "GD", "", lambda e: e["smallest"]),
    ("beside 10", "mean |cos| with the eigenvector of λ_M", "GD on L^Asc", "SAM", "above 0", lambda e: e["cosine_smallest"]),
    ("beside 10", "Δ log λ_M - Δ log λ1", "GD on L^Asc", "SAM", "below 0", lambda e: e["smallest"] - e["top"]),
)


def effects(walks: Walks) -> list[Row]:
    """Of each walk: change of the logarithm of each eigenvalue from the start to the end, and the mean |cos| on the way."""
    found = []
    for (arm, start), rows in walks.items():
        late = rows[-max(1, (len(rows) - 1) // LATE) :]
        change = {name: math.fsum(math.log(row[name] / rows[0][name]) for row in late) / len(late) for name in EIGENVALUES}
        change["trace_over_top"] = change["trace"] - change["top"]
        means = {name: math.fsum(row[name] for row in rows[1:]) / (len(rows) - 1) for name in COSINES}
        found.append({"arm": arm, "start": start, **change, **means, "random_level": rows[0]["random_level"], "loss": late[-1]["loss"]})
    return found


def contrasts(walks: Walks) -> list[Row]:
    """Paired differences between arms over the starting points, with the 95% interval of Student's t."""
    found = effects(walks)
    of = lambda arm, value: {e["start"]: value(e) for e in found if e["arm"] == arm}
    rows = []
    for claim, what, arm, other, expected, value in DIFFERENCES:
        d = paired_difference(of(arm, value), of(other, value))
        shown = {"mean": d.mean, "ci_low": d.ci_low, "ci_high": d.ci_high, "n": d.n, "p": d.p}
        rows.append({"claim": claim, "effect": what, "difference": f"{arm} - {other}", "expected": expected, **shown})
    return rows


def of_toy(walks: Walks) -> list[Panel]:
    """Where the methods go along the minimisers of the toy, and what their gradients align with on the way."""
    paths = [Series(LOOKS[arm], "line", [r["x1"] for r in rows], [r["x2"] for r in rows]) for (arm, _), rows in walks.items()]
    places = {"start": START[:2], **ENDS}
    marks = Series(Style(""), "named", [x for x, _ in places.values()], [y for _, y in places.values()], names=list(places))
    title, x1 = "Three notions of sharpness, three ends", Axis("x1 (minimisers: x3 = x4 = 0)", low=-0.08, high=1.2)
    panels = panel("", title, x1, Axis("x2", low=-0.1, high=1.15), [*paths, marks])
    for name, words in (("cos_top", "the direction of F1, the top eigenvalue"), ("cos_smallest", "the direction of F2, the smallest")):
        lines = [Series(LOOKS[arm], "line", part(rows), smooth([r[name] for r in rows])) for (arm, _), rows in walks.items()]
        panels += panel("", f"Alignment of the gradient with {words}", PART, Axis("|cos|", low=0, high=1.05), lines)
    return panels


PART = Axis("Share of the arm's steps")


def part(rows: Sequence[Record]) -> list[float]:
    return [row["step"] / rows[-1]["step"] for row in rows]


def smooth(values: Sequence[float], width: int = 9) -> list[float]:
    """Means over `width` neighbours: an alignment jumps from one step to the next."""
    near = [[v for v in values[max(0, i - width // 2) : i + width // 2 + 1] if math.isfinite(v)] for i in range(len(values))]
    return [math.fsum(v) / len(v) if v else math.nan for v in near]


def of_network(config: NetworkConfig, walks: Walks) -> list[Panel]:
    """Eigenvalues relative to the start, alignment, loss, λ1 beside the SAM edge, and the contrasts; the folder says which network."""
    arms, panels = dict.fromkeys(arm for arm, _ in walks), list[Panel]()
    paths = lambda arm, value: [(part(rows), value(rows)) for (own, _), rows in walks.items() if own == arm]
    lines = lambda value, log: [averaged(LOOKS[arm], paths(arm, value), log) for arm in arms]
    for name, words in EIGENVALUES.items():
        relative = lines(lambda rows, name=name: [row[name] / rows[0][name] for row in rows], False)
        panels += panel("", f"{words} relative to the starting point", PART, Axis(f"{words} / its start"), relative)
    (level,) = {rows[0]["random_level"] for rows in walks.values()}
    random = Series(Style("random direction", 8, 2, 8), "level", [None], [level], [None], [None])
    cosines = lines(lambda rows: smooth([row["cosine"] for row in rows], 5), False)
    panels += panel("", "Alignment of the gradient with the top eigenvector", PART, Axis("|cos|", low=0, high=1.05), [*cosines, random])
    panels += panel("", "Training loss", PART, Axis("Loss", log=True, low=1e-12), lines(lambda rows: [row["loss"] for row in rows], True))
    if arm := config.arms.get("SAM"):
        edges = paths("SAM", lambda rows: [sam_edge(row["grad_norm"], arm.lr, arm.rho) for row in rows])
        tops = paths("SAM", lambda rows: [row["top"] for row in rows])
        drawn = [averaged(LOOKS["SAM"], tops), averaged(Style("the edge, from the gradient's norm", 8, 1, 8), edges)]
        panels += panel("", "λ1 under SAM beside the SAM edge of stability", PART, Axis("λ1"), drawn)
    shown = [row for row in contrasts(walks) if row["claim"].isdigit() and row["mean"] is not None]
    dots = [
        Series(LOOKS[row["difference"].split(" - ")[0]], "whiskers", [row["mean"]], [i], [row["ci_low"]], [row["ci_high"]], n=row["n"])
        for i, row in enumerate(shown)
    ]
    names = Axis("", names=tuple(f"{row['claim']}: {row['effect']}, {row['difference']}" for row in shown))
    zero = Series(Style(""), "mark", [0.0], [None])
    return panels + panel("", "Contrasts between methods", Axis("Difference over the starting points"), names, [zero, *dots])
