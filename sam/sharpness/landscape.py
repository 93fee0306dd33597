"""The loss along lines and over planes through w, on one subset of the training set."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from sam.core import vectors
from sam.core.vectors import Vector
from sam.sharpness.context import Context, Result, Series, Sizes, named, random_like
from sam.sharpness.dataset_loss import Around, unit_
from sam.sharpness.hessian import Hessian, eigenpairs
from sam.sharpness.settings import HessianConfig, LandscapeConfig, SharpnessConfig

VERSION = 1
MARGIN = 1.5  # XSAM's plane is drawn this many times as wide as the arc
# Below this sin(psi) two directions span no plane: what is left of the second one is rounding.
FLAT = {torch.float64: 1e-8, torch.float32: 1e-4}


def _eigenvectors(settings: LandscapeConfig) -> int:
    """How many eigenvectors the lines and planes need."""
    return 2 if "eigenvectors" in settings.planes else 1 if "top_eigenvector" in settings.lines else 0


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    """Return the work with the largest number of products and all directions defined."""
    settings, rhos = config.landscape, len(config.rho)
    wanted = _eigenvectors(settings)
    top = 7 * settings.lanczos_steps + 3 + 4 * (wanted + 1) if wanted else 0
    along = sum((rhos if line == "n_step" else 1) * settings.points for line in settings.lines)
    steps = 3 * (settings.ascent_steps - 1) * rhos if "n_step" in settings.lines else 0
    over = sum((rhos if plane == "xsam" else 1) * settings.grid**2 for plane in settings.planes)
    search = (3 + len(settings.alphas)) * rhos if "xsam" in settings.planes else 0
    return sizes.images(settings.subset) * (3 + top + along + steps + over + search)


def measure(context: Context) -> Result:
    """Curves of L over w + t u and w + x u + y v; every loss is the mean over the same subset of the training images. Memory: six vectors
    of D; for eigenvectors about 30."""
    settings, rhos, result = context.config.landscape, context.config.rho, Result()
    far = settings.reach * max(rhos)  # half-width of an axis in Euclidean distance that belongs to no one radius
    with context.loss(subset=settings.subset).around() as w:
        ground = _Ground(context, result, w, w.gradient if unit_(w.gradient) is not None else None)
        top = _top(ground)
        for kind in settings.lines:
            if kind == "n_step":
                for rho in rhos:
                    ascent = None if ground.uphill is None else w.climb(rho, settings.ascent_steps, "split")
                    eps = None if ascent is None else ascent.direction()  # Tiwary & Aananth 2024, Eq. 5
                    direction = None if eps is None or unit_(eps) is None else eps
                    result.series[f"line_n_step{ground.where(rho=rho)}"] = ground.line(direction, settings.reach * rho)
            elif kind == "random":
                result.series[f"line_random{ground.where()}"] = ground.line(ground.random("landscape.line", 1)[0], settings.span)
            else:
                direction = ground.uphill if kind == "gradient" else top[0] if top else None
                result.series[f"line_{kind}{ground.where()}"] = ground.line(direction, far)
        for kind in settings.planes:
            if kind == "xsam":
                for rho in rhos:
                    _xsam(rho, ground)
            elif kind == "random":
                result.series[f"plane_random{ground.where()}"] = ground.plane(ground.random("landscape.plane", 2), settings.span)
            else:
                result.series[f"plane_{kind}{ground.where()}"] = ground.plane(top if len(top) == 2 else None, far)
    return result


class _Ground(NamedTuple):
    """L around w, and the result under construction. uphill: g/||g||, as which w's gradient stands too; None where it is undefined."""

    context: Context
    result: Result
    w: Around
    uphill: Vector | None

    @property
    def settings(self) -> LandscapeConfig:
        return self.context.config.landscape

    def where(self, **parts: object) -> str:
        return self.context.suffix(self.settings.subset, **parts)

    def random(self, stream: str, count: int) -> list[Vector]:
        """Draw filter-normalised directions from one stream of the seed."""
        generator = self.context.generator(stream)
        return [filter_normalize_(random_like(self.w.start, generator), self.w.start) for _ in range(count)]

    def losses(self, directions: Sequence[Vector] | None, **coordinates: Any) -> Series:
        """Return the coordinates as columns, and a column loss: L(w + the sum of coordinate times direction), None without directions."""
        points = zip(*coordinates.values(), strict=True)
        losses = [None if directions is None else self.w.at(*zip(point, directions, strict=True)) for point in points]
        return coordinates | {"loss": losses}

    def line(self, direction: Vector | None, half: float) -> Series:
        return self.losses(None if direction is None else [direction], t=_axis(half, self.settings.points))

    def plane(self, directions: Sequence[Vector] | None, half: float) -> Series:
        """Evaluate L row by row: y is the slow coordinate."""
        axis = _axis(half, self.settings.grid)
        return self.losses(directions, x=axis * len(axis), y=[y for y in axis for _ in axis])


