"""The keys of every method, and the table of methods. One flat node `optimizer` composes from all of them, so that
`optimizer=sgd,sam optimizer.rho=0.05,0.1` works; a run then has its own method's class, with the keys that this method reads."""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sam.config import ConfigError, Settings, check_value, key
from sam.core.settings import DEFAULT_ALPHAS, STEP_RULES
from sam.registry import Registry
from sam.schema import default_of, schema

METHODS = Registry("optimizer", by="method")


@dataclass(frozen=True)
class OptimizerConfig(Settings, prefix="optimizer.", rows=METHODS):
    """What every method reads: the base optimizer's keys. A method's own class adds its own, and says what it costs."""

    method: str = key("sam", "how a step finds its gradient", among=METHODS)
    base: str = key("sgd", "torch optimizer that takes the step", among=("sgd", "adamw"))
    lr: float = key(0.1, "peak learning rate", above=0)
    momentum: float = key(0.9, "of SGD", low=0, high=1)
    nesterov: bool = key(True, "Nesterov's form of SGD's momentum")
    betas: list[float] = key([0.9, 0.999], "AdamW's decay of its two moments, both < 1", low=0, high=1)
    weight_decay: float = key(5e-4, "lambda", low=0)
    weight_decay_mode: str = key("loss", "loss: part of every gradient; optimizer: the base adds it at w", among=("loss", "optimizer"))
    weight_decay_scope: str = key("all", "which parameters decay", among=("all", "no_norm_bias"))
    grad_clip: float | None = key(None, "largest norm of the descent gradient, or null", above=0)

    def relate(self) -> None:
        if self.nesterov and self.momentum == 0 and self.base == "sgd":
            raise ConfigError("optimizer.nesterov=true with optimizer.momentum=0: needs a momentum > 0; set optimizer.nesterov=false.")
        if len(self.betas) != 2 or max(self.betas) >= 1:
            raise ConfigError(f"optimizer.betas={self.betas}: must be two numbers >= 0 and < 1.")

    @property
    def idle(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("betas",) if self.base == "sgd" else ("momentum", "nesterov")

    @property
    def passes(self) -> float:
        """Forwards and backwards a step; a mean, where steps differ."""
        return 1

    def passes_in(self, steps: int) -> int:
        """Forwards and backwards of a run of so many steps."""
        return round(self.passes * steps)

    def probes(self, steps_per_epoch: int, epochs: int) -> int:
        """Forwards of the whole run beside those of its passes."""
        return 0


@dataclass(frozen=True)
class PerturbingConfig(OptimizerConfig):
    """norm_only: normalisation parameters; weights_only: tensors with two or more dimensions. layer, filter: each tensor (each output
    filter) gets an equal share of the length."""

    rho: float = key(
        0.05, "radius of the perturbation: its norm over all perturbed parameters (of ASAM, USAM, RWP: docs/methods.md)", low=0
    )
    perturb: str = key("all", "which parameters", among=("all", "no_norm", "norm_only", "weights_only"))
    norm_scope: str = key("global", "what shares one norm; each part gets an equal share of rho", among=("global", "layer", "filter"))


@dataclass(frozen=True)
class DrawnRadiusConfig(PerturbingConfig):
    radius: str = key("fixed", "uniform: r ~ U[0, rho] in each step, one for the whole batch", among=("fixed", "uniform"))


@dataclass(frozen=True)
class MultiStepConfig(PerturbingConfig):
    ascent_steps: int = key(1, "N of N-step SAM and k of XSAM", low=1)
    step_rule: str = key(
        "split",
        "split: rho/N per step, no projection (Tiwary & Aananth 2024, Eq. 5); project: rho per step, projected on the ball; accumulate: "
        "rho per step, no projection; boundary: split, then rescaled to norm rho",
        among=STEP_RULES,
    )

    @property
    def idle(self) -> tuple[str, ...]:  # type: ignore[override]
        return super().idle + (("step_rule", "descent_gradient") if self.ascent_steps == 1 else ())  # one step: every rule is the same

    @property
    def passes(self) -> float:
        return self.ascent_steps + 1


@dataclass(frozen=True)
class SAMConfig(MultiStepConfig, DrawnRadiusConfig):
    descent_gradient: str = key("last", "at w^N, or the mean over w^1 .. w^N (not the one at w)", among=("last", "mean"))


@dataclass(frozen=True)
class XSAMConfig(MultiStepConfig):
    rho_max: float | None = key(None, "XSAM's search radius; null: 2 rho", low=0)
    alpha: float | None = key(None, "XSAM without a search: this constant alpha; null: search")
    alpha_grid: list[float] = key(list(DEFAULT_ALPHAS), "candidates of XSAM's search", some="candidate alpha")
    alpha_refresh: float = key(1.0, "epochs between searches (1: on the first batch of every epoch; 0.5: twice an epoch)", above=0)

    @property
    def idle(self) -> tuple[str, ...]:  # type: ignore[override]
        return super().idle + (("rho_max", "alpha_grid", "alpha_refresh") if self.alpha is not None else ())

    def search_interval(self, steps_per_epoch: int) -> int:
        """Steps between searches."""
        return max(1, round(self.alpha_refresh * steps_per_epoch))

    def probes(self, steps_per_epoch: int, epochs: int) -> int:
        searches = math.ceil(steps_per_epoch * epochs / self.search_interval(steps_per_epoch))
        return searches * len(self.alpha_grid) if self.alpha is None else 0


@dataclass(frozen=True)
class TwicePassingConfig(PerturbingConfig):
    """One pass at w and one at w + eps in each step."""

    @property
    def passes(self) -> float:
        return 2


@dataclass(frozen=True)
class ASAMConfig(TwicePassingConfig):
    asam_eta: float = key(0.01, "of ASAM: added to |w| in the scale of the perturbation", low=0, late=True)
    asam_biases: bool = key(False, "of ASAM: scale the perturbation of biases (and shifts) by |w| too", late=True)


@dataclass(frozen=True)
class MixedConfig(PerturbingConfig):
    perturbed_weight: float = key(1.0, "a: descend with (1 - a) grad L(w) + a grad L(w + eps)", low=0, late=True)


@dataclass(frozen=True)
class WeightedConfig(TwicePassingConfig, MixedConfig):
    normalized: bool = key(True, "false: the perturbation is rho g, not rho g/||g|| (USAM)", late=True)

    @property
    def idle(self) -> tuple[str, ...]:  # type: ignore[override]
        return super().idle + (() if self.normalized else ("norm_scope",))


@dataclass(frozen=True)
class GSAMConfig(TwicePassingConfig):
    gsam_alpha: float = key(0.4, "of GSAM: how much of the orthogonal part of grad L(w) is subtracted", low=0, late=True)
    gsam_floor: float = key(1.0, "of GSAM: share of rho that is left at a learning rate of 0; 1: rho is constant", low=0, high=1, late=True)


@dataclass(frozen=True)
class FriendlyConfig(TwicePassingConfig):
    fsam_sigma: float = key(1.0, "of Friendly-SAM: how much of the mean gradient is taken off", low=0, late=True)
    fsam_lambda: float = key(0.6, "of Friendly-SAM: decay of the mean gradient", low=0, high=1, late=True)


@dataclass(frozen=True)
class VaSSOConfig(TwicePassingConfig):
    vasso_theta: float = key(0.9, "of VaSSO: weight of the newest gradient in the direction", low=0, high=1, late=True)


@dataclass(frozen=True)
class MomentumConfig(PerturbingConfig):
    def relate(self) -> None:
        super().relate()
        if self.momentum == 0 and self.base == "sgd":
            raise ConfigError("optimizer.momentum=0 with optimizer.method=momentum_sam: must be > 0, it perturbs against the momentum.")


@dataclass(frozen=True)
class LateConfig(SAMConfig):
    start: float = key(0.875, "of late-phase SAM: share of the steps before SAM's first one", low=0, high=1, late=True)
    stop: float = key(1.0, "of late-phase SAM: share of the steps at SAM's last one; the rest is plain again", low=0, high=1, late=True)

    def relate(self) -> None:
        super().relate()
        if self.stop < self.start:
            raise ConfigError(f"optimizer.stop={self.stop}: must not be smaller than optimizer.start={self.start}.")

    def phase(self, steps: int) -> tuple[int, int]:
        """SAM's first step, and the first one after its last, counted from 0."""
        return round(self.start * steps), round(self.stop * steps)

    @property
    def passes(self) -> float:
        return 1 + (self.stop - self.start) * self.ascent_steps

    def passes_in(self, steps: int) -> int:
        first, end = self.phase(steps)
        return steps + (end - first) * self.ascent_steps


@dataclass(frozen=True)
class RWPConfig(MixedConfig):
    rwp_eta: float = key(0.0, "of RWP: how much smaller the noise is where gradients were large (ARWP); 0: not at all", low=0, late=True)
    rwp_beta: float = key(0.99, "of ARWP: decay of the squared gradients", low=0, high=1, late=True)

    @property
    def idle(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*super().idle, "norm_scope", *(() if self.rwp_eta else ("rwp_beta",)))

    @property
    def passes(self) -> float:
        return 1 if self.perturbed_weight == 1 else 2


@dataclass(frozen=True)
class LookSAMConfig(PerturbingConfig):
    looksam_interval: int = key(5, "of LookSAM: steps from one of SAM's to the next", low=1, late=True)
    looksam_alpha: float = key(0.7, "of LookSAM: length, in that of the gradient, of what the steps in between add", low=0, late=True)

    @property
    def passes(self) -> float:
        return 1 + 1 / self.looksam_interval

    def passes_in(self, steps: int) -> int:
        return steps + math.ceil(steps / self.looksam_interval)


METHODS.add("sgd", "sam.optimizers.sam:SGD", label="SGD")
METHODS.add("rand_sam", "sam.optimizers.sam:RandSAM", DrawnRadiusConfig, label="Rand-SAM")
METHODS.add("sam", "sam.optimizers.sam:SAM", SAMConfig, label="SAM")
METHODS.add("xsam", "sam.optimizers.xsam:XSAM", XSAMConfig, label="XSAM")
METHODS.add("asam", "sam.optimizers.asam:ASAM", ASAMConfig, label="ASAM")
METHODS.add("weighted_sam", "sam.optimizers.weighted:WeightedSAM", WeightedConfig, label="Weighted SAM")
METHODS.add("gsam", "sam.optimizers.gsam:GSAM", GSAMConfig, label="GSAM")
METHODS.add("friendly_sam", "sam.optimizers.friendly:FriendlySAM", FriendlyConfig, label="Friendly-SAM")
METHODS.add("momentum_sam", "sam.optimizers.momentum:MomentumSAM", MomentumConfig, label="Momentum-SAM")
METHODS.add("late_sam", "sam.optimizers.late:LateSAM", LateConfig, label="Late-phase SAM")
METHODS.add("rwp", "sam.optimizers.rwp:RWP", RWPConfig, label="RWP")
METHODS.add("looksam", "sam.optimizers.looksam:LookSAM", LookSAMConfig, label="LookSAM")
METHODS.add("vasso", "sam.optimizers.vasso:VaSSO", VaSSOConfig, label="VaSSO")

# Arguments of constructors whose keys have other names.
_STEPS = {"steps": "ascent_steps", "search_interval": "ascent_steps"}
KEYS = {"rule": "step_rule", "alphas": "alpha_grid", "loss_decay": "weight_decay", **_STEPS}


def check_arguments(owner: type, **arguments: Any) -> None:
    """Refuse an argument of a method's constructor that its key does not allow. Raises ConfigError that names class and argument."""
    for name, value in arguments.items():
        if (known := schema(OptimizerConfig).get(KEYS.get(name, name))) is None:  # a method of one's own that is not registered
            continue
        f, default = known[1], default_of(known[1])
        if isinstance(default, bool):  # whatever is given is true or false
            continue
        several = isinstance(value, Sequence) and not isinstance(value, str)
        whole = isinstance(default, int) and not isinstance(value, numbers.Integral)
        try:
            if (value is None and default is not None) or whole or several != isinstance(default, list):
                raise TypeError
            check_value(f, f"{owner.__name__}: {name}", value)
        except TypeError as error:
            raise ConfigError(f"{owner.__name__}: {name}={value!r}: must be a number, or numbers, such as {default or 0.5}.") from error
