"""Parameters in groups: made from a model and the settings, and looked up once a step."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sam.core.vectors import Vector
from sam.optimizers.settings import OptimizerConfig

_NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Trainable parameters grouped by (perturbed or not, decayed or not), in the model's order within a group."""
    of_norms = {id(p) for m in model.modules() if isinstance(m, _NORM_LAYERS) for p in m.parameters(recurse=False)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in (p for p in model.parameters() if p.requires_grad):
        in_norm, is_weight = id(p) in of_norms, p.ndim > 1
        chosen = getattr(config, "perturb", "all")
        perturb = {"all": True, "no_norm": not in_norm, "norm_only": in_norm, "weights_only": is_weight}[chosen]
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


@dataclass(frozen=True)
class Members:
    """Parameters of all groups, in order.

    values  detached views of them; chosen: which are perturbed; points: the views of those; radii: their rho.
    """

    parameters: list[Tensor]
    values: Vector
    chosen: list[bool]
    points: Vector
    radii: list[float]


def look_up(groups: Sequence[dict[str, Any]]) -> Members:
    parameters = [p for group in groups for p in group["params"]]
    chosen = [group["perturb"] and p.requires_grad for group in groups for p in group["params"]]
    radii = [group["rho"] for group in groups for _ in group["params"]]
    values = [p.detach() for p in parameters]
    points, radii = list(itertools.compress(values, chosen)), list(itertools.compress(radii, chosen))
    return Members(parameters, values, chosen, points, radii)
