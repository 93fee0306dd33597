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
    betas: list[float] = key([0.9, 0.999], "AdamW's decay of its two moments", low=0, high=1)
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

    def probes(self, steps_per_epoch: int, epochs: int) -> int:
        """Forwards of the whole run beside those of its passes."""
        return 0


@dataclass(frozen=True)
class PerturbingConfig(OptimizerConfig):
    """norm_only: normalisation parameters; weights_only: tensors with two or more dimensions. layer, filter: each tensor (each output
    filter) gets an equal share of the length."""

    rho: float = key(0.05, "radius of the perturbation (Euclidean norm over all perturbed parameters)", low=0)
    perturb: str = key("all", "which parameters", among=("all", "no_norm", "norm_only", "weights_only"))
    norm_scope: str = key("global", "what shares one norm; the whole has norm rho in any case", among=("global", "layer", "filter"))


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

    @property
    def search_radius(self) -> float:
        """rho_max, with its default filled in."""
        return 2 * self.rho if self.rho_max is None else self.rho_max

    def search_interval(self, steps_per_epoch: int) -> int:
        """Steps between searches."""
        return max(1, round(self.alpha_refresh * steps_per_epoch))

    def probes(self, steps_per_epoch: int, epochs: int) -> int:
        searches = math.ceil(steps_per_epoch * epochs / self.search_interval(steps_per_epoch))
        return searches * len(self.alpha_grid) if self.alpha is None else 0


METHODS.add("sgd", "sam.optimizers.sam:SGD", label="SGD")
METHODS.add("rand_sam", "sam.optimizers.sam:RandSAM", DrawnRadiusConfig, label="Rand-SAM")
METHODS.add("sam", "sam.optimizers.sam:SAM", SAMConfig, label="SAM")
METHODS.add("xsam", "sam.optimizers.xsam:XSAM", XSAMConfig, label="XSAM")

# Arguments of constructors whose keys have other names.
_STEPS = {"steps": "ascent_steps", "search_interval": "ascent_steps"}
_KEYS = {"rule": "step_rule", "alphas": "alpha_grid", "loss_decay": "weight_decay", **_STEPS}


def check_arguments(owner: type, **arguments: Any) -> None:
    """Refuse an argument of a method's constructor that its key does not allow. Raises ConfigError that names class and argument."""
    for name, value in arguments.items():
        f = schema(OptimizerConfig)[_KEYS.get(name, name)][1]
        default = default_of(f)
        several = isinstance(value, Sequence) and not isinstance(value, str)
        whole = isinstance(default, int) and not isinstance(value, numbers.Integral)
        try:
            if (value is None and default is not None) or whole or several != isinstance(default, list):
                raise TypeError
            check_value(f, f"{owner.__name__}: {name}", value)
        except TypeError as error:
            raise ConfigError(f"{owner.__name__}: {name}={value!r}: must be a number, or numbers, such as {default or 0.5}.") from error
