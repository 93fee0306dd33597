"""From settings to an optimizer: the base optimizer with its parameter groups, and the method around it."""

from typing import Any

import torch
from torch import nn

from sam.core.device import LossScale
from sam.core.passes import Passes
from sam.core.replicas import ALONE, Replicas
from sam.optimizers.base import Method
from sam.optimizers.groups import parameter_groups
from sam.optimizers.settings import METHODS, OptimizerConfig


def build(
    model: nn.Module,
    config: OptimizerConfig,
    *,
    steps_per_epoch: int,
    generator: torch.Generator,
    total_steps: int | None = None,
    replicas: Replicas = ALONE,
    share_groups: bool = False,
    scaling: LossScale | None = None,
) -> Method:
    """The configured method around torch's fused SGD or AdamW.

    total_steps:   of the whole run; by default, of one epoch.
    generator:     the method's own random stream, on the model's device.
    share_groups:  each replica takes some of a step's groups; otherwise every closure speaks for the whole batch, and the replicas share
                   BatchNorm's statistics alone.
    scaling:       where the closures scale the loss.
    """
    groups = parameter_groups(model, config)
    base: torch.optim.Optimizer
    if config.base == "adamw":
        base = torch.optim.AdamW(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), fused=True)
    else:
        base = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    return around(
        base,
        config,
        passes=Passes(model, replicas),
        replicas=replicas if share_groups else ALONE,
        scaling=scaling,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        generator=generator,
    )


def around(
    base: torch.optim.Optimizer,
    config: OptimizerConfig,
    *,
    steps_per_epoch: int,
    generator: torch.Generator,
    total_steps: int | None = None,
    **common: Any,
) -> Method:
    """The configured method around any base optimizer; `common`: other arguments of `Method`."""
    cls: type[Method] = METHODS[config.method].load()
    ball = {key: getattr(config, key) for key in ("rho", "norm_scope") if hasattr(config, key)}
    own = cls.options(config, steps_per_epoch=steps_per_epoch, total_steps=total_steps or steps_per_epoch, generator=generator)
    return cls(base, **ball, grad_clip=config.grad_clip, **common, **own)
