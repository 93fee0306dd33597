"""The one contract of every method: look at the loss around w, hand the base optimizer one gradient.

How it is used:

    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05, passes=Passes(model))

    def closure(backward=True):
        loss = criterion(model(images), labels)
        if backward:
            loss.backward()
        return loss

    loss = optimizer.step(closure)
"""

from __future__ import annotations

import inspect
import itertools
import numbers
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sam.config import ConfigError, OptimizerConfig
from sam.core import vectors
from sam.core.ascent import Ascent
from sam.core.passes import Passes
from sam.core.replicas import ALONE, Replicas
from sam.core.scaling import LossScale
from sam.core.vectors import Vector

Closure = Callable[..., Tensor]
Gradients = list[Tensor | None]
# Arguments of constructors -> the keys of OptimizerConfig whose bounds they have, where the names differ.
_STEPS = dict.fromkeys(("steps", "search_interval"), "ascent_steps")
_KEYS = {"rule": "step_rule", "alphas": "alpha_grid", "loss_decay": "weight_decay", **_STEPS}


@dataclass(frozen=True)
class _Members:
    """The parameters of all groups in order; the same as detached views; which are perturbed; the views of those; their radii."""

    parameters: list[Tensor]
    values: Vector
    chosen: list[bool]
    points: Vector
    radii: list[float]


def _look_up(groups: Sequence[dict[str, Any]]) -> _Members:
    parameters = [p for group in groups for p in group["params"]]
    chosen = [group["perturb"] and p.requires_grad for group in groups for p in group["params"]]
    radii = [group["rho"] for group in groups for _ in group["params"]]
    values = [p.detach() for p in parameters]
    points, radii = list(itertools.compress(values, chosen)), list(itertools.compress(radii, chosen))
    return _Members(parameters, values, chosen, points, radii)


