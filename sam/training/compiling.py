"""torch.compile of the training forward and its backward: an option, since its sums are ordered differently from eager ones."""

import os
import shutil

import torch
from torch import nn

from sam.config import ConfigError


def compiled(model: nn.Module, mode: str, device: torch.device) -> nn.Module:
    """`model` itself for "none"; else its compiled twin, which shares every parameter and buffer (so where its weights go the twin's
    go too, and the model's state_dict, evaluation and hooks stay those of the plain model).

    mode: "default", or another mode of `torch.compile`. One graph for each batch shape (a ragged last batch has its own), and one without
    gradients for XSAM's probes. ConfigError on a CPU without a C++ compiler.
    """
    if mode == "none":
        return model
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise ConfigError(f"compile={mode}: compiling for a CPU needs g++ or clang++, and neither is here; allowed without: compile=none.")
    import torch._dynamo  # here: it takes a second that no other run should wait

    # A sweep may compile many networks in one process. After the eighth torch would go on with eager ones, and say so in a log only.
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    twin: nn.Module = torch.compile(model, mode=None if mode == "default" else mode, dynamic=False)  # type: ignore[assignment]  # given a module, it returns one
    return twin
