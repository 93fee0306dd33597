"""Let torchvision's CUDA wheel be imported next to a torch built for the CPU."""

import functools
import importlib.util
import re
import sys
from pathlib import Path

import torch
from torch import library


@functools.cache  # keeps the library: the names vanish with it
def ensure() -> library.Library | None:
    """Make torchvision (and timm, which imports it) importable; call before the first import. Calling again is free. Without CUDA libraries
    the CUDA wheel's operators cannot load; torchvision then describes two missing ones to torch, which raises RuntimeError. This declares
    their names without an implementation; nothing here calls them."""
    spec = None if torch.version.cuda is not None or "torchvision" in sys.modules else importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    if "+cu" not in (package / "version.py").read_text("utf-8"):
        return None
    described = (package / "_meta_registrations.py").read_text("utf-8")
    declared = library.Library("torchvision", "FRAGMENT")
    for operator in re.findall(r'^@\S+register_fake\("torchvision::(\w+)"\)', described, re.MULTILINE):
        declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declared
