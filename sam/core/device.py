"""Device, threads and number format of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from sam.config import ConfigError
from sam.core.scaling import LossScale

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
Autocast = Callable[[], AbstractContextManager[object]]


def pick_device(name: str) -> torch.device:
    """auto: the GPU if there is one; otherwise a torch device string. ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name}: not usable here ({str(error).splitlines()[0]}); allowed: auto, cpu, cuda, cuda:N.") from error
    return device


@contextmanager
def number_format(precision: str, threads: int | None = None) -> Iterator[None]:
    """TF32 on for `tf32` only (torch leaves it on for convolutions by default); the thread count; both put back afterwards."""
    matmul, cudnn, count = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_num_threads()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
        torch.set_num_threads(count)


def autocast(precision: str, device: torch.device) -> Autocast:
    """A fresh autocast context for every forward pass (never one around two passes: see `Method._before_pass`)."""
    if precision not in _AUTOCAST:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=_AUTOCAST[precision])


def loss_scale(precision: str, device: torch.device) -> LossScale | None:
    """float16 gradients need one: their smallest number is 6e-8."""
    return LossScale(device) if precision == "fp16" else None
