"""Let torchvision's CUDA wheel be imported next to a torch built for the CPU."""

import importlib.util
import re
import sys
from pathlib import Path

import torch
from torch import library

_declared: library.Library | None = None  # the names vanish with the object


def ensure() -> None:
    """Make torchvision (and timm, which imports it) importable; call before the first import. Calling again is free.

    Without CUDA libraries the CUDA wheel's operators cannot load. torchvision tolerates that, but then describes two missing operators to
    torch, which raises RuntimeError. This declares their names without an implementation; nothing here calls them. Does nothing if torch
    has CUDA, or if torchvision is absent, imported already, or a CPU build.
    """
    global _declared
    if _declared is not None or torch.version.cuda is not None or "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    package = Path(spec.origin).parent
    if "+cu" not in (package / "version.py").read_text("utf-8"):
        return
    described = (package / "_meta_registrations.py").read_text("utf-8")
    _declared = library.Library("torchvision", "FRAGMENT")
    for operator in re.findall(r'^@\S+register_fake\("torchvision::(\w+)"\)', described, re.MULTILINE):
        _declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
