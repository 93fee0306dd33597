"""Let torchvision's CUDA wheel be imported next to a torch built for the CPU."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import torch
from torch import library

_declared: library.Library | None = None  # the names vanish with the object


def ensure() -> None:
    """Call before every first import of torchvision (or of timm, which imports it); calling again is free.

    The CUDA wheel's compiled operators cannot load without torch's CUDA libraries. torchvision tolerates that, but then describes two of
    the missing operators to torch, which raises RuntimeError. So their names are declared here, without an implementation: nothing in this
    project calls them. Nothing is done where torch has CUDA, or torchvision is absent, imported already, or a CPU build.
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
