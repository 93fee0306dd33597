"""What several methods carry from step to step: vectors made of gradients, in the shapes of the perturbed parameters."""

import itertools
import operator
from typing import Any

import torch
from torch import Tensor

from sam.config import ConfigError
from sam.core import vectors
from sam.core.vectors import Vector
from sam.optimizers.base import Closure, Gradients, Method


class Remembering(Method):
    """A method with a memory, `kept`, that is renewed once a step from gradients averaged over the step's groups of samples, all replicas'.

    A group calls `note`; `renewed` says what to keep. A step that is skipped leaves the memory as it was, without a host synchronisation.
    Memories are free of the loss scale: times `scale` they stand beside this step's gradients.
    """

    remembered = ("steps_taken",)
    notes = 1  # vectors that each group notes in the next step; 0: none does

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kept: Vector = []
        self.empty = torch.ones((), dtype=torch.bool, device=self.parameters[0].device)  # nothing but zeros is kept yet
        self._noted: Vector | None = None
        self._of: list[Tensor] = []  # the parameters whose memory is kept

    def begin(self) -> None:
        now = list(itertools.compress(self.parameters, self._members.chosen))
        if len(now) < len(self._of) or any(map(operator.is_not, self._of, now)):
            raise ConfigError(f"{type(self).__name__}: other parameters are perturbed than before, of which its memory is; make it anew.")
        self._of, self._noted = now, None
        self.kept += [torch.zeros_like(w) for w in self.points[len(self.kept) :]]

    def note(self, vector: Vector) -> None:
        """Add this group's share of what the memory is renewed from: `notes` vectors, one after the other."""
        shares = list(torch._foreach_mul(vector, self._weight))
        if self._noted is None:
            self._noted = shares
        else:
            vectors.add_(self._noted, shares)

    def decide(self) -> None:
        if not self.notes:
            return
        if self._noted is None:  # every group of this step is another replica's
            self._noted = [torch.zeros_like(w) for _ in range(self.notes) for w in self.points]
        self.replicas.sum_(self._noted)
        if self.scaling is not None:
            vectors.scale_(self._noted, 1 / self.scaling.value)

    def settle(self) -> None:
        if self._noted is not None:
            for old, new in zip(self.kept, self.renewed(self._noted), strict=True):
                old.copy_(torch.where(self.bad, old, new))  # in place: a captured step finds it
            self.empty.logical_and_(self.bad)
            self._noted = None

    def renewed(self, noted: Vector) -> Vector:
        """What to keep, new tensors."""
        raise NotImplementedError

    def mean(self, gradient: Vector, share: float, scale: float | Tensor = 1.0) -> Vector:
        """(1 - share) kept + share gradient; the gradient itself where nothing is kept yet."""
        rate = torch.where(self.empty, torch.ones_like(self.empty, dtype=torch.float64), share).to(gradient[0].dtype)
        return [torch.lerp((m * scale).to(g.dtype), g, rate) for m, g in zip(self.kept, gradient, strict=True)]

    def method_state(self) -> dict[str, Any]:
        return {"kept": self.kept, "empty": self.empty} | super().method_state()

    def load_method_state(self, state: dict[str, Any]) -> None:
        self.kept = [t.to(w.device, w.dtype, copy=True) for t, w in zip(state["kept"], self.points, strict=False)]
        self.empty.copy_(state["empty"])
        super().load_method_state(state)


class MeanGradientSAM(Remembering):
    """eps = rho d/||d|| for a direction d made of this step's gradient and of those before it; descend with grad L(w + eps)."""

    def direction(self, gradient: Vector) -> Vector:
        """d, new tensors."""
        raise NotImplementedError

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent()
        loss, gradient = self.first_pass(ascent)
        own = self.perturbed(gradient)
        self.note(own)
        climb.climb(self.direction(own))
        _, descent = self.evaluate(closure, climb.points)
        return loss, descent
