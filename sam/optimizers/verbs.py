"""What a step is made of: passes at w and away from it, ascents, records of both, and what a base optimizer may skip."""

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam.config import ConfigError
from sam.core import vectors
from sam.core.ascent import Ascent
from sam.core.device import LossScale
from sam.core.passes import Passes
from sam.core.vectors import Vector

Closure = Callable[..., Tensor]
Gradients = list[Tensor | None]


class Members:
    """Parameters of all groups, in order."""

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        self.parameters: list[Tensor] = [p for group in groups for p in group["params"]]
        self.chosen: list[bool] = [group["perturb"] and p.requires_grad for group in groups for p in group["params"]]  # to be perturbed
        self.points: Vector = [p.detach() for p in itertools.compress(self.parameters, self.chosen)]  # views of them
        self.radii: list[float] = list(itertools.compress([group["rho"] for group in groups for _ in group["params"]], self.chosen))


class Verbs(Optimizer):
    """The verbs of `sam.optimizers.base.Method`, which sets these attributes and explains them."""

    norm_scope: str
    passes: Passes | None
    scaling: LossScale | None
    stats: dict[str, Tensor]
    diagnose = True
    forwards = backwards = 0.0
    steps_taken = 0
    shrink: Tensor | None = None  # of this step's ascents: their radii are rho times it
    _weight = 1.0  # of the group under way
    _held: Members | None = None  # of the step under way
    _climbs: list[Ascent]  # of the group under way
    _climbed: list[list[Tensor]]  # lengths of this step's ascents
    _first: Vector  # the group's first gradient, perturbed parameters only; kept where it is diagnosed
    _known: tuple[Gradients, Tensor, list[int]] | None = None  # should they be the descent gradient: gradients, norm, counts of changes

    def evaluate(self, closure: Closure, at: Vector | None = None) -> tuple[Tensor, Gradients]:
        """One forward and backward: (loss, 0-d; gradients incl. weight decay in the loss, shaped like the parameters, None for an unused
        one), off `.grad`.

        at: where the perturbed parameters stand in this pass, tensors of their shapes in their order (an ascent's `points`); None: at w.
        With loss scaling the gradients are those of the scaled loss; the loss is not scaled.
        """
        parameters = self.parameters
        for p in parameters:
            p.grad = None
        with self._swapped(at):
            with torch.enable_grad():
                loss = scalar(closure())
            for group in self.param_groups:
                decayed = [p for p in group["params"] if group["loss_decay"] and p.grad is not None]
                if decayed:  # by where they stand in this pass
                    vectors.add_([p.grad for p in decayed], [p.detach() for p in decayed], group["loss_decay"] * self.scale)
        self.forwards += self._weight
        self.backwards += self._weight
        gradients = [p.grad for p in parameters]
        if all(g is None for g in gradients):
            raise ConfigError("step: the closure left no gradient; it must call loss.backward() before it returns the loss.")
        for p in parameters:
            p.grad = None
        return loss, gradients

    def first_pass(self, closure: Closure, at: Vector | None = None) -> tuple[Tensor, Gradients]:
        """`evaluate`, and `record_first` of the gradient."""
        loss, gradients = self.evaluate(closure, at)
        self.record_first(gradients)
        return loss, gradients

    def probe(self, closure: Closure, at: Vector) -> Tensor:
        """One forward, no backward, with the perturbed parameters at `at` (as in `evaluate`): the loss, weight decay in the loss included
        (0-d tensor). ValueError if the closure cannot leave out the backward pass."""
        if "backward" not in inspect.signature(closure).parameters:
            raise ValueError(f"{type(self).__name__} evaluates the loss without a backward pass: its closure must take `backward=True`.")
        with self._swapped(at):
            loss = scalar(closure(backward=False))
            for group in self.param_groups:
                if group["loss_decay"]:
                    loss = loss + group["loss_decay"] / 2 * vectors.norm([p.detach() for p in group["params"]]) ** 2
        self.forwards += self._weight
        return loss

    @contextmanager
    def _swapped(self, at: Vector | None) -> Iterator[None]:
        """Run a pass with the perturbed parameters swapped to `at`; they are always restored.

        w itself is never written in a step but by the base optimizer: nothing to save, nothing to put back, and its addresses stay.
        """
        members = self._members
        moved = [] if at is None else list(itertools.compress(members.parameters, members.chosen))
        # Autocast caches low-precision copies of the weights until its outermost context ends, and never sees them change: inside a
        # caller's context, the second pass would run at the first pass's weights.
        torch.clear_autocast_cache()
        if self.passes:
            self.passes.before()
        try:
            for p, there in zip(moved, at or [], strict=True):
                p.data = there
            yield
        finally:
            for p, home in zip(moved, members.points):  # noqa: B905  # no error may stop this
                p.data = home
            torch.clear_autocast_cache()  # nor may a caller's context keep this pass's copies

    def ascent(self, steps: int = 1, rule: str = "split") -> Ascent:
        """An ascent from w over the perturbed parameters."""
        climb = Ascent(self.points, self._members.radii, steps=steps, rule=rule, scope=self.norm_scope, shrink=self.shrink)
        self._climbs.append(climb)
        self._climbed.append(climb.lengths)
        return climb

    def perturbed(self, gradients: Gradients) -> Vector:
        """The part of `gradients` that belongs to perturbed parameters, `gradients` itself where that is all of it; zeros for a parameter
        this pass did not use."""
        if all(self._members.chosen) and all(g is not None for g in gradients):
            return gradients  # type: ignore[return-value]
        pairs = zip(self.parameters, gradients, self._members.chosen, strict=True)
        return [torch.zeros_like(p) if g is None else g for p, g, chosen in pairs if chosen]

    def record_first(self, gradients: Gradients) -> Tensor:
        """Record the first pass's gradient norm (and lambda ||w|| / ||g|| where weight decay is in the loss); return the norm."""
        present = [g for g in gradients if g is not None]
        length = vectors.norm(present) if present else torch.zeros(())
        self._known = (gradients, length, [g._version for g in present])
        plain = length / self.scale
        self.record("grad_norm", plain)
        if not self.diagnose:
            return length
        if self._climbs:  # a copy: an ascent uses its gradient up
            self._first = [g.clone() for g in self.perturbed(gradients)]
        trained = lambda group: [p.detach() for p in group["params"] if p.requires_grad]
        if decays := [(group["loss_decay"], own) for group in self.param_groups if group["loss_decay"] and (own := trained(group))]:
            pull = torch.stack([decay * vectors.norm(own) for decay, own in decays])
            self.record("decay_ratio", torch.linalg.vector_norm(pull) / plain)
        return length

    def _record_ascents(self) -> None:
        """||eps|| / rho of the group's last ascent and cos(first gradient, eps), over the perturbed parameters."""
        if self.diagnose and self._climbs and self._climbs[-1].lengths:
            self.record("eps_over_rho", self._climbs[-1].relative_length())
            if self._first:
                self.record("cos_g_eps", self._climbs[-1].cosine(self._first))
        self._climbs, self._first = [], []

    def record(self, name: str, value: Tensor) -> None:
        """Add a group's share to the step's mean in `stats`."""
        share = value.float() * self._weight
        self.stats[name] = self.stats[name] + share if name in self.stats else share

    @property
    def scale(self) -> float | Tensor:
        """The loss scale that this step's gradients carry."""
        return 1.0 if self.scaling is None else self.scaling.value

    @property
    def _members(self) -> Members:
        return self._held or Members(self.param_groups)

    @property
    def parameters(self) -> list[Tensor]:
        return self._members.parameters

    @property
    def points(self) -> Vector:
        """The perturbed parameters at w, detached views of them; frozen parameters are never moved."""
        return self._members.points


