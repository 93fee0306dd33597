"""L^Asc: the loss one normalised gradient step away (Tiwary & Aananth 2024, Table 1 and Eq. 4; Wen et al. 2023)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from sam.core import vectors
from sam.sharpness.context import Context, Measures, Result, Sizes, named, said
from sam.sharpness.dataset_loss import Around, DatasetLoss, Value, is_slope
from sam.sharpness.settings import SharpnessConfig

VERSION = 1


class AscentSharpness(NamedTuple):
    """At one radius: ascent_loss = L(w + rho g/||g||); sharpness = ascent_loss - L(w); first_order = rho ||g||; all None where g = 0, since
    the direction is undefined there, and the sharpness not zero. stderr: of a mean over batches."""

    rho: float
    ascent_loss: float | None = None
    sharpness: float | None = None
    first_order: float | None = None
    stderr: float | None = None

    @property
    def second_order(self) -> float | None:
        return None if self.sharpness is None or self.first_order is None else self.sharpness - self.first_order


def full(loss: DatasetLoss, rhos: Sequence[float]) -> tuple[Value, float, list[AscentSharpness]]:
    """Return (L(w), ||grad L(w)||, one result per radius) over the whole set: one forward and backward, and one forward per radius."""
    with loss.around() as w:
        return w.value, *along(w, rhos)


def along(w: Around, rhos: Sequence[float]) -> tuple[float, list[AscentSharpness]]:
    """Return (||gradient||, one result per radius); normalises the gradient at w in place."""
    length = vectors.normalize_(w.gradient).item()
    if not is_slope(length):
        return length, [AscentSharpness(rho) for rho in rhos]
    losses = [w.at((rho, w.gradient)) for rho in rhos]
    return length, [AscentSharpness(rho, loss, loss - w.value.loss, rho * length) for rho, loss in zip(rhos, losses, strict=True)]


def batchwise(loss: DatasetLoss, rhos: Sequence[float]) -> list[AscentSharpness]:
    """Average over the set's disjoint batches B L_B(w + rho g_B/||g_B||) - L_B(w), a batch counting by its size (m-sharpness with
    m = batch_size). Cost: one forward and backward, and one forward a radius, over the set."""
    rows, sizes = [], []  # of each batch: ||g_B||, L_B(w), and L_B at every radius
    with loss.measuring() as start, torch.no_grad():
        points = loss.points
        for inputs, labels in loss.batches():
            sums, gradient = loss.batch_gradient(inputs, labels, samples=len(labels))
            row = [vectors.normalize_(gradient).double(), sums[0] / len(labels)]
            for rho in rhos:
                vectors.copy_(points, start)
                vectors.add_(points, gradient, rho)
                row.append(loss.batch_sums(inputs, labels)[0] / len(labels))
            vectors.copy_(points, start)
            rows.append(torch.stack(row))
            sizes.append(len(labels))
    weights, n = torch.tensor(sizes, dtype=torch.float64) / sum(sizes), len(sizes)
    norms, base, *moved = torch.stack(rows).cpu().unbind(1)
    if not bool((norms > vectors.TINY).all()):  # NaN fails this too
        return [AscentSharpness(rho) for rho in rhos]
    results = []
    for rho, there in zip(rhos, moved, strict=True):
        rise = there - base
        mean = float((weights * rise).sum())
        spread = float((n / (n - 1) * (weights**2 * (rise - mean) ** 2).sum()).sqrt()) if n > 1 else None
        results.append(AscentSharpness(rho, float((weights * there).sum()), mean, rho * float((weights * norms).sum()), spread))
    return results


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    recalibration = sizes.train if "recalibrated" in config.batchnorm else 0
    return 2 * len(config.batchnorm) * sizes.images(config.ascent.subset) * (3 + len(config.rho)) + recalibration


def measure(context: Context) -> Result:
    """L^Asc - L and its parts, over the whole training set or a subset of it; unaugmented."""
    config, values, subset = context.config, Measures(), context.config.ascent.subset
    for mode in config.batchnorm:
        value, length, results = full(context.loss(batchnorm=mode, subset=subset), config.rho)
        context.keep(value, mode)
        here = context.suffix(subset, **said(mode))
        values |= named(here, train_loss=value.loss, train_accuracy=value.accuracy, grad_norm=length)
        batches = batchwise(context.loss(batchnorm=mode, batch_size=config.m, subset=subset), config.rho)
        for label, variants in (("all", results), ("m", batches)):
            for one in variants:
                here = context.suffix(subset, rho=one.rho, bn=mode, batch=label)
                values |= named(here, sharpness=one.sharpness, ascent_loss=one.ascent_loss)
                values |= named(here, sharpness_stderr=one.stderr) if one.stderr is not None else {}
        for one in results if mode == "eval" else ():
            values |= named(context.suffix(subset, rho=one.rho), first_order=one.first_order, second_order=one.second_order)
    return Result(values)
