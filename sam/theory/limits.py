"""What the notions of sharpness tend to as rho -> 0 at a minimiser (Wen et al. 2023, Table 1), checked against a dense Hessian."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sam.core.ascent import Ascent
from sam.core.vectors import shaped
from sam.theory.network import starting_point
from sam.theory.settings import NetworkConfig

Value = Callable[[Tensor], Tensor]  # weights (D,) -> loss
RADII = (1e-1, 1e-2, 1e-3)
SMALL = NetworkConfig.of(arms={"": {}}, starts=2, samples=5, hidden=3, inputs="gaussian", kick=1e-300)


def worst(loss: Value, w: Tensor, rho: float, vectors: Tensor) -> float:
    """The largest rise within the ball: v <- grad L(w + rho v) / ||.|| from each row of `vectors`, a power iteration where rho is small."""
    gradients, rises = torch.vmap(torch.func.grad(loss)), torch.vmap(loss)
    for _ in range(50):
        g = gradients(w + rho * vectors)
        vectors = g / g.norm(dim=1, keepdim=True)
    return (rises(w + rho * vectors) - loss(w)).max().item()


def ascent(loss: Value, w: Tensor, rho: float, vectors: Tensor) -> float:
    """The smallest rise of one ascent step over the ways to come near w, 1e-4 rho off along each row of `vectors`: L^Asc at w itself has no
    value. The step is the product's."""
    rises = []
    for v in vectors:
        near = w + 1e-4 * rho * v
        step = Ascent([near], [rho])
        step.climb([torch.func.grad(loss)(near)])
        rises.append((loss(step.points[0]) - loss(near)).item())
    return min(rises)


def average(loss: Value, w: Tensor, rho: float, vectors: Tensor) -> float:
    """The mean rise over ± an orthonormal basis, which has the mean of the whole sphere up to third order."""
    return (torch.vmap(loss)(w + rho * torch.cat([vectors, -vectors])) - loss(w)).mean().item()


def table(seed: int = 0, radii: Sequence[float] = RADII) -> list[dict[str, float | str]]:
    """R_rho / rho² beside its limit, for each notion over all samples and in the mean over single samples, at an interpolating point."""
    task, weights = starting_point(SMALL, seed)
    w = torch.cat([p.detach().flatten() for p in weights])
    loss = lambda k, x: task.loss(shaped(x, weights), k)
    losses: list[Value] = [partial(loss, k) for k in (None, *torch.arange(SMALL.samples)[:, None])]
    hessians = [torch.func.hessian(loss)(w) for loss in losses]
    pairs = [torch.linalg.eigh(h) for h in hessians]
    size, single = len(w), len(losses) - 1
    basis = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=w.dtype)).Q
    # Where a search starts: the eigenvectors of the largest non-zero eigenvalues, and three others.
    ways = lambda i: torch.cat([pairs[i][1][:, -1 if i else -single :].T, basis[:3]])
    trace = hessians[0].trace().item()  # the mean over samples of theirs too
    limits = {
        "worst direction": (worst, pairs[0][0][-1].item() / 2, "λ1/2", trace / 2, "Tr/2"),
        "ascent direction": (ascent, pairs[0][0][-single].item() / 2, "λ_M/2", trace / 2, "Tr/2"),
        "average direction": (average, trace / (2 * size), "Tr/2D", trace / (2 * size), "Tr/2D"),
    }
    rows: list[dict[str, float | str]] = []
    for notion, (measure, whole, whole_words, alone, alone_words) in limits.items():
        for batch, limit, words, members in (("all", whole, whole_words, [0]), ("1", alone, alone_words, range(1, single + 1))):
            for rho in radii:
                found = [measure(losses[i], w, rho, basis if measure is average else ways(i)) for i in members]
                ratio = sum(found) / len(found) / rho**2
                rows.append({"notion": notion, "batch": batch, "rho": rho, "R/rho^2": ratio, "limit": words, "limit_value": limit})
    return [{**row, "relative_error": abs(float(row["R/rho^2"]) / float(row["limit_value"]) - 1)} for row in rows]
