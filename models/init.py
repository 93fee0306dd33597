"""Weight initialisation, the same three choices for every model."""

import torch
from torch import nn

from models import ModelError

INITS = ("fan_out", "foret", "torch")


@torch.no_grad()
def initialise(model: nn.Module, init: str) -> None:
    """Draw the model's weights in place from torch's global random generator.

    fan_out: convolutions N(0, 2 / fan_out) with fan_out = out_channels * kernel area / groups (He et al. 2015, as Zagoruyko & Komodakis
             use it), their biases 0, BatchNorm weight 1 and bias 0, linear layers as PyTorch draws them.
    foret:   the same, and the last linear layer's weight U(-1/sqrt(classes), 1/sqrt(classes)), its bias 0 (google-research/sam).
    torch:   nothing is touched: the layers' own defaults.
    Raises `ModelError` for another name, or if `foret` finds no linear layer.
    """
    if init not in INITS:
        raise ModelError(f"model init {init}: unknown; must be one of {', '.join(INITS)}.")
    if init == "torch":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # torch's own fan_out counts every output channel as fed by every input channel, which is wrong for grouped convolutions.
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] / module.groups
            module.weight.normal_(0, (2 / fan_out) ** 0.5)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d) and module.affine:
            module.weight.fill_(1)
            module.bias.zero_()
    if init != "foret":
        return
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ModelError(f"model init foret: {type(model).__name__} has no linear layer to draw; use init fan_out or torch.")
    head = linear[-1]
    bound = head.out_features**-0.5
    head.weight.uniform_(-bound, bound)
    if head.bias is not None:
        head.bias.zero_()
