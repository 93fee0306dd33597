"""The loss along lines and over planes through w, on one subset of the training set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sam.core import vectors
from sam.core.ascent import Ascent
from sam.core.vectors import Vector
from sam.sharpness.curvature import Meter
from sam.sharpness.dataset_loss import DatasetLoss
from sam.sharpness.directions import Eigenpair, Plane, filter_normalize_, top_eigenpairs, unit_
from sam.sharpness.settings import LandscapeConfig, SharpnessConfig
from sam.sharpness.subject import Result, Series, Sizes, Subject, like, place

VERSION = 1
MARGIN = 1.5  # XSAM's plane is drawn this many times as wide as the arc


def _eigenvectors(settings: LandscapeConfig) -> int:
    """How many are wanted."""
    return 2 if "eigenvectors" in settings.planes else 1 if "top_eigenvector" in settings.lines else 0


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    """What the largest number of products costs, where all directions are defined; what is not needed is reported as done at the end."""
    settings, rhos = config.landscape, len(config.rho)
    wanted = _eigenvectors(settings)
    top = 7 * settings.lanczos_steps + 3 + 4 * (wanted + 1) if wanted else 0
    along = sum((rhos if line == "n_step" else 1) * settings.points for line in settings.lines)
    steps = 3 * (settings.ascent_steps - 1) * rhos if "n_step" in settings.lines else 0
    over = sum((rhos if plane == "xsam" else 1) * settings.grid**2 for plane in settings.planes)
    search = (3 + len(settings.alphas)) * rhos if "xsam" in settings.planes else 0
    return sizes.images(settings.subset) * (3 + top + along + steps + over + search)


def measure(subject: Subject) -> Result:
    """Curves of L over w + t u and w + x u + y v. BatchNorm in eval mode; every loss is the mean over the same `landscape.subset` images.

    Series, each in long form (every name ends in [..., subset=n] where a subset was used):
    line_gradient, line_n_step[rho=R]   columns t, loss: along g/||g||, and eps_N/||eps_N|| of N split steps to rho = R; t in Euclidean
                                        distance, up to `reach` times the largest rho (R itself for n_step).
    line_top_eigenvector                the same along the top eigenvector of the Hessian, its sign such that g points uphill.
    line_random                         along a random filter-normalised direction; t = 1 is as long, filter by filter, as the weights.
    plane_random                        columns x, y, loss: two random filter-normalised directions, up to `span`.
    plane_eigenvectors                  the top two eigenvectors, in Euclidean distance.
    plane_xsam[rho=R]                   the plane of the ascent displacement d = R g/||g|| (x) and the gradient at the ascent point (y: its
                                        part orthogonal to d), in Euclidean distance.
    arc_xsam[rho=R]                     columns alpha, x, y, loss: rho_max v(alpha) for the alphas of the search.
    marks_xsam[rho=R]                   columns x, y, alpha, loss; three rows: the training point, the ascent point, alpha*.

    Values: psi[rho=R]         radians from d to the gradient at the ascent point.
    alpha_star[rho=R]          argmax of L(w + rho_max v(alpha)) over the grid; the first of equals.
    alpha_star_rise[rho=R]     L(w + rho_max v(alpha*)) - L(w).
    landscape_eigenvalue[k=K], landscape_eigenvalue_residual[k=K]   of the eigenvectors drawn: lambda, and ||H v - lambda v||.

    Where a direction is undefined (g = 0; d and the gradient parallel; a loss that is not finite) the losses are None, and so is what
    follows from them. Random directions depend on the seed and on the shapes of the weights alone, so that pictures compare.
    Memory: six vectors of D; for eigenvectors what `hessian.eigenpairs` takes, about 30.
    """
    settings, result = subject.config.landscape, Result()
    loss = subject.loss(subset=settings.subset)
    loss.progress = meter = Meter(subject.progress, work(Sizes(len(subject.train.labels), 0), subject.config))
    with loss.measuring(), torch.no_grad():
        start = [p.clone() for p in loss.points]
        value, gradient = loss.value_and_gradient()
        ground = _Ground(subject, loss, start, value.loss, gradient if unit_(gradient) is not None else None)
        found = _top(ground, result)
        for kind in settings.lines:
            if kind == "n_step":
                for rho in subject.config.rho:
                    axis = _axis(settings.reach * rho, settings.points)
                    result.series[f"line_n_step{ground.where(rho=rho)}"] = ground.line(_n_step(ground, rho), axis)
            else:
                result.series[f"line_{kind}{ground.where()}"] = _line(kind, ground, found)
        for kind in settings.planes:
            if kind == "xsam":
                for rho in subject.config.rho:
                    _xsam(rho, ground, result)
            elif kind == "random":
                two = ground.random("landscape.plane", 2)
                result.series[f"plane_random{ground.where()}"] = ground.grid(two, _axis(settings.span, settings.grid))
            else:
                top = [pair.vector for pair in found] if len(found) == 2 else None
                result.series[f"plane_{kind}{ground.where()}"] = ground.grid(top, _axis(ground.far, settings.grid))
    meter.finish()
    return result


@dataclass(frozen=True)
class _Ground:
    """L around w. start: a copy of w; at_w: L(w); uphill: g/||g||, or None where it is undefined."""

    subject: Subject
    loss: DatasetLoss
    start: Vector
    at_w: float
    uphill: Vector | None

    @property
    def settings(self) -> LandscapeConfig:
        return self.subject.config.landscape

    @property
    def far(self) -> float:
        """Half-width of an axis in Euclidean distance that belongs to no one radius."""
        return self.settings.reach * max(self.subject.config.rho)

    def where(self, **parts: object) -> str:
        """The ending of a name; the subset is named if it is smaller than the training set."""
        return place(**parts, subset=self.subject.said(self.settings.subset))

    def random(self, stream: str, count: int) -> list[Vector]:
        """Filter-normalised directions from one stream of the seed."""
        generator = self.subject.generator(stream)
        drawn = [like(self.start, generator) for _ in range(count)]
        for direction in drawn:
            filter_normalize_(direction, self.start)
        return drawn

    def at(self, directions: Sequence[Vector], coordinates: Sequence[float]) -> float:
        """L(w + sum of coordinate times direction)."""
        vectors.copy_(self.loss.points, self.start)
        for direction, coordinate in zip(directions, coordinates, strict=True):
            vectors.add_(self.loss.points, direction, coordinate)
        return self.loss.value().loss

    def line(self, direction: Vector | None, axis: Sequence[float]) -> Series:
        losses = [None if direction is None else self.at([direction], [t]) for t in axis]
        return {"t": list(axis), "loss": losses}

    def grid(self, directions: Sequence[Vector] | None, axis: Sequence[float]) -> Series:
        """Row by row: y is the slow coordinate."""
        points = [(x, y) for y in axis for x in axis]
        losses = [None if directions is None else self.at(directions, point) for point in points]
        return {"x": [x for x, _ in points], "y": [y for _, y in points], "loss": losses}


def _axis(half: float, points: int) -> list[float]:
    """`points` equally spaced values from -half to half, symmetric to the last bit: an odd number has 0 in the middle."""
    return [half * (2 * i - (points - 1)) / (points - 1) for i in range(points)]


def _top(ground: _Ground, result: Result) -> list[Eigenpair]:
    """The eigenvectors that the lines and planes want, pointing uphill; their values are added to `result`."""
    settings = ground.settings
    wanted = _eigenvectors(settings)
    if not wanted:
        return []
    generator = ground.subject.generator("landscape.lanczos")
    found = top_eigenpairs(ground.loss, wanted, settings.lanczos_steps, generator) if math.isfinite(ground.at_w) else []
    for k in range(1, wanted + 1):
        pair = found[k - 1] if k <= len(found) else None
        if pair is not None and ground.uphill is not None and vectors.dot(pair.vector, ground.uphill).item() < 0:
            vectors.scale_(pair.vector, -1.0)
        result.values[f"landscape_eigenvalue{ground.where(k=k)}"] = None if pair is None else pair.value
        result.values[f"landscape_eigenvalue_residual{ground.where(k=k)}"] = None if pair is None else pair.residual
    return found


def _line(kind: str, ground: _Ground, found: Sequence[Eigenpair]) -> Series:
    settings = ground.settings
    if kind == "random":
        return ground.line(ground.random("landscape.line", 1)[0], _axis(settings.span, settings.points))
    direction = ground.uphill if kind == "gradient" else found[0].vector if found else None
    return ground.line(direction, _axis(ground.far, settings.points))


def _n_step(ground: _Ground, rho: float) -> Vector | None:
    """eps_N/||eps_N|| of N split steps (Tiwary & Aananth 2024, Eq. 5)."""
    if ground.uphill is None:
        return None
    loss, start, steps = ground.loss, ground.start, ground.settings.ascent_steps
    ascent = Ascent(start, [rho] * len(start), steps=steps, rule="split")
    ascent.climb([u.clone() for u in ground.uphill])
    for _ in range(steps - 1):
        vectors.copy_(loss.points, ascent.points)
        ascent.climb(loss.value_and_gradient()[1])
    direction = ascent.direction()
    return direction if unit_(direction) is not None else None


# ------------------------------------------------------------------------------------------------------------ XSAM's plane


def _xsam(rho: float, ground: _Ground, result: Result) -> None:
    """Adds the plane at one radius, its arc, its marks and its values to `result`."""
    settings, where = ground.settings, ground.where(rho=rho)
    radius = 2 * rho if settings.rho_max is None else settings.rho_max
    at_ascent, plane = _ascent_plane(ground, rho)
    basis = None if plane is None or plane.flat else [plane.first, plane.second]
    arc = _arc(ground, plane, radius)
    result.series[f"plane_xsam{where}"] = ground.grid(basis, _axis(MARGIN * max(radius, rho), settings.grid))
    result.series[f"arc_xsam{where}"] = arc
    losses = [value for value in arc["loss"] if value is not None and math.isfinite(value)]
    best = arc["loss"].index(max(losses)) if len(losses) == len(settings.alphas) else None
    star = {column: None if best is None else values[best] for column, values in arc.items()}
    ascent = {"x": None if plane is None else rho, "y": None if plane is None else 0.0, "alpha": None, "loss": at_ascent}
    origin = {"x": 0.0, "y": 0.0, "alpha": None, "loss": ground.at_w}
    result.series[f"marks_xsam{where}"] = {column: [origin[column], ascent[column], star[column]] for column in origin}
    result.values[f"psi{where}"] = None if plane is None else plane.psi
    result.values[f"alpha_star{where}"] = star["alpha"]
    result.values[f"alpha_star_rise{where}"] = None if star["loss"] is None else star["loss"] - ground.at_w


def _ascent_plane(ground: _Ground, rho: float) -> tuple[float | None, Plane | None]:
    """(L at the ascent point w + rho g/||g||, the plane of that step and of the gradient there); None where g = 0."""
    if ground.uphill is None:
        return None, None
    vectors.copy_(ground.loss.points, ground.start)
    vectors.add_(ground.loss.points, ground.uphill, rho)
    value, gradient = ground.loss.value_and_gradient()
    return value.loss, Plane([u.clone() for u in ground.uphill], gradient)


def _arc(ground: _Ground, plane: Plane | None, radius: float) -> Series:
    """L(w + radius v(alpha)) over the grid of the search."""
    alphas = list(ground.settings.alphas)
    if plane is None or plane.flat:
        nothing: list[float | None] = [None] * len(alphas)
        return {"alpha": alphas, "x": nothing, "y": nothing, "loss": nothing}  # type: ignore[dict-item]
    points = [plane.on_arc(alpha, radius) for alpha in alphas]
    losses = [ground.at([plane.first, plane.second], point) for point in points]
    return {"alpha": alphas, "x": [x for x, _ in points], "y": [y for _, y in points], "loss": losses}  # type: ignore[dict-item]
