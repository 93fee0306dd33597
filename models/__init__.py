"""Models by name: `check` refuses an impossible combination, `build` makes the network.

Importing this package costs no import of torch: a config can be checked in milliseconds, and each network's module is loaded when built.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data import host_memory

if TYPE_CHECKING:
    import torch


class ModelError(ValueError):
    """A model that cannot be built; the message is one sentence for the user."""


@dataclass(frozen=True)
class ModelSpec:
    """One row of the registry.

    target:          "module:callable", imported only by `build`; called with classes, channels and the options.
    options:         the keyword arguments of `build` that this model reads, beside `init`.
    smallest, largest, multiple: the image sizes (height = width) that it takes.
    reason:          why those sizes, as a clause for the error message.
    takes_image_size: whether the target takes image_size too.
    """

    target: str
    options: tuple[str, ...] = ()
    smallest: int = 1
    largest: int | None = None
    multiple: int = 1
    reason: str = ""
    takes_image_size: bool = False


_WIDE = ("depth", "width", "dropout", "shortcut")
_FIVE_POOLS = "five max-pools must leave the 1x1x512 that its head takes"
REGISTRY: dict[str, ModelSpec] = {
    "wide_resnet": ModelSpec("models.wide_resnet:WideResNet", _WIDE, smallest=8, multiple=4, reason="it halves the image twice"),
    "resnet18": ModelSpec("models.xsam_nets:ResNet18", smallest=8, multiple=8, reason="it halves the image three times"),
    "resnet20": ModelSpec("models.cifar_resnet:ResNet20"),
    "resnet32": ModelSpec("models.cifar_resnet:ResNet32"),
    "resnet56": ModelSpec("models.cifar_resnet:ResNet56"),
    "vgg11_bn": ModelSpec("models.xsam_nets:VGG11BN", ("dropout",), smallest=32, largest=32, reason=_FIVE_POOLS),
    "densenet121": ModelSpec("models.xsam_nets:DenseNet121", smallest=8, multiple=8, reason="it halves the image three times"),
    "timm": ModelSpec("models.timm_bridge:build_timm", ("timm_name",), takes_image_size=True),
}


def check(name: str, *, image_size: int, channels: int, **options: Any) -> None:
    """Raise `ModelError` if model `name` cannot take channels x image_size x image_size images. Imports nothing heavy.

    Takes the other keywords of `build` too; a keyword that no model knows is refused.
    """
    if name not in REGISTRY:
        raise ModelError(f"model {name}: unknown; must be one of {', '.join(REGISTRY)}.")
    known = {"init", *(option for spec in REGISTRY.values() for option in spec.options)}
    for option in options:
        if option not in known:
            raise ModelError(f"model {name}: unknown option {option}; must be one of {', '.join(sorted(known))}.")
    if channels < 1:
        raise ModelError(f"model {name}: images with {channels} channels; must be at least 1.")
    spec = REGISTRY[name]
    if not spec.smallest <= image_size <= (spec.largest or image_size) or image_size % spec.multiple:
        exact = spec.smallest == spec.largest
        sizes = f"exactly {spec.smallest}" if exact else f"at least {spec.smallest} and divisible by {spec.multiple}"
        raise ModelError(f"model {name} cannot take {image_size}x{image_size} images: the size must be {sizes}, because {spec.reason}.")
    if name == "wide_resnet" and {"width", "depth"} <= options.keys():  # fewer parameters than it has: those of most 3x3 convolutions
        parameters = 9 * 5376 * options["width"] ** 2 * (2 * (options["depth"] - 4) // 6 - 1)
        if 12 * parameters > host_memory():
            sizes = f"model.width={options['width']}, model.depth={options['depth']}: {parameters:,} parameters, gradients and momenta"
            raise ModelError(f"{sizes} need {12 * parameters:,} bytes, and this machine has {host_memory():,} of memory.")


def build(
    name: str,
    *,
    classes: int,
    channels: int,
    image_size: int,
    init: str = "fan_out",
    depth: int = 28,
    width: int = 10,
    dropout: float = 0.0,
    shortcut: str = "conv",
    timm_name: str | None = None,
) -> torch.nn.Module:
    """Build a network, fp32 on the CPU, that maps (batch, channels, image_size, image_size) to logits (batch, classes).

    Options that the model does not read (`REGISTRY[name].options`) are ignored. init: see `models.init.initialise`. Weights come from
    torch's global random generator: `torch.manual_seed` decides them. Raises `ModelError` for an impossible combination.
    """
    options = {"depth": depth, "width": width, "dropout": dropout, "shortcut": shortcut, "timm_name": timm_name}
    check(name, image_size=image_size, channels=channels, **options)
    from models.init import initialise  # imports torch

    spec = REGISTRY[name]
    arguments: dict[str, Any] = {option: options[option] for option in spec.options}
    if spec.takes_image_size:
        arguments["image_size"] = image_size
    module, _, attribute = spec.target.partition(":")
    model: torch.nn.Module = getattr(importlib.import_module(module), attribute)(classes=classes, channels=channels, **arguments)
    initialise(model, init)
    return model
