"""Choose a run's device, memory policy, thread count and number format."""

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
    """Return the device named auto (the GPU if there is one), cpu, cuda or cuda:N. ConfigError if it is not usable."""
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
    """Keep memory that a CPU step frees in this process, for the next step.

    glibc returns large blocks and the free top of its heap to the system, so that a step of hundreds of megabytes waits for tens of
    thousands of page faults (measured, with the peak of memory, in results/benchmarks). Does nothing with another C library, or if the
    environment sets a `MALLOC_...` variable.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        for option, value in ((_M_TRIM_THRESHOLD, -1), (_M_MMAP_MAX, 0)):  # never trim; no block gets a mapping of its own
            mallopt(option, value)


@contextmanager
def number_format(precision: str, threads: int | None = None) -> Iterator[None]:
    """Set TF32 (on for `tf32` only; torch's default is on for convolutions), cuDNN's deterministic algorithms (without them no GPU run
    repeats its digits; cost in results/gpu) and the thread count; restore all afterwards. All training and measuring runs inside."""
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
    """Return a factory of autocast contexts: a fresh one for every forward pass, since one keeps copies of the weights it has cast."""
    if precision not in _AUTOCAST:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=_AUTOCAST[precision])


def loss_scale(precision: str, device: torch.device) -> LossScale | None:
    """Return a loss scale for float16, whose smallest number is 6e-8; None for other formats."""
    return LossScale(device) if precision == "fp16" else None
