"""The one contract of every method: look at the loss around w, hand the base optimizer one gradient.

optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05, passes=Passes(model))
loss = optimizer.step(closure)  # closure(backward=True) computes the loss, back-propagates it if asked to, and returns it
"""

import inspect
import itertools
from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar, dataclass_transform

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from sam.config import ConfigError
from sam.core import vectors
from sam.core.device import LossScale
from sam.core.passes import Passes
from sam.core.replicas import ALONE, Replicas
from sam.optimizers.settings import KEYS, check_arguments
from sam.optimizers.verbs import Closure, Gradients, Members, Verbs, accumulate, can_skip_on_device


@dataclass_transform(eq_default=False, kw_only_default=True)
@dataclass(eq=False, repr=False)
class Method(Verbs):
    """A torch optimizer around a base optimizer, whose parameter groups it shares (schedulers and per-group `rho` just work).

    Group keys beside the base optimizer's: `rho` (radius), `perturb` (whether the group is perturbed at all), `loss_decay`: lambda of a
    weight decay *in the loss*: lambda w is added to the gradient of every pass, at the weights of that pass; never to the reported loss.

    norm_scope:  global | layer | filter, see `sam.core.vectors.normalize_`.
    grad_clip:   largest norm of the descent gradient.
    passes:      `Passes(model)`: BatchNorm statistics and dropout masks across the passes; None: plain vector arithmetic.
    replicas:    processes that each take some of the groups of a step; they exchange the descent gradient once a step.
    scaling:     `LossScale(device)` where closures back-propagate a scaled loss (float16). Every rule here is linear in the gradients or
                 normalises them, so a step carries scaled gradients throughout (weight decay in the loss scaled alike) and divides once,
                 before the base optimizer.
    generator:   the random stream of a method that draws; None: one that torch.manual_seed decides.

    The annotated attributes of a subclass are further keywords of its constructor, as in a dataclass, or other defaults of these.

    After each step `stats` holds 0-d tensors on the device: grad_norm (of the first pass); where `diagnose` is set also eps_over_rho
    (||eps|| / rho), cos_g_eps (cosine of the first gradient and eps) and decay_ratio (lambda ||w|| / ||g||). `forwards` and `backwards`
    count passes over a whole batch, `steps_taken` the steps.
    A step with a gradient that is not finite, in any pass, is skipped: weights and base optimizer stay as they are, `skipped` (0-d tensor)
    counts, `bad` (0-d bool) tells of the last step. With `scaling`, BatchNorm's running statistics stay as they were too; without it such a
    step belongs to a run that diverges, and they show it.
    """

    base: Optimizer
    _: KW_ONLY
    rho: float = 0.0
    norm_scope: str = "global"
    loss_decay: float = 0.0
    grad_clip: float | None = None
    passes: Passes | None = None
    replicas: Replicas = ALONE
    scaling: LossScale | None = None
    generator: Generator | None = None

    def __init_subclass__(cls) -> None:
        by_hand = {"own", "__init__"} & vars(cls).keys()
        dataclass(eq=False, repr=False, kw_only=True)(cls)  # a constructor written by hand stays
        every = {*dir(Method), "state", "defaults", "param_groups", "stats", "generators", "skipped", "bad"}
        if taken := ({f.name for f in fields(cls)} - {f.name for f in fields(Method)}) & every:
            raise ConfigError(f"{cls.__name__}: {min(taken)} is something else in every method; the key needs another name.")
        if not by_hand:
            known = {*cls.own, *(f.name for f in fields(Method))}
            cls.own += tuple(f.name for f in fields(cls) if f.name not in known)

    def __post_init__(self) -> None:
        own = {"rho": self.rho, "perturb": True, "loss_decay": self.loss_decay}
        refuse_base(type(self), self.base, own)
        keys = {name: vars(self)[name] for name in self.own if name in vars(self)}  # a constructor written by hand checks its own
        check_arguments(type(self), **keys, norm_scope=self.norm_scope, grad_clip=self.grad_clip)
        super().__init__(self.base.param_groups, {**self.base.defaults, **own})  # schedulers look for the base's
        self._share()
        seed = 0 if self.generator else self.replicas.from_first(torch.initial_seed()) ^ 0x5A4D  # no stream that made the model
        own_stream = self.generator or Generator(self.parameters[0].device).manual_seed(seed)
        self.generators: Sequence[Generator] = [own_stream] if self.draws or self.draws_points else []  # streams that steps draw from
        self.stats: dict[str, Tensor] = {}
        self._climbs, self._climbed, self._first = [], [], []
        self.skipped = torch.zeros((), dtype=torch.int64, device=self.parameters[0].device)
        self.bad = torch.zeros((), dtype=torch.bool, device=self.skipped.device)
        low = next((p.dtype for p in self.parameters if p.dtype in (torch.float16, torch.bfloat16)), None)
        if self.moves and low is not None:
            why = f"a perturbation of radius {self.rho:g} is below their spacing and would mostly be rounded away"
            raise ValueError(f"{type(self).__name__} cannot perturb {low} weights: {why}; keep the parameters in float32 and use autocast.")

    # ------------------------------------------------------------------------------------------ what a method writes

    def begin(self) -> None:
        """Called once a step, before any pass (XSAM forgets the probes of a search that was interrupted)."""

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Any]:
        """Run every pass for one group of samples; return (loss at w, descent direction)."""
        raise NotImplementedError

    def pass_over(self) -> None:
        """Called for a group that another replica takes: advance the method's random stream as `run_passes` would, so that
        a group's draw does not depend on which replica looks at it."""
        if self.draws_points:
            vectors.normal_like(self.points, self.generators[0])

    def descent(self, direction: Any) -> Gradients:
        """The gradient for the base optimizer, from what `run_passes` returned. XSAM defers it until alpha is known."""
        return direction

    def decide(self) -> None:
        """Called once a step, after all passes (XSAM picks alpha)."""

    def settle(self) -> None:
        """Called once a step, after the update: `bad` tells whether it was skipped (F-SAM renews its mean gradient)."""

    @property
    def _step_supports_amp_scaling(self) -> bool:  # torch's GradScaler asks, and would hand on gradients that are still scaled
        raise ConfigError("GradScaler: cannot serve a closure; use scaling=LossScale(device), and back-propagate its value times the loss.")

    moves = True  # evaluates away from w
    draws = False  # something in each step, from `generator`
    draws_points = False  # a normal vector for each group of samples, from the same
    defer = False  # hold the directions of all groups until `decide`
    repeats = True  # the next step launches the same kernels as the last one of its `phase`, so that a captured graph may be replayed
    phase: ClassVar[Hashable] = None  # of the next step: steps of another phase launch other kernels (late-phase SAM's two)
    remembered: ClassVar[tuple[str, ...]] = ()  # attributes that make up the method's state
    own: ClassVar[tuple[str, ...]] = ()  # keywords that are keys of its settings, or stand for one (`KEYS`): by default those it adds

    @classmethod
    def options(cls, config: Any, *, steps_per_epoch: int, total_steps: int, generator: torch.Generator) -> dict[str, Any]:
        """Constructor arguments beside the common ones: `own`. config: the method's settings; total_steps: of the whole run; generator: the
        method's own random stream."""
        if lost := [name for name in cls.own if not hasattr(config, KEYS.get(name, name))]:
            raise ConfigError(f"{cls.__name__}: {lost[0]} is no key of its settings; an attribute that is none has no annotation.")
        return {name: getattr(config, KEYS.get(name, name)) for name in cls.own}

    def report(self) -> dict[str, Any]:
        """Host-side numbers for an epoch's record (alpha, the last search's probe losses)."""
        return {}

    def method_state(self) -> dict[str, Any]:
        """What the method itself must remember between steps: `remembered`, and where its streams stand."""
        state = {name: getattr(self, name) for name in self.remembered}
        return state | {"streams": [g.get_state() for g in self.generators]} if self.generators else state

    def load_method_state(self, state: dict[str, Any]) -> None:
        for name in self.remembered:
            setattr(self, name, state.get(name, getattr(self, name)))  # older states lack some
        streams = [state["generator"]] if "generator" in state else state.get("streams", [])  # an older state's name for the only one
        for generator, stream in zip(self.generators, streams, strict=True):
            generator.set_state(stream.cpu())  # checkpoints are read onto the model's device

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
                  (n_i/n for groups of n_i samples; equal by default). None stands for a group that another replica takes.
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
        self._held = Members(self.param_groups)  # groups, radii and frozen flags are looked up once a step
        try:
            loss = self._step(closures, others, shares)
            self.steps_taken += 1
            return loss
        finally:  # no gradient is kept longer than its step
            self._held = self._known = None
            self._climbs, self._first = [], []

    def _step(self, closures: Sequence[Closure | None], others: Sequence[Closure | None], shares: Sequence[float]) -> Tensor:
        self.begin()
        if self.moves and not self.points:
            raise ValueError(f"{type(self).__name__} has no parameter to perturb: every one is frozen or in a group with `perturb` off.")
        counted, alone = (self.forwards, self.backwards), len(closures) == 1
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
                    loss, direction = self.run_passes(own, other)
                self._record_ascents()
                losses.append(loss if alone else loss * share)
                if self.defer:
                    held.append((direction, share))
                else:
                    total = accumulate(total, self.descent(direction), share, alone=alone)
        self.decide()
        for direction, share in held:
            total = accumulate(total, self.descent(direction), share, alone=alone)
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum() if losses else self.parameters[0].new_zeros(())
        if self.replicas.size > 1:
            total, loss = self._sum_over_replicas(total, loss, counted)
        self._update(total or [])
        return loss

    def _update(self, gradients: Gradients) -> None:
        """Take the descent gradient to new weights: unscale, clip, and step, unless its norm or an ascent's is not finite."""
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g
        if not (present := [g for g in gradients if g is not None]):
            return
        # Known where the first pass's gradient is the descent gradient itself (SGD, Rand-SAM), and from XSAM's plane.
        intact = (known := self._known) and known[0] is gradients and known[2] == [g._version for g in present]
        length = known[1] if known and intact else vectors.norm(present)
        if self.scaling is not None:
            vectors.scale_(present, 1 / self.scale)
        if self.grad_clip is not None:
            vectors.scale_(present, (self.grad_clip / (length / self.scale + 1e-6)).clamp(max=1.0))
        self.bad = ~torch.isfinite(torch.stack([length, *itertools.chain(*self._climbed)]).sum())
        if all(group.get("fused") for group in self.base.param_groups) and can_skip_on_device(self.base):
            self.base.found_inf = self.bad.float()  # type: ignore[attr-defined]  # the kernel leaves everything alone: no host sync
            self.base.step()
            del self.base.found_inf  # type: ignore[attr-defined]
        elif not bool(self.bad):
            self.base.step()
        self.skipped += self.bad
        self.settle()
        if self.scaling is not None:
            self.scaling.update(self.bad)
            if self.passes:
                self.passes.undo_if(self.bad)

    def _sum_over_replicas(self, total: Gradients | None, loss: Tensor, counted: tuple[float, float]) -> tuple[Gradients, Tensor]:
        """Sum over all replicas the descent gradient, the loss, the passes counted since `counted`, and the lengths of the ascents, so that
        all skip a step that one of them must skip."""
        loss = loss.clone()
        climbed = torch.stack([torch.zeros_like(loss), *itertools.chain(*self._climbed)]).sum()
        summed = self.replicas.sum_gradients(total or [None] * len(self.parameters), self.parameters, loss, climbed)
        self._climbed = [[climbed]]
        passes = self.replicas.sum_numbers([self.forwards - counted[0], self.backwards - counted[1]])
        self.forwards, self.backwards = counted[0] + passes[0], counted[1] + passes[1]
        return summed, loss

    # ------------------------------------------------------------------------------------------------- groups and state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if not any(param_group is group for group in self.base.param_groups):
            self.base.add_param_group(param_group)
        for key, value in self.defaults.items():
            param_group.setdefault(key, value)
        check_arguments(type(self), rho=param_group["rho"], loss_decay=param_group["loss_decay"])

    def _share(self) -> None:
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    def __getstate__(self) -> dict[str, Any]:
        """For copy.deepcopy and pickle: all but hooks, and what a scheduler has put around `step`. (Torch's own keeps the groups alone.)"""
        return {key: value for key, value in vars(self).items() if key != "step" and not key.startswith("_optimizer_")}

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's state (momentum, groups) and the method's own; nothing that can be derived."""
        counters = {"forwards": self.forwards, "backwards": self.backwards, "skipped": int(self.skipped)}
        state = {"base": self.base.state_dict(), "method": self.method_state(), "counters": counters}
        return state if self.scaling is None else state | {"scaling": self.scaling.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        if "base" not in state_dict:
            raise ConfigError(f"{type(self).__name__}: this is a base optimizer's state; load it into that, before it is wrapped.")
        self.base.load_state_dict(state_dict["base"])
        self._share()  # the base optimizer has made new lists
        self.load_method_state(state_dict["method"])
        if self.scaling is not None and "scaling" in state_dict:
            self.scaling.load_state_dict(state_dict["scaling"])
        counters = state_dict["counters"]
        self.forwards, self.backwards = counters["forwards"], counters["backwards"]
        self.skipped.fill_(counters["skipped"])


def refuse_base(method: type, base: Any, own: dict[str, Any]) -> None:
    """Raise ConfigError for a base optimizer that `method` cannot wrap."""
    name = type(base).__name__
    if not isinstance(base, torch.optim.Optimizer) or isinstance(base, Method):
        raise ConfigError(f"{method.__name__}: wraps a torch optimizer, as in SAM(SGD(...), rho=0.05), not a {name}.")
    closure, taken = inspect.signature(base.step).parameters.get("closure"), own.keys() & base.defaults.keys()
    taken = {"maximize"} if any(group.get("maximize") for group in base.param_groups) else taken  # an ascent would climb the wrong way
    if taken or (closure is not None and closure.default is closure.empty):  # Adadelta; LBFGS
        why = f"has a setting `{min(taken)}` of its own" if taken else "needs a closure, and evaluates it elsewhere"
        raise ConfigError(f"{method.__name__}: cannot wrap {name}, which {why}.")