def _axis(half: float, points: int) -> list[float]:
    """Return `points` equally spaced values from -half to half, symmetric to the last bit: an odd number has 0 in the middle."""
    return [half * (2 * i - (points - 1)) / (points - 1) for i in range(points)]


@torch.no_grad()
def filter_normalize_(direction: Vector, weights: Vector) -> Vector:
    """Rescale each filter of `direction`, in place, to the norm of the same filter of `weights` (Li et al. 2018, section 4); returns it. A
    filter is a row of a tensor with two or more dimensions; tensors with fewer (BatchNorm, biases) become 0, and filters of zeros too."""
    for d, w in zip(direction, weights, strict=True):
        if w.ndim < 2:
            d.zero_()
            continue
        rows = tuple(range(1, w.ndim))
        wanted, length = (torch.linalg.vector_norm(t, dim=rows, keepdim=True) for t in (w, d))
        d.mul_(wanted / length.clamp(min=vectors.TINY))
    return direction


def _top(ground: _Ground) -> list[Vector]:
    """Return the eigenvectors that the lines and planes need, pointing uphill; add their values to the result."""
    wanted, hessian, pairs = _eigenvectors(ground.settings), Hessian(ground.w.loss), None
    if wanted and math.isfinite(ground.w.value.loss):
        config = HessianConfig(eigenvalues=wanted, steps=ground.settings.lanczos_steps)
        pairs = eigenpairs(hessian, config, ground.context.generator("landscape.lanczos"))
    rows = [] if pairs is None else zip(pairs.values, map(hessian.unflatten, pairs.vectors), pairs.residuals, strict=True)
    found = list(rows)[:-1]  # the last one is the smallest
    for k in range(wanted):
        value, vector, residual = found[k] if k < len(found) else (None, None, None)
        if vector is not None and ground.uphill is not None and vectors.dot(vector, ground.uphill).item() < 0:
            vectors.scale_(vector, -1.0)
        ground.result.values.update(named(ground.where(k=k + 1), landscape_eigenvalue=value, landscape_eigenvalue_residual=residual))
    return [vector for _, vector, _ in found]


def xsam_plane(d: Vector, g: Vector) -> tuple[float | None, list[Vector] | None]:
    """(psi, [first, second]): the angle (radians) from the ascent displacement d to the gradient g at the ascent point, and an orthonormal
    basis of their plane, made of d and g: first = d/||d||, second along what of g is orthogonal to it. XSAM's direction v(alpha) (Chen &
    Zhou 2026, Eq. 6: the spherical interpolation from d/||d|| to g/||g||) is cos(alpha psi) first + sin(alpha psi) second. psi is None
    where d or g has no direction; the basis is None there, and where d and g are parallel."""
    if unit_(d) is None or unit_(g) is None:
        return None, None
    cosine = vectors.dot(d, g).item()
    vectors.add_(g, d, -cosine)
    sine = vectors.norm(g).item()
    vectors.normalize_(g)
    return math.atan2(sine, cosine), None if sine < FLAT.get(d[0].dtype, FLAT[torch.float32]) else [d, g]


def _xsam(rho: float, ground: _Ground) -> None:
    """Add the plane at one radius, its arc, its marks and its values to the result."""
    settings, where, result = ground.settings, ground.where(rho=rho), ground.result
    radius = 2 * rho if settings.rho_max is None else settings.rho_max
    alphas: list[float | None] = list(settings.alphas)
    at_ascent = psi = basis = None
    if ground.uphill is not None:
        ground.w.move((rho, ground.uphill))
        value, gradient = ground.w.loss.value_and_gradient()
        at_ascent, (psi, basis) = value.loss, xsam_plane([u.clone() for u in ground.uphill], gradient)
    result.series[f"plane_xsam{where}"] = ground.plane(basis, MARGIN * max(radius, rho))
    angles = [None if psi is None or basis is None else alpha * psi for alpha in settings.alphas]
    x, y = ([None if angle is None else radius * along(angle) for angle in angles] for along in (math.cos, math.sin))
    arc = result.series[f"arc_xsam{where}"] = {"alpha": alphas} | ground.losses(basis, x=x, y=y)
    losses = [value for value in arc["loss"] if value is not None and math.isfinite(value)]
    best = arc["loss"].index(max(losses)) if len(losses) == len(alphas) else None
    star = {column: None if best is None else values[best] for column, values in arc.items()}
    ascent = {"x": None if at_ascent is None else rho, "y": None if at_ascent is None else 0.0, "alpha": None, "loss": at_ascent}
    origin = {"x": 0.0, "y": 0.0, "alpha": None, "loss": ground.w.value.loss}
    result.series[f"marks_xsam{where}"] = {column: [origin[column], ascent[column], star[column]] for column in origin}
    result.values[f"psi{where}"], result.values[f"alpha_star{where}"] = psi, star["alpha"]
    result.values[f"alpha_star_rise{where}"] = None if star["loss"] is None else star["loss"] - ground.w.value.loss
