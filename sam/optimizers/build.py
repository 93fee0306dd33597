"""From settings to an optimizer: the base optimizer with its parameter groups, and the method around it."""

from typing import Any

from torch import Generator, nn
from torch.optim import SGD, AdamW, Optimizer

from sam.config import ConfigError
from sam.core.device import LossScale
from sam.core.passes import Passes, norm_parameters
from sam.core.replicas import ALONE, Replicas
from sam.optimizers.base import Method
from sam.optimizers.settings import METHODS, OptimizerConfig


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Trainable parameters grouped by (perturbed or not, decayed or not), in the model's order within a group."""
    of_norms = norm_parameters(model)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in (p for p in model.parameters() if p.requires_grad):
        in_norm, is_weight = id(p) in of_norms, p.ndim > 1
        chosen = getattr(config, "perturb", "all")
        perturb = {"all": True, "no_norm": not in_norm, "norm_only": in_norm, "weights_only": is_weight}[chosen]
        decay = config.weight_decay_scope == "all" or (is_weight and not in_norm)
        groups.setdefault((perturb, decay), []).append(p)
    where = "loss_decay" if config.weight_decay_mode == "loss" else "weight_decay"
    return [
        {"params": params, "perturb": perturb, "weight_decay": 0.0, "loss_decay": 0.0, where: config.weight_decay if decay else 0.0}
        for (perturb, decay), params in groups.items()
    ]


def build(
    model: nn.Module,
    config: OptimizerConfig,
    *,
    replicas: Replicas = ALONE,
    share_groups: bool = False,
    scaling: LossScale | None = None,
    **run: Any,
) -> Method:
    """The configured method around torch's fused SGD or AdamW.

    share_groups:  each replica takes some of a step's groups; otherwise every closure speaks for the whole batch, and the replicas share
                   BatchNorm's statistics alone.
    scaling:       where the closures scale the loss.
    run:           as for `around`; the generator is on the model's device.
    """
    groups = parameter_groups(model, config)
    if not any(group["perturb"] for group in groups):
        none, cure = ("no such", "; must be another, such as all") if groups else ("no", "")
        raise ConfigError(f"optimizer.perturb={getattr(config, 'perturb', 'all')}: this network has {none} parameter to train{cure}.")
    if config.base == "adamw":
        base: Optimizer = AdamW(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), fused=True)
    else:
        base = SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    return around(base, config, passes=Passes(model, replicas), replicas=replicas if share_groups else ALONE, scaling=scaling, **run)


def around(
    base: Optimizer, config: OptimizerConfig, *, steps_per_epoch: int, generator: Generator, total_steps: int | None = None, **common: Any
) -> Method:
    """The configured method around any base optimizer.

    total_steps:  of the whole run; by default, of one epoch.
    generator:    the method's own random stream.
    common:       other arguments of `Method`.
    """
    cls: type[Method] = METHODS[config.method].load()
    ball = {key: getattr(config, key) for key in ("rho", "norm_scope") if hasattr(config, key)}
    own = cls.options(config, steps_per_epoch=steps_per_epoch, total_steps=total_steps or steps_per_epoch, generator=generator)
    return cls(base, **{**ball, "grad_clip": config.grad_clip, "generator": generator, **common, **own})