class Method(torch.optim.Optimizer):
    """A torch optimizer around a base optimizer, whose parameter groups it shares (schedulers and per-group `rho` just work).

    Group keys beside the base optimizer's: `rho` (radius), `perturb` (whether the group is perturbed at all), `loss_decay`: lambda of a
    weight decay *in the loss*: lambda w is added to the gradient of every pass, at the weights of that pass; never to the reported loss.

    base:        hands out the step; any torch optimizer.
    norm_scope:  global | layer | filter, see `sam.core.vectors.normalize_`.
    grad_clip:   largest norm of the descent gradient.
    passes:      `Passes(model)`: BatchNorm statistics and dropout masks across the passes; None: plain vector arithmetic.
    replicas:    processes that each look at some of the groups of a step; they exchange the descent gradient, once a step.
    scaling:     `LossScale(device)` where closures back-propagate a scaled loss (float16). Every rule here is linear in the gradients or
                 normalises them, so a step carries scaled gradients throughout (weight decay in the loss scaled alike) and divides once,
                 before the base optimizer.

    After each step `stats` holds 0-d tensors on the device: grad_norm (of the first pass), eps_over_rho, cos_g_eps, decay_ratio
    (lambda ||w|| / ||g||); the last two only where `diagnose` is set. `forwards` and `backwards` count passes over a whole batch,
    `steps_taken` the steps.
    A step with a gradient that is not finite, in any pass, is skipped: weights and base optimizer stay as they are, `skipped` (0-d tensor)
    counts, `bad` (0-d bool) tells of the last step. With `scaling`, BatchNorm's running statistics stay as they were too; without it such a
    step belongs to a run that diverges, and they show it.
    """

    moves = True  # evaluates away from w
    shrink: Tensor | None = None  # of this step's ascents: their radii are rho times it

    def __init__(
        self,
        base: torch.optim.Optimizer,
        *,
        rho: float = 0.0,
        norm_scope: str = "global",
        loss_decay: float = 0.0,
        grad_clip: float | None = None,
        passes: Passes | None = None,
        replicas: Replicas = ALONE,
        scaling: LossScale | None = None,
    ) -> None:
        own, name = {"rho": rho, "perturb": True, "loss_decay": loss_decay}, type(base).__name__
        if not isinstance(base, torch.optim.Optimizer) or isinstance(base, Method):
            raise ConfigError(f"{type(self).__name__}: wraps a torch optimizer, as in SAM(SGD(...), rho=0.05), not a {name}.")
        closure, taken = inspect.signature(base.step).parameters.get("closure"), own.keys() & base.defaults.keys()
        if taken or (closure is not None and closure.default is closure.empty):  # Adadelta; LBFGS
            why = f"has a setting `{min(taken)}` of its own" if taken else "needs a closure, and evaluates it elsewhere"
            raise ConfigError(f"{type(self).__name__}: cannot wrap {name}, which {why}.")
        self._check(norm_scope=norm_scope, grad_clip=grad_clip)
        self.base = base
        super().__init__(base.param_groups, {**base.defaults, **own})  # schedulers look for the base's
        self._share()
        self.norm_scope, self.grad_clip, self.passes = norm_scope, grad_clip, passes
        self.replicas, self.scaling = replicas, scaling
        self.diagnose = True
        self.stats: dict[str, Tensor] = {}
        self.forwards = self.backwards = 0.0
        self.steps_taken = 0
        self._weight = 1.0
        self._held: _Members | None = None
        self._climbed: list[list[Tensor]] = []  # norms of the gradients of this step's ascents
        self._known: tuple[Gradients, Tensor] | None = None  # gradients whose norm is known, and the norm
        self.skipped = torch.zeros((), dtype=torch.int64, device=self.parameters[0].device)
        self.bad = torch.zeros((), dtype=torch.bool, device=self.skipped.device)
        low = next((p.dtype for p in self.parameters if p.dtype in (torch.float16, torch.bfloat16)), None)
        if self.moves and low is not None:
            raise ValueError(
                f"{type(self).__name__} cannot perturb {low} weights: a perturbation of radius {rho:g} is below their spacing and would "
                "mostly be rounded away; keep the parameters in float32 and use autocast."
            )

    # ------------------------------------------------------------------------------------------ what a method writes

    def begin(self) -> None:
        """Called once a step, before any group is looked at (XSAM forgets the probes of a search that was interrupted)."""

    def look(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Any]:
        """Run every pass for one group of samples; return (loss at w, descent direction)."""
        raise NotImplementedError

    def pass_over(self) -> None:
        """Called for a group that another replica looks at: advance the method's random stream as `look` would."""

    def descent(self, direction: Any) -> Gradients:
        """The gradient for the base optimizer, from what `look` returned. XSAM defers it until alpha is known."""
        return direction

    def decide(self) -> None:
        """Called once a step, after every group was looked at (XSAM picks alpha)."""

    defer = False  # hold the directions of all groups until `decide`

    @property
    def repeats(self) -> bool:
        """Whether the host has nothing to decide in the coming step, so that replaying what it launched in another one is the same."""
        return True

    @property
    def generators(self) -> list[torch.Generator]:
        """The method's own random streams that steps draw from."""
        return []

    @classmethod
    def options(cls, config: OptimizerConfig, *, steps_per_epoch: int, generator: torch.Generator) -> dict[str, Any]:
        """Constructor arguments beside the common ones, from the flat schema; `generator` is the method's own random stream."""
        return {}

    # ------------------------------------------------------------------------------------------------------ the step

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Closure | Sequence[Closure | None] | None = None,
        *,
        ascent: Closure | Sequence[Closure | None] | None = None,
        weights: Sequence[float] | None = None,
    ) -> Tensor:
        """One update; returns the loss at w (0-d tensor; the weighted mean over groups).

        closure:  evaluates the loss at the weights as they are, back-propagates into `.grad`, returns the loss. A list of closures is
                  m-sharpness: each group of samples has its own perturbation, loss and gradient are averaged with `weights`
                  (n_i/n for groups of n_i samples; equal by default). None stands for a group that another replica looks at.
        ascent:   closure(s) of another batch, on which the perturbation is computed (the loss returned is then that batch's).
        """
        closures = list(closure) if isinstance(closure, Sequence) else [closure]
        others = closures if ascent is None else list(ascent) if isinstance(ascent, Sequence) else [ascent]
        if not closures or len(others) != len(closures) or (weights is not None and len(weights) != len(closures)):
            raise ValueError("step: closures, ascent closures and weights must be equally many, and at least one.")
        if bad := [c for c in (*closures, *others) if not callable(c) and (c is not None or self.replicas.size == 1)]:
            raise ConfigError(f"step: needs a closure that computes the loss, back-propagates and returns it, not {bad[0]!r:.40}.")
        shares = [1 / len(closures)] * len(closures) if weights is None else list(weights)
        self.stats, self._climbed = {}, []
        self._held = _look_up(self.param_groups)  # groups, radii and frozen flags are looked up once a step
        try:
            loss = self._step(closures, others, shares)
            self.steps_taken += 1
            return loss
        finally:
            self._held = self._known = None  # no gradient is kept longer than its step

    def _step(self, closures: Sequence[Closure | None], others: Sequence[Closure | None], shares: Sequence[float]) -> Tensor:
        self.begin()
        if self.moves and not self.points:
            raise ValueError(f"{type(self).__name__} has no parameter to perturb: every one is frozen or in a group with `perturb` off.")
        counted = self.forwards, self.backwards
        losses: list[Tensor] = []
        held: list[tuple[Any, float]] = []
        total: Gradients | None = None
        with self.passes.step() if self.passes else nullcontext():
            for own, other, share in zip(closures, others, shares, strict=True):
                if own is None or other is None:
                    self.pass_over()
                    continue
                self._weight = share
                with self.passes.group() if self.passes else nullcontext():
                    loss, direction = self.look(own, other)
                losses.append(loss * share if len(closures) > 1 else loss)
                if self.defer:
                    held.append((direction, share))
                else:
                    total = self._accumulate(total, self.descent(direction), share, alone=len(closures) == 1)
        self.decide()
        for direction, share in held:
            total = self._accumulate(total, self.descent(direction), share, alone=len(closures) == 1)
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum() if losses else self.parameters[0].new_zeros(())
        if self.replicas.size > 1:
            total, loss = self._sum_over_replicas(total, loss, counted)
        self._update(total or [])
        return loss

    # ------------------------------------------------------------------------------------------- the verbs of a method

    def evaluate(self, closure: Closure, at: Vector | None = None) -> tuple[Tensor, Gradients]:
        """One forward and backward: (loss, 0-d; gradients incl. weight decay in the loss, shaped like the parameters, None for an unused
        one), off `.grad`.

        at: where the perturbed parameters stand in this pass, tensors of their shapes in their order (an ascent's `points`); None: at w.
        With loss scaling the gradients are those of the scaled loss; the loss is not scaled.
        """
        parameters, values = self.parameters, self._members.values
        for p in parameters:
            p.grad = None
        with self._standing(at), torch.enable_grad():
            loss = self._scalar(closure())
        if at is not None:
            there = iter(at)
            values = [next(there) if chosen else w for w, chosen in zip(values, self._members.chosen, strict=True)]
        self.forwards += self._weight
        self.backwards += self._weight
        gradients = [p.grad for p in parameters]
        if all(g is None for g in gradients):
            raise ConfigError("step: the closure left no gradient; it must call loss.backward() before it returns the loss.")
        for p in parameters:
            p.grad = None
        pairs = zip(gradients, values, strict=True)
        for group in self.param_groups:
            used = [(g, w) for g, w in itertools.islice(pairs, len(group["params"])) if g is not None]
            if group["loss_decay"] and used:
                factor = group["loss_decay"] if self.scaling is None else group["loss_decay"] * self.scaling.value
                vectors.add_([g for g, _ in used], [w for _, w in used], factor)
        return loss, gradients

    @staticmethod
    def _scalar(loss: Any) -> Tensor:
        """The loss that a closure returned, detached, 0-d."""
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            kind = type(loss).__name__ + (f" {tuple(loss.shape)}" if isinstance(loss, Tensor) else "")
            raise ConfigError(f"step: the closure must return the loss, a tensor with one number, not a {kind}.")
        return loss.detach().reshape(())

    @classmethod
    def _check(cls, **arguments: Any) -> None:
        """Refuse a constructor argument that the bounds of its key in `OptimizerConfig` do not allow. Raises ConfigError."""
        for name, value in arguments.items():
            key = _KEYS.get(name, name)
            default = getattr(OptimizerConfig(), key)
            try:
                if (value is None and default is not None) or (isinstance(default, int) and not isinstance(value, numbers.Integral)):
                    raise TypeError
                OptimizerConfig(**{key: value})
            except TypeError as error:
                raise ConfigError(f"{cls.__name__}: {name}={value!r}: must be a number, or numbers, such as {default or 0.5}.") from error
            except ConfigError as error:
                raise ConfigError(f"{cls.__name__}: {str(error).replace(f'optimizer.{key}', name)}") from error

    def probe(self, closure: Closure, at: Vector) -> Tensor:
        """One forward, no backward, with the perturbed parameters at `at` (as in `evaluate`): the loss, weight decay in the loss included
        (0-d tensor). ValueError if the closure cannot leave out the backward pass."""
        if "backward" not in inspect.signature(closure).parameters:
            raise ValueError("XSAM's search evaluates the loss without a backward pass: its closure must take `backward=True`.")
        with self._standing(at):
            loss = self._scalar(closure(backward=False))
            for group in self.param_groups:
                if group["loss_decay"]:
                    loss = loss + group["loss_decay"] / 2 * vectors.norm([p.detach() for p in group["params"]]) ** 2
        self.forwards += self._weight
        return loss

    def ascent(self, steps: int = 1, rule: str = "split") -> Ascent:
        """An ascent from w over the perturbed parameters."""
        climb = Ascent(self.points, self.radii, steps=steps, rule=rule, scope=self.norm_scope, shrink=self.shrink)
        self._climbed.append(climb.lengths)
        return climb

    def perturbed(self, gradients: Gradients) -> Vector:
        """The part of `gradients` that belongs to perturbed parameters; zeros for a parameter this pass did not use."""
        pairs = zip(self.parameters, gradients, self._members.chosen, strict=True)
        return [torch.zeros_like(p) if g is None else g for p, g, chosen in pairs if chosen]

    @staticmethod
    def is_whole(part: Vector, gradients: Gradients) -> bool:
        """Whether `part`, which `perturbed` gave, is all of `gradients`."""
        return len(part) == len(gradients) and all(map(operator.is_, part, gradients))

    def note_norm(self, gradients: Gradients, length: Tensor) -> None:
        """Spare the step the norm of `gradients`, should they become the descent gradient."""
        self._known = (gradients, length)

    def record_first(self, gradients: Gradients) -> Tensor:
        """Note the first pass's gradient norm (and lambda ||w|| / ||g|| where weight decay is in the loss), and return it."""
        present = [g for g in gradients if g is not None]
        length = vectors.norm(present) if present else torch.zeros(())
        self.note_norm(gradients, length)
        plain = length if self.scaling is None else length / self.scaling.value
        self.record("grad_norm", plain)
        decays = [(group["loss_decay"], group["params"]) for group in self.param_groups if group["loss_decay"]]
        if self.diagnose and decays:
            pull = torch.stack([decay * vectors.norm([p.detach() for p in params]) for decay, params in decays])
            self.record("decay_ratio", torch.linalg.vector_norm(pull) / plain)
        return length

    def record(self, name: str, value: Tensor) -> None:
        """Add a group's share to the step's mean in `stats`."""
        share = value.float() * self._weight
        self.stats[name] = self.stats[name] + share if name in self.stats else share

    # -------------------------------------------------------------------------------------------------------- inside

    @property
    def _members(self) -> _Members:
        return self._held or _look_up(self.param_groups)

    @property
    def parameters(self) -> list[Tensor]:
        return self._members.parameters

    @property
    def points(self) -> Vector:
        """The perturbed parameters at w, detached views of them; frozen parameters are never moved."""
        return self._members.points

    @property
    def radii(self) -> list[float]:
        return self._members.radii

    @contextmanager
    def _standing(self, at: Vector | None) -> Iterator[None]:
        """A pass happens inside: the perturbed parameters point to the tensors `at`, and afterwards to their own again, whatever happens.

        So w itself is never written in a step but by the base optimizer: nothing to save, nothing to put back, and its addresses stay.
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

    @staticmethod
    def _accumulate(total: Gradients | None, gradients: Gradients, share: float, *, alone: bool) -> Gradients:
        """Weighted sum over groups; a parameter that no group used keeps None, and the base optimizer leaves it alone."""
        if alone:
            return gradients
        scaled = [None if g is None else g * share for g in gradients]
        if total is None:
            return scaled
        return [b if a is None else a if b is None else a.add_(b) for a, b in zip(total, scaled, strict=True)]

    def _sum_over_replicas(self, total: Gradients | None, loss: Tensor, counted: tuple[float, float]) -> tuple[Gradients, Tensor]:
        """The descent gradient, the loss and the passes counted since `counted`, of the groups of all replicas; and the norms of their
        ascent gradients, so that all skip the step that one of them must skip."""
        loss = loss.clone()
        climbed = torch.stack([torch.zeros_like(loss), *itertools.chain(*self._climbed)]).sum()
        summed = self.replicas.sum_gradients(total or [None] * len(self.parameters), self.parameters, loss, climbed)
        self._climbed = [[climbed]]
        passes = self.replicas.sum_numbers([self.forwards - counted[0], self.backwards - counted[1]])
        self.forwards, self.backwards = counted[0] + passes[0], counted[1] + passes[1]
        return summed, loss

    def _update(self, gradients: Gradients) -> None:
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g
        present = [g for g in gradients if g is not None]
        if not present:
            return
        # Known where the first pass's gradient is the descent gradient itself (SGD, Rand-SAM), and from XSAM's plane.
        length = self._known[1] if self._known and self._known[0] is gradients else vectors.norm(present)
        scale = 1.0 if self.scaling is None else self.scaling.value
        if self.scaling is not None:
            vectors.scale_(present, 1 / scale)
        if self.grad_clip is not None:
            vectors.scale_(present, (self.grad_clip / (length / scale + 1e-6)).clamp(max=1.0))
        lengths = [length, *itertools.chain(*self._climbed)]
        bad = self.bad = ~torch.isfinite(torch.stack(lengths).sum())
        self.skipped += bad
        if self.scaling is not None:
            self.scaling.update(bad)
            if self.passes:
                self.passes.undo_if(bad)
        if all(group.get("fused") for group in self.param_groups) and self._ready_for_device_skip():
            self.base.found_inf = bad.float()  # type: ignore[attr-defined]  # the kernel itself leaves everything alone: no host sync
            self.base.step()
            del self.base.found_inf  # type: ignore[attr-defined]
        elif not bool(bad):
            self.base.step()

    def _ready_for_device_skip(self) -> bool:
        """Fused SGD allocates its momentum in the first step without filling it if that step is skipped: start it at zero instead."""
        if not isinstance(self.base, torch.optim.SGD):
            return True
        for group in self.param_groups:
            if group["momentum"] and group["dampening"]:
                return False
            for p in group["params"]:
                if group["momentum"] and p.grad is not None and self.base.state[p].get("momentum_buffer") is None:
                    self.base.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return True

    # ------------------------------------------------------------------------------------------------- groups and state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if not any(param_group is group for group in self.base.param_groups):
            self.base.add_param_group(param_group)
        for key, value in self.defaults.items():
            param_group.setdefault(key, value)
        self._check(rho=param_group["rho"], loss_decay=param_group["loss_decay"])

    def _share(self) -> None:
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    def __getstate__(self) -> dict[str, Any]:
        """For copy.deepcopy and pickle: all but hooks, and what a scheduler has put around `step`. (Torch's own keeps the groups alone.)"""
        return {key: value for key, value in vars(self).items() if key != "step" and not key.startswith("_optimizer_")}

    def report(self) -> dict[str, Any]:
        """Host-side numbers of the method's own, for an epoch's record (alpha, the last search's probe losses)."""
        return {}

    def method_state(self) -> dict[str, Any]:
        """What the method itself must remember between steps (alpha, a random generator)."""
        return {}

    def load_method_state(self, state: dict[str, Any]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's state (momentum, groups) and the method's own; nothing that can be derived."""
        counters = {"forwards": self.forwards, "backwards": self.backwards, "skipped": int(self.skipped)}
        state = {"base": self.base.state_dict(), "method": self.method_state(), "counters": counters}
        return state if self.scaling is None else state | {"scaling": self.scaling.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        self.base.load_state_dict(state_dict["base"])
        self._share()  # the base optimizer has made new lists
        self.load_method_state(state_dict["method"])
        if self.scaling is not None and "scaling" in state_dict:
            self.scaling.load_state_dict(state_dict["scaling"])
        counters = state_dict["counters"]
        self.forwards, self.backwards = counters["forwards"], counters["backwards"]
        self.skipped.fill_(counters["skipped"])
