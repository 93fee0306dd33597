"""XSAM (Chen & Zhou 2026, arXiv 2603.10048, after the released algorithm): search the direction of the maximum explicitly."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sam.core import vectors
from sam.core.settings import DEFAULT_ALPHAS
from sam.core.vectors import Vector
from sam.optimizers.base import Closure, Gradients, Method
from sam.optimizers.sam import start_ascent

# Below this sin(psi) the two directions span no plane. Rounding of float32 sums alone makes sin(psi) 5e-4 of parallel vectors; what the
# larger bound gives away is a turn of the update by less than 1e-3.
DEGENERATE = {torch.float64: 1e-6, torch.float32: 1e-3}


class Plane:
    """The plane of the ascent displacement d and the gradient g at the ascent point; v(alpha) is their spherical interpolation.

    v(alpha) = [sin((1-alpha) psi) d/||d|| + sin(alpha psi) g/||g||] / sin psi has norm 1 and lies alpha psi away from d.
    d may have any length. v is written as p d + q g, so that no further vector is stored. psi comes from atan2 of float64 sums: no arccos,
    no NaN.
    Where d and g span no plane (parallel, antiparallel, or zero), v is g/||g|| for every alpha: the method acts as SAM.
    """

    def __init__(self, d: Vector, g: Vector) -> None:
        self.d, self.g = d, g
        dd, dg, gg = vectors.gram(d, g)
        self.d_norm, self.g_norm = dd.sqrt(), gg.sqrt()
        self.psi = torch.atan2((dd * gg - dg * dg).clamp(min=0).sqrt(), dg)
        sine = torch.sin(self.psi)
        self._flat = sine < DEGENERATE.get(d[0].dtype, 1e-3)
        self._sine = torch.where(self._flat, torch.ones_like(sine), sine)

    def coefficients(self, alpha: float | Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) with ||g|| v(alpha) = p d + q g: the update, as long as SAM's. At alpha = 1 exactly (0, 1). alpha may lie on the device
        (0-d float64)."""
        p = torch.sin((1 - alpha) * self.psi) / self._sine * self.g_norm / self.d_norm
        q = torch.sin(alpha * self.psi) / self._sine
        return torch.where(self._flat, torch.zeros_like(p), p), torch.where(self._flat, torch.ones_like(q), q)

    def point(self, start: Vector, alpha: float, radius: float) -> Vector:
        """start + radius v(alpha), new tensors."""
        p, q = self.coefficients(alpha)
        scale = radius / self.g_norm.clamp(min=vectors.TINY)
        points = vectors.plus(start, self.d, p * scale)
        vectors.add_(points, self.g, q * scale)
        return points

    def combine_(self, alpha: float | Tensor) -> None:
        """g <- ||g|| v(alpha), in place."""
        p, q = self.coefficients(alpha)
        vectors.scale_(self.g, q)
        vectors.add_(self.g, self.d, p)


class XSAM(Method):
    """Descend with ||g_k|| v(alpha), alpha = argmax over a grid of L(w + rho_max v(alpha)).

    steps, rule:      k ascent steps as in N-step SAM; k + 1 forwards and backwards a step.
    rho_max:          search radius; None means 2 rho.
    alphas:           the grid (ties go to the earlier entry); `alpha`: a constant instead, nothing is searched.
    search_interval:  steps between searches, the first step included; a search costs len(alphas) forwards, and its alpha already serves
                      the step in which it was found.
    A search with a non-finite probe loss keeps the previous alpha (1, that is SAM, before the first search). One in a step that is skipped
    says nothing at all: the next step makes it up (float16 finds its loss scale in the first steps, the first search among them).
    """

    remembered = ("alpha", "steps_taken", "due", "probe_losses")

    rho: float = 0.05
    steps: int = 1
    rule: str = "split"
    rho_max: float | None = None
    alpha: float | None = None  # once it is made: the one in use
    alphas: Sequence[float] = DEFAULT_ALPHAS
    search_interval: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.constant = self.alpha is not None
        self._turn = torch.empty((), dtype=torch.float64, device=self.bad.device)
        self.alpha = 1.0 if self.alpha is None else self.alpha
        self.probe_losses: list[float] = []
        self.due = False  # a search that was lost is to be made up

    @classmethod
    def options(cls, config: Any, **run: Any) -> dict[str, Any]:
        return super().options(config, **run) | {"search_interval": config.search_interval(run["steps_per_epoch"])}

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "alpha" and "_turn" in vars(self):
            self._turn.fill_(value)  # what a step reads: always at one address, so that a captured step sees it change

    @property
    def defer(self) -> bool:  # type: ignore[override]
        return not self.constant and (self.due or self.steps_taken % self.search_interval == 0)

    @property
    def repeats(self) -> bool:  # type: ignore[override]
        return not self.defer

    def begin(self) -> None:
        if self.defer:
            self._probes = torch.zeros(len(self.alphas) + 1, dtype=torch.float64, device=self._turn.device)

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, tuple[Plane, Gradients]]:
        climb = self.ascent(self.steps, self.rule)
        loss = start_ascent(self, ascent, climb)
        for _ in range(self.steps - 1):
            climb.climb(self.perturbed(self.evaluate(ascent, climb.points)[1]))
        _, gradient = self.evaluate(closure, climb.points)
        plane = Plane(climb.direction(), self.perturbed(gradient))
        self.record("psi", plane.psi)
        if self.defer:
            radius = 2 * max(self._members.radii) if self.rho_max is None else self.rho_max
            losses = [self.probe(closure, plane.point(self.points, alpha, radius)).double() for alpha in self.alphas]
            self._probes += torch.stack([*losses, plane.psi.double()]) * self._weight  # psi: finite if the step is
        return loss, (plane, gradient)

    def decide(self) -> None:
        """The search's only host sync: read all probe losses, take the largest."""
        if self.defer:
            self.replicas.sum_([self._probes])
            *self.probe_losses, psi = self._probes.tolist()
            self.due = not math.isfinite(psi)
            if all(map(math.isfinite, self.probe_losses)):
                self.alpha = self.alphas[self.probe_losses.index(max(self.probe_losses))]

    def descent(self, direction: tuple[Plane, Gradients]) -> Gradients:
        """||g_k|| v(alpha) on the perturbed parameters; the others descend with g_k, as in SAM."""
        plane, gradients = direction
        plane.combine_(self._turn)  # in place: where a parameter had a gradient, it is the very tensor in `gradients`
        if plane.g is gradients:
            self._known = (gradients, plane.g_norm.to(plane.g[0].dtype), [g._version for g in plane.g])  # v(alpha) has norm 1
        return gradients

    def report(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "probe_losses": list(self.probe_losses)}
