"""Spectral density of the Hessian of the training loss: stochastic Lanczos quadrature (Ubaru et al. 2017; Ghorbani et al. 2019)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sam.sharpness.context import Context, Measures, Result, Series, Sizes, named
from sam.sharpness.hessian import Hessian
from sam.sharpness.krylov import quadrature
from sam.sharpness.settings import SharpnessConfig, SpectrumConfig

VERSION = 1

MARGIN = 5  # standard deviations of the smoothing beyond the outermost eigenvalues

Quadrature = tuple[Tensor, Tensor]  # nodes, weights: float64


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    own = config.spectrum
    return (1 + 7 * own.probes * own.steps) * sizes.images(own.subset)


def measure(context: Context) -> Result:
    """The density of the Hessian's eigenvalues, over a subset of the training images, as moments and as a curve. Peak beside the model and
    the graph of a batch: config.steps + 6 vectors of D."""
    config = context.config.spectrum
    where = context.suffix(config.subset)
    loss, generator = context.loss(subset=config.subset), context.generator("spectrum")
    with loss.measuring():
        value = loss.value()
        hessian = Hessian(loss)
        probes: list[Quadrature] = []
        for _ in range(config.probes if math.isfinite(value.loss) else 0):
            probe = quadrature(hessian, hessian.draw(generator)[0], config.steps, generator)
            if probe is None:  # no density from the probes that happened to be finite
                probes = []
                break
            probes.append(probe)
    values, curve = summarize(probes, config)
    ritz: Series = {
        "probe": [float(k) for k, (nodes, _) in enumerate(probes, start=1) for _ in nodes],
        "eigenvalue": [x for nodes, _ in probes for x in nodes.tolist()],
        "weight": [x for _, weights in probes for x in weights.tolist()],
    }
    return Result(named(where, train_loss=value.loss, **values), {f"spectrum_density{where}": curve, f"spectrum_ritz{where}": ritz})


def summarize(probes: Sequence[Quadrature], config: SpectrumConfig) -> tuple[Measures, Series]:
    """(the numbers of `measure`, the curve: a Gaussian around each node with its weight) from the nodes and weights of each probe. Without
    probes all are None; the curve is empty then, and where the nodes coincide up to rounding."""
    values: Measures = {}
    for power, name in ((1, "spectrum_mean"), (2, "spectrum_second_moment")):
        moments = torch.tensor([float((weights * nodes**power).sum()) for nodes, weights in probes], dtype=torch.float64)
        values[name] = float(moments.mean()) if probes else None
        values[f"{name}_stderr"] = float(moments.std()) / math.sqrt(len(probes)) if len(probes) > 1 else None
    numbers = dict.fromkeys(("spectrum_smallest", "spectrum_largest", "spectrum_probes", "spectrum_width", "spectrum_mass"))
    if not probes:
        return values | numbers, {"eigenvalue": [], "density": []}
    nodes, weights = torch.cat([n for n, _ in probes]), torch.cat([w for _, w in probes]) / len(probes)
    low, high = float(nodes.min()), float(nodes.max())
    numbers |= {"spectrum_smallest": low, "spectrum_largest": high, "spectrum_probes": len(probes)}
    if high - low <= 1e-6 * float(nodes.abs().max()):
        return values | numbers, {"eigenvalue": [], "density": []}
    width = config.width * (high - low)
    grid = torch.linspace(low - MARGIN * width, high + MARGIN * width, config.points, dtype=torch.float64)
    density = torch.exp(-(((grid[:, None] - nodes) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi)) @ weights
    numbers |= {"spectrum_width": width, "spectrum_mass": float(torch.trapezoid(density, grid))}
    return values | numbers, {"eigenvalue": grid.tolist(), "density": density.tolist()}
