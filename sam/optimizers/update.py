"""From one gradient to new weights: unscale, clip, skip what is not finite, step."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam.core import vectors
from sam.core.device import LossScale
from sam.core.vectors import Vector


def update(base: Optimizer, gradient: Vector, lengths: list[Tensor], grad_clip: float | None, scaling: LossScale | None) -> Tensor:
    """Step the base optimizer with `gradient`, the tensors in `.grad`, unless it is void; return whether it was (0-d bool).

    lengths:    norms, 0-d tensors: the gradient's own first, then those of the step's ascents. One that is not finite makes the step void:
                weights and base optimizer stay as they are.
    grad_clip:  largest norm of the (unscaled) gradient.
    scaling:    the scale that the gradient carries; it is divided out here.
    """
    scale = 1.0 if scaling is None else scaling.value
    if scaling is not None:
        vectors.scale_(gradient, 1 / scale)
    if grad_clip is not None:
        vectors.scale_(gradient, (grad_clip / (lengths[0] / scale + 1e-6)).clamp(max=1.0))
    bad = ~torch.isfinite(torch.stack(lengths).sum())
    if all(group.get("fused") for group in base.param_groups) and _can_skip_on_device(base):
        base.found_inf = bad.float()  # type: ignore[attr-defined]  # the kernel itself leaves everything alone: no host sync
        base.step()
        del base.found_inf  # type: ignore[attr-defined]
    elif not bool(bad):
        base.step()
    return bad


def _can_skip_on_device(base: Optimizer) -> bool:
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
