"""From the flat schema to an optimizer: the base SGD with its parameter groups, and the method around it."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from sam.config import METHODS, OptimizerConfig
from sam.core.passes import Passes
from sam.core.replicas import ALONE, Replicas
from sam.core.scaling import LossScale
from sam.optimizers.base import Method

_NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def method_class(name: str) -> type[Method]:
    """The class that the method table names, imported now."""
    module, _, attribute = METHODS[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Trainable parameters grouped by (perturbed or not, decayed or not); the model's order is kept within a group."""
    of_norms = {id(p) for m in model.modules() if isinstance(m, _NORM_LAYERS) for p in m.parameters(recurse=False)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in (p for p in model.parameters() if p.requires_grad):
        in_norm, is_weight = id(p) in of_norms, p.ndim > 1
        perturb = {"all": True, "no_norm": not in_norm, "norm_only": in_norm, "weights_only": is_weight}[config.perturb]
        decay = config.weight_decay_scope == "all" or (is_weight and not in_norm)
        groups.setdefault((perturb, decay), []).append(p)
    in_loss = config.weight_decay_mode == "loss"
    return [
        {
            "params": params,
            "perturb": perturb,
            "weight_decay": config.weight_decay if decay and not in_loss else 0.0,
            "loss_decay": config.weight_decay if decay and in_loss else 0.0,
        }
        for (perturb, decay), params in groups.items()
    ]


def build(
    model: nn.Module,
    config: OptimizerConfig,
    *,
    steps_per_epoch: int,
    generator: torch.Generator,
    replicas: Replicas = ALONE,
    share_groups: bool = False,
    scaling: LossScale | None = None,
) -> Method:
    """The configured method around torch's fused SGD. `generator`: the method's own random stream, on the model's device.

    share_groups: each replica looks at some of a step's groups; otherwise every closure speaks for the whole batch, and the replicas share
    BatchNorm's statistics alone. scaling: where the closures scale the loss.
    """
    base = torch.optim.SGD(parameter_groups(model, config), lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    cls = method_class(config.method)
    return cls(
        base,
        rho=config.rho,
        norm_scope=config.norm_scope,
        grad_clip=config.grad_clip,
        passes=Passes(model, replicas),
        replicas=replicas if share_groups else ALONE,
        scaling=scaling,
        **cls.options(config, steps_per_epoch=steps_per_epoch, generator=generator),
    )
