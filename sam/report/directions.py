"""Figures of the notion `direction`, over the radius of the ball: where the gradient at the ascent point rises above the one at w, XSAM's
alpha, and what share of the best rise each direction gets; with what an exact quadratic would give."""

import re
from collections.abc import Mapping, Sequence

from sam.report.looks import Look, Style
from sam.report.panels import Axis, Panel, Series, averaged, panel
from sam.tables.conditions import Condition

_NAME = re.compile(r"direction_(\w+)\[(?:v=(\w+),)?rho=([^,]+),reach=([^,]+),k=(\d+)(,bn=train)?\]")
X = Axis("Radius of the ball over ρ")
CAPTION = (
    "Means over training batches: the gradient g_k after k ascent steps to ρ, applied at w, against g_0, and as a share of the best rise"
    " met in the ball; XSAM's α*. Dashed: what a convex quadratic gives as ρ → 0, where g_1 wins from ρ/2 on and α* is the radius over ρ."
)
WAYS = {  # colours of looks.COLOURS
    **{"g0": Style("g_0, at w", 0, 0, 0), "gk": Style("g_k, at the ascent point", 2, 0, 2), "arc": Style("XSAM's arc (α*)", 6, 0, 6)},
    **{"plane": Style("the plane's best", 4, 1, 4), "random": Style("random", 1, 2, 1)},
}
Curve = tuple[Sequence[float], Sequence[float | None]]


def curves(measures: Mapping[str, float | None]) -> dict[tuple[str, str, str, int, str], Curve]:
    """(kind, direction or "", rho, k, BatchNorm) -> (reaches, values) of the measured numbers."""
    found: dict[tuple[str, str, str, int, str], list[tuple[float, float | None]]] = {}
    for name, value in measures.items():
        if match := _NAME.fullmatch(name):
            kind, v, rho, reach, k, said = match.groups()
            way = "gk" if v == f"g{k}" else v or ""
            found.setdefault((kind, way, rho, int(k), said or ""), []).append((float(reach), value))
    return {key: tuple(zip(*sorted(points), strict=True)) for key, points in found.items()}  # type: ignore[misc]


def exact(kind: str, k: int, reaches: Sequence[float]) -> list[Series]:
    """What a convex quadratic gives as rho -> 0."""
    shift, far = (k - 1) / (2 * k), max(reaches)
    alphas = [max(r - shift, 0.0) / (1 - shift) for r in reaches]
    points = ([0.0, 0.5, 0.5, far], [0.0, 0.0, 1.0, 1.0]) if kind == "wins" else (reaches, alphas)
    return [Series(Style("exact quadratic, ρ → 0", 7, 1, 7), "line", *points)] if kind == "alpha" or k == 1 else []


def directions(condition: Condition, of: Sequence[Look]) -> list[Panel]:
    """Panels of all that was measured: wins and alpha* with a line a method, shares with a panel a method; one for each rho and k."""
    known = {run.folder: curves(run.measures) for look in of for run in look.row.finished.values()}
    keys = {key[2:]: None for found in known.values() for key in found}
    of_look = lambda look, key: [found[key] for run in look.row.finished.values() if key in (found := known[run.folder])]
    mean = lambda look, style, *key: averaged(style, of_look(look, key))
    made = list[Panel]()
    for rho, k, said in keys:
        words = f", ρ {rho}{f', k = {k}' if k > 1 else ''}{', train-mode BatchNorm' if said else ''}"
        for kind, axis in (("wins", Axis(f"Batches on which g_{k} rises above g_0 (share)", low=-0.05, high=1.05)), ("alpha", Axis("α*"))):
            drawn = [mean(look, look.style, kind, "", rho, k, said) for look in of]
            reaches = sorted({x for one in drawn for x in one.x if x is not None})
            null = exact(kind, k, reaches) if reaches else []
            made += panel(condition.label, f"{axis.label.partition(' (')[0]} over the radius{words}", X, axis, [*drawn, *null])
        for look in of:
            drawn = [mean(look, style, "share", way, rho, k, said) for way, style in WAYS.items()]
            axis = Axis("Share of the best rise met in the ball", high=1.05)
            made += panel(condition.label, f"Share of the best rise{words}, {look.style.label}", X, axis, drawn)
    return made
