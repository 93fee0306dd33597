"""The Hessian of the training loss: top eigenvalues, trace, alignment with the gradient, and the limits of Wen et al. 2023."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sam.core import vectors
from sam.core.vectors import Vector
from sam.sharpness import ascent, krylov
from sam.sharpness.context import Context, Result, Sizes, named
from sam.sharpness.dataset_loss import DatasetLoss, is_slope
from sam.sharpness.settings import HessianConfig, SharpnessConfig

VERSION = 1
TOGETHER = 5  # probes of one call: they share forward and first backward, and cost a row and a product each


class Hessian:
    """H of a DatasetLoss, as an operator on rows of trainable parameters, flattened in order: (m, D) -> (m, D). Inside `measuring()`."""

    def __init__(self, loss: DatasetLoss) -> None:
        self.loss, self.points = loss, loss.points
        self.length = sum(p.numel() for p in self.points)

    def __call__(self, rows: Tensor) -> Tensor:
        products = self.loss.hessian_vector_products([self.unflatten(row) for row in rows])
        result = torch.empty_like(rows)
        for row, product in zip(result, products, strict=True):
            vectors.copy_(self.unflatten(row), product)
        return result

    def unflatten(self, row: Tensor) -> Vector:
        """Return views of a row (D,), shaped like the parameters."""
        return vectors.shaped(row, self.points)

    def draw(self, generator: torch.Generator, count: int = 1) -> Tensor:
        """Draw Rademacher rows, entries ±1, (count, D), from a CPU generator."""
        signs = torch.randint(0, 2, (count, self.length), generator=generator, dtype=self.points[0].dtype)
        return signs.mul_(2).sub_(1).to(self.points[0].device)


def trace(product: krylov.Product, draw: Callable[[int], Tensor], probes: int, known: Tensor, part: float) -> tuple[float, float]:
    """Estimate Tr H, with its standard error, by `probes` Rademacher probes z on the complement of the orthonormal rows `known` (m, D). Tr
    H = part + E z' P H P z, with part = the sum of v'Hv over the rows v of `known` and P the projection on their complement: the split of
    Hutch++ (Meyer et al. 2021) with the top Ritz vectors, which do not depend on the probes, in place of its sketch."""
    values: list[float] = []
    while len(values) < probes:
        rows = draw(min(TOGETHER, probes - len(values)))
        if len(known):
            krylov.project_out(rows, known)
        values += [float(krylov.inner(z[None], h[None])) for z, h in zip(rows, product(rows), strict=True)]
    mean = math.fsum(values) / probes if all(map(math.isfinite, values)) else math.nan
    return part + mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (probes - 1) / probes)


@dataclass(frozen=True)
class Eigenpairs(krylov.Extremes):
    """values, residuals: v'Hv and ||Hv - (v'Hv) v|| of each row v of `vectors`: an eigenvalue of H lies within the residual of the value.
    extra: H times the rows that were handed in beside."""

    values: list[float]
    residuals: list[float]
    extra: Tensor


def eigenpairs(hessian: Hessian, config: HessianConfig, generator: torch.Generator, beside: Tensor | None = None) -> Eigenpairs | None:
    """Find the config.eigenvalues largest ALGEBRAIC eigenvalues and the smallest by `krylov.extremes`; None if a product is not finite.
    beside: rows (n, D) to be multiplied too, in the forward pass of the residuals. Peak: the larger of config.basis + config.eigenvalues +
    5 rows, and four rows a pair and each of `beside`. Use inside `loss.measuring()`."""
    start = torch.randn(hessian.length, generator=generator, dtype=hessian.points[0].dtype).to(hessian.points[0].device)
    limits = {"count": config.eigenvalues, "steps": config.steps, "basis": config.basis}
    found = krylov.extremes(hessian, start, **limits, tolerance=config.tolerance, generator=generator)
    if found is None:
        return None
    rows = found.vectors
    products = hessian(rows if beside is None else torch.cat([rows, beside]))
    values, residuals = [], []
    for v, hv in zip(rows, products[: len(rows)], strict=True):
        values.append(float(krylov.inner(v[None], hv[None]) / krylov.inner(v[None], v[None])))
        rest = (hv - values[-1] * v)[None]
        residuals.append(float(krylov.inner(rest, rest).sqrt()))
    return Eigenpairs(**vars(found), values=values, residuals=residuals, extra=products[len(rows) :].clone())


def smallest_nonzero(spectrum: Tensor | None, eps: float) -> float | None:
    """lambda_M, the smallest eigenvalue above rounding; None for a spectrum unknown, zero, or with a negative one (w is no minimiser)."""
    if spectrum is None:
        return None
    rounding = 10 * len(spectrum) * eps * float(spectrum.abs().max())
    positive = spectrum[spectrum > rounding]
    return None if float(spectrum[0]) < -rounding or len(positive) == 0 else float(positive[0])


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    own = config.hessian  # what the largest number of steps costs
    each = 3 + len(config.rho) + 7 * own.steps + 3 + 4 * (own.eigenvalues + 2) + 3 * math.ceil(own.probes / TOGETHER) + 4 * own.probes
    return each * sizes.images(own.subset)


def measure(context: Context) -> Result:
    """The Hessian's ends and trace, the gradient within it, and the limits of sharpness, over a subset of the training images. Peak beside
    the model: config.basis + config.eigenvalues + 7 vectors of D, and a batch's graph; 43 in all with the defaults (measured)."""
    config, generator = context.config.hessian, context.generator("hessian")
    where = partial(context.suffix, config.subset)
    with context.loss(subset=config.subset).around() as w:
        hessian = Hessian(w.loss)
        length = vectors.norm(w.gradient).item()
        has_slope = is_slope(length)
        unit = torch.cat([g.reshape(-1) for g in w.gradient]) / length if has_slope else torch.zeros(hessian.length).to(hessian.points[0])
        finite_here = math.isfinite(w.value.loss) and math.isfinite(length)
        pairs = eigenpairs(hessian, config, generator, beside=unit[None]) if finite_here else None
        values = named(where(), train_loss=w.value.loss, grad_norm=length)
        *top, smallest = [(None, None)] if pairs is None else zip(pairs.values, pairs.residuals, strict=True)
        for k, (eigenvalue, residual) in enumerate([*top, *[(None, None)] * (config.eigenvalues - len(top))], start=1):
            values |= named(where(k=k), eigenvalue=eigenvalue, eigenvalue_residual=residual)
        values |= named(where(), eigenvalue_min=smallest[0], eigenvalue_min_residual=smallest[1])

        estimate = error = cosine = share = curvature = lowest = None
        if pairs is not None:
            found = trace(hessian, partial(hessian.draw, generator), config.probes, pairs.vectors[:-1], math.fsum(pairs.values[:-1]))
            estimate, error = (number if math.isfinite(number) else None for number in found)
            lowest = smallest_nonzero(pairs.spectrum, torch.finfo(unit.dtype).eps)
            if has_slope:
                cosines = krylov.inner(pairs.vectors[:-1], unit[None])[:, 0]
                cosine, share = float(cosines[0].abs()), float((cosines**2).sum())
                curvature = float(krylov.inner(unit[None], pairs.extra))
        values |= named(where(), lanczos_products=None if pairs is None else pairs.products, trace=estimate, trace_stderr=error)
        values |= named(where(), cos_gradient_top=cosine, gradient_top_share=share, curvature_gradient=curvature)
        values["cos_random_level"] = math.sqrt(2 / (math.pi * hessian.length))

        for result in ascent.along(w, context.config.rho)[1]:
            half, largest = result.rho**2 / 2, top[0][0] if top else None
            each = half / hessian.length
            limits = {"worst": (half, largest), "ascent": (half, lowest), "average": (each, estimate), "average_stderr": (each, error)}
            numbers = {f"limit_{name}": None if of is None else factor * of for name, (factor, of) in limits.items()}
            values |= named(where(rho=result.rho), second_order=result.second_order, **numbers)
    return Result(values)
