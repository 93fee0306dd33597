"""The figures of one context, in the order in which they are read; a figure without data is left out."""

from __future__ import annotations

from sam.report import figures, radii
from sam.report.html import Html, el, join
from sam.report.landscape import landscapes
from sam.report.radii import Anchors
from sam.report.series import KINDS, series_curves
from sam.tables.table import Context


def figures_of(context: Context, anchors: Anchors) -> Html:
    """Every figure that the runs of a context have data for; those of the lesser measures are closed."""
    families = radii.families(context.runs)
    first, others = list(families.items())[:1], list(families.items())[1:]
    parts = [("Over training", figures.training(context))]
    parts += [("Sharpness against gap", radii.gap_scatter(context, anchors, family, names)) for family, names in first]
    parts += [("Sharpness over the measured ρ", radii.measured_radii(context, family, names)) for family, names in first]
    parts += [("Results over the ρ of training", radii.trained_radii(context)), ("XSAM's α", figures.alphas(context))]
    parts += [(kind.title, series_curves(context, kind)) for kind in KINDS]
    parts += [("Loss over planes", landscapes(context))]
    more = [join(radii.gap_scatter(context, anchors, f, names), radii.measured_radii(context, f, names)) for f, names in others]
    found = [el("section", el("h3", title), drawn) for title, drawn in parts if drawn]
    if any(more):
        found.append(el("details", el("summary", "The other measures taken at a radius"), *more, class_="more"))
    return join(*found)
