"""Device, memory, threads and number format of a run."""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from sam.config import ConfigError
from sam.core.scaling import LossScale

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
Autocast = Callable[[], AbstractContextManager[object]]


def pick_device(name: str) -> torch.device:
    """auto: the GPU if there is one; otherwise one of cpu, cuda, cuda:N. ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    allowed = "allowed: auto, cpu, cuda, cuda:N"
    if not re.fullmatch(r"cpu(:0)?|cuda(:\d{1,3})?", name):
        raise ConfigError(f"device={name}: is none that runs are computed on here; {allowed}.")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name}: not usable, this torch sees {torch.cuda.device_count()} GPUs; {allowed}.") from error
    return device


@functools.cache
def keep_freed_memory() -> None:
    """Memory that a step on the CPU frees stays with this process, for the next step, instead of going back to the system.

    glibc gives back what lies free at the top of its heap, and every large block; a step that asks for hundreds of megabytes then waits
    for tens of thousands of page faults (results/benchmarks has what that costs, and how much it adds to the peak of memory).
    Nothing happens where the C library is another one, or where a `MALLOC_...` variable says that somebody has chosen already.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        for option, value in ((_M_TRIM_THRESHOLD, -1), (_M_MMAP_MAX, 0)):  # never trim; no block gets a mapping of its own
            mallopt(option, value)


@contextmanager
def number_format(precision: str, threads: int | None = None) -> Iterator[None]:
    """TF32 on for `tf32` only (torch leaves it on for convolutions by default); cuDNN's deterministic algorithms alone, without which no
    run on a GPU gives its digits again (results/gpu has what that costs); the thread count; all put back afterwards. Everything that trains
    or measures runs inside, so freed memory is kept from here on."""
    keep_freed_memory()
    matmul, cudnn, count = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_num_threads()
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.deterministic = True
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
        torch.backends.cudnn.deterministic = deterministic
        torch.set_num_threads(count)


def autocast(precision: str, device: torch.device) -> Autocast:
    """A fresh autocast context for every forward pass (never one around two passes: see `Method._before_pass`)."""
    if precision not in _AUTOCAST:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=_AUTOCAST[precision])


def loss_scale(precision: str, device: torch.device) -> LossScale | None:
    """float16 gradients need one: their smallest number is 6e-8."""
    return LossScale(device) if precision == "fp16" else None
