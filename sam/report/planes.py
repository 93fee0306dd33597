"""Maps of the loss over planes through the weights, with marks.

A plane is a series whose columns are x, y, loss on a full grid; other (x, y) points are drawn on the plane whose name they share after
the first underscore (marks_xsam[rho=0.05] on plane_xsam[rho=0.05]).
"""

from collections.abc import Mapping, Sequence

from sam.report.looks import Look, Style
from sam.report.panels import Axis, Panel, Series, Values, label, names_of, panel, wide
from sam.tables.conditions import Condition
from sam.tables.statistics import is_finite

MARK_NAMES = ("w", "ascent point", "α*")
AXES = {
    "plane_xsam": ("Along the ascent (distance from w)", "Along the gradient at the ascent point, orthogonal part"),
    "plane_random": ("First random direction", "Second random direction"),
    "plane_eigenvectors": ("Along the top eigenvector", "Along the second eigenvector"),
}


def plane_of(series: Mapping[str, Mapping[str, Values]], name: str) -> list[Series]:
    """The surface of this name in a run's series, with what is drawn on it: few points as named marks, more as a path; empty if it is no
    full grid with a finite loss."""
    columns = series.get(name, {})
    if not {"x", "y", "loss"} <= set(columns):
        return []
    loss = {(x, y): v for x, y, v in zip(columns["x"], columns["y"], columns["loss"], strict=True) if x is not None and y is not None}
    xs, ys = {x for x, _ in loss}, {y for _, y in loss}
    if len(xs) < 2 or len(ys) < 2 or len(loss) != len(xs) * len(ys) or not any(map(is_finite, loss.values())):
        return []
    drawn = [Series(Style(""), "surface", [x for x, _ in loss], [y for _, y in loss], z=list(loss.values()))]
    for other, points in series.items():
        if other != name and other.partition("_")[2] == name.partition("_")[2] and {"x", "y"} <= set(points):
            few = len(points["x"]) <= len(MARK_NAMES)
            names = MARK_NAMES[: len(points["x"])] if few else ()
            drawn.append(Series(Style(""), "named" if few else "thin", points["x"], points["y"], names=names))
    return sorted(drawn, key=lambda one: ("surface", "thin", "named").index(one.kind))


def landscapes(condition: Condition, of: Sequence[Look]) -> tuple[list[Panel], str]:
    """A panel a plane and method, of the lowest seed that has it, with one colour scale a plane; and their caption."""
    panels, more = list[Panel](), 0
    for name in names_of(condition, "x", "y", "loss"):
        planes = [[(look, seed, p) for seed, run in look.row.finished.items() if (p := plane_of(run.series, name))] for look in of]
        found = [own[0] for own in planes if own]
        more += sum(map(len, planes)) - len(found)
        values = [v for _, _, plane in found for v in plane[0].z if is_finite(v)]
        low, high = min(values, default=0.0), max(values, default=1.0)
        z = Axis("Loss", log=wide(values, 5), low=low, high=max(high, low + 1e-9 * abs(low) + 1e-12))
        x, y = map(Axis, AXES.get(name.partition("[")[0], ("x", "y")))
        for look, seed, plane in found:
            panels += panel(condition.label, f"{label(name, '')}, {look.style.label}, seed {seed}", x, y, plane, z)
    caption = (
        "Training loss (nats) over a plane through the trained weights w, the same colours in all panels of a plane, with contour lines."
    )
    arc = " Dashed: the arc along which XSAM looks for α*." if any(s.kind == "thin" for panel in panels for s in panel.series) else ""
    return panels, caption + arc + (f" {more} further seeds are in the runs' sharpness.json." if more else "")
