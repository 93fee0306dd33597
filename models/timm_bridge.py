"""Build any architecture of the timm library, without pretrained weights. timm and torchvision are imported by `build_timm` alone."""

import difflib
from typing import Any

from torch import nn

from models import ModelError


def build_timm(timm_name: str | None, classes: int, channels: int, image_size: int) -> nn.Module:
    """Build timm's model `timm_name`: logits (batch, classes) from images (batch, channels, image_size, image_size).

    Architectures of a fixed size (vision transformers, mixers) are given it. Raises `ModelError` when timm is not installed,
    does not know the name, or cannot build it at this size.
    """
    from data.torchvision_guard import ensure

    if not timm_name:
        raise ModelError("model timm: name the architecture with timm_name, for example resnet18.")
    try:
        ensure()  # timm imports torchvision, whose usual wheel does not load beside a CPU build of torch
        import timm
    except ImportError as error:
        raise ModelError(f"model timm needs the packages timm and torchvision ({error}): pip install timm torchvision.") from error
    # Names are looked up here because create_model would take "hf-hub:..." to the network.
    if not timm.is_model(timm_name):
        close = difflib.get_close_matches(timm_name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else "; timm.list_models() lists them."
        raise ModelError(f"timm_name {timm_name}: timm {timm.__version__} has no such model{hint}")
    known = timm.models.get_pretrained_cfg(timm_name)
    size: dict[str, Any] = {"img_size": image_size} if known is not None and known.fixed_input_size else {}
    refusal = f"timm_name {timm_name} cannot be built for {channels} x {image_size} x {image_size} images"
    try:
        model: nn.Module = timm.create_model(timm_name, pretrained=False, num_classes=classes, in_chans=channels, **size)
    except Exception as error:  # each architecture refuses an impossible size in its own way, by a failed division even
        raise ModelError(f"{refusal}: {error}.") from error
    # A transformer whose patch exceeds the image builds without a complaint, and then never looks at the image.
    if getattr(getattr(model, "patch_embed", None), "num_patches", 1) == 0:
        raise ModelError(f"{refusal}: its patches are larger than the image.")
    return model