def scalar(loss: Any) -> Tensor:
    """The loss that a closure returned, detached, 0-d. ConfigError for anything but a tensor with one number."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = type(loss).__name__ + (f" {tuple(loss.shape)}" if isinstance(loss, Tensor) else "")
        raise ConfigError(f"step: the closure must return the loss, a tensor with one number, not a {kind}.")
    return loss.detach().reshape(())


def accumulate(total: Gradients | None, gradients: Gradients, share: float, *, alone: bool = False) -> Gradients:
    """Weighted sum over groups; a parameter that no group used keeps None, and the base optimizer leaves it alone."""
    if alone:
        return gradients
    scaled = [None if g is None else g * share for g in gradients]
    if total is None:
        return scaled
    return [b if a is None else a if b is None else a.add_(b) for a, b in zip(total, scaled, strict=True)]


def can_skip_on_device(base: Optimizer) -> bool:
    """Whether the fused kernel leaves momentum right when it skips. Fused SGD allocates it in the first step and does not fill it if that
    step is skipped: start it at zero here."""
    if not isinstance(base, torch.optim.SGD):
        return True
    for group in base.param_groups:
        if group["momentum"] and group["dampening"]:
            return False
        for p in group["params"]:
            if group["momentum"] and p.grad is not None and base.state[p].get("momentum_buffer") is None:
                base.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    return True
