"""Models by name: `check` refuses an impossible combination, without an import of torch; `build` makes the network."""

import inspect
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from data import host_memory
from models.settings import MODELS, ModelConfig, Sizes
from sam.config import ConfigError
from sam.schema import default_of, schema

if TYPE_CHECKING:
    import torch

ModelError = ConfigError  # one class for all that a user can set right


def check(name: str, *, image_size: int, channels: int, **options: Any) -> None:
    """ModelError if the model cannot take these images, or for a keyword that no model knows; takes all keywords of `build`."""
    if name not in MODELS:
        raise ModelError(f"model {name}: unknown; must be one of {', '.join(MODELS)}.")
    known = schema(ModelConfig)
    if unknown := [option for option in options if option not in known]:
        raise ModelError(f"model {name}: unknown option {unknown[0]}; must be one of {', '.join(sorted(known))}.")
    if channels < 1:
        raise ModelError(f"model {name}: images with {channels} channels; must be at least 1.")
    takes: Any = MODELS[name].about or Sizes()
    takes = takes(**options) if callable(takes) else takes
    if not takes.smallest <= image_size <= (takes.largest or image_size) or image_size % takes.multiple:
        exact = takes.smallest == takes.largest
        sizes = f"exactly {takes.smallest}" if exact else f"at least {takes.smallest} and divisible by {takes.multiple}"
        raise ModelError(f"model {name} cannot take {image_size}x{image_size} images: the size must be {sizes}, because {takes.reason}.")
    if name == "wide_resnet" and {"width", "depth"} <= options.keys():  # fewer parameters than it has: those of most 3x3 convolutions
        parameters = 9 * 5376 * options["width"] ** 2 * (2 * (options["depth"] - 4) // 6 - 1)
        if 12 * parameters > host_memory():
            sizes = f"model.width={options['width']}, model.depth={options['depth']}: {parameters:,} parameters, gradients and momenta"
            raise ModelError(f"{sizes} need {12 * parameters:,} bytes, and this machine has {host_memory():,} of memory.")


def build(name: str, *, classes: int, channels: int, image_size: int, init: str = "fan_out", **options: Any) -> "torch.nn.Module":
    """A fresh network, fp32 on the CPU, that maps (batch, channels, image_size, image_size) to logits (batch, classes). options: other keys
    of `model`; those that this model does not read are ignored. Weights come from torch's global random generator, as `init` says (see
    `models.networks.initialise`). Raises `ModelError` for an impossible combination."""
    check(name, image_size=image_size, channels=channels, **options)
    from models.networks import initialise  # imports torch

    target, common = MODELS[name].load(), {f.name for f in fields(ModelConfig)}
    own = {f.name: options.get(f.name, default_of(f)) for f in fields(MODELS[name].keys or ModelConfig) if f.name not in common}
    size = {"image_size": image_size} if "image_size" in inspect.signature(target).parameters else {}
    model: torch.nn.Module = target(classes=classes, channels=channels, **own, **size)
    initialise(model, init)
    return model
