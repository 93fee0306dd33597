"""Several processes for one run: their ranks, their rendezvous, their devices. Imports torch only when called."""

import atexit
import dataclasses
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from sam.config import ConfigError
from sam.runs.signals import Preempted
from sam.settings import TrainConfig

if TYPE_CHECKING:
    import torch

    from sam.core.replicas import Replicas

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
PATIENCE = timedelta(minutes=30)  # a peer that has not answered for so long is given up


class Launch(NamedTuple):
    """Rank of this process among those started together, their number, and its rank on its own machine."""

    rank: int = 0
    size: int = 1
    local: int = 0


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read torchrun's variables, or srun's of the job *step*: a task of an array, a batch script or a shell in a job is one process."""
    for names in (_TORCHRUN, _SRUN):
        if all(name in environment for name in names) and int(environment[names[1]]) > 1:
            return Launch(*(int(environment[name]) for name in names))
    return Launch()


def meeting_point(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """(host, port) of the rendezvous: MASTER_ADDR and MASTER_PORT, or values derived from a SLURM step on one machine. ConfigError."""
    host, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if host is None:
        if environment.get("SLURM_STEP_NUM_NODES", "1") != "1":
            command = 'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
            raise ConfigError(f"MASTER_ADDR is not set: processes on several machines meet at the first one; put `{command}` before srun.")
        host = "127.0.0.1"
    if port is None:  # the same for all tasks of a step, and another for every step
        port = str(20_000 + (int(environment.get("SLURM_JOB_ID", 0)) * 37 + int(environment.get("SLURM_STEP_ID", 0))) % 10_000)
    return host, int(port)


def with_replicas(config: TrainConfig) -> TrainConfig:
    """Fill in `replicas` with the number of processes. ConfigError if another number is configured."""
    size = launched().size
    if config.replicas not in (None, size):
        started = "one process was" if size == 1 else f"{size} processes were"
        command = f"`torchrun --nproc-per-node={config.replicas} train.py ...`"
        raise ConfigError(f"replicas={config.replicas}: {started} started; start as many with {command}, or with srun.")
    return dataclasses.replace(config, replicas=size) if size > 1 else config


def join() -> "Replicas":
    """Initialise torch.distributed once. ConfigError if there is no rendezvous address."""
    from sam.core.replicas import ALONE, Replicas

    here = launched()
    if here.size == 1:
        return ALONE
    import torch

    # Its functions take the process group of the moment of import as a default argument, and something of torch imports it sooner or later.
    # Held there, the group would outlive `_part`, and a thread of it that still lets go of a tensor while Python ends aborts the process.
    import torch.distributed.nn.functional
    from torch import distributed

    if not distributed.is_initialized():
        by_torchrun = all(name in os.environ for name in _TORCHRUN)  # whose agent keeps the meeting point
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            init_method="env://" if by_torchrun else "tcp://{}:{}".format(*meeting_point()),
            rank=here.rank,
            world_size=here.size,
            timeout=PATIENCE,
        )
        atexit.register(_part)
    return Replicas(here.rank, here.size)


def take_device(config: TrainConfig) -> "torch.device":
    """Pick this process's device: among several, the GPU of its local rank. ConfigError if it cannot be used."""
    import torch

    from sam.core.device import pick_device

    here = launched()
    if here.size == 1:
        return pick_device(config.device)
    if config.device not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"device={config.device}: several processes each take a device of their own; allowed: auto, cuda, cpu.")
    device = pick_device(config.device)
    if config.batchnorm == "sync" and device.type != "cuda":
        raise ConfigError("batchnorm=sync: torch has SyncBatchNorm for CUDA alone; on a CPU use batchnorm=replica.")
    if device.type == "cuda":
        if torch.cuda.device_count() > 1:  # a task that SLURM gave one GPU sees only that one
            device = pick_device(f"cuda:{here.local}")
        torch.cuda.set_device(device)
    return device


def refuse_shared_gpus(replicas: "Replicas", device: "torch.device") -> None:
    """ConfigError on all ranks if two of them took the same GPU: NCCL cannot serve them, and its own message is less clear."""
    import torch

    place = (socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else replicas.rank)
    if len(set(replicas.gather(place))) < replicas.size:
        raise ConfigError(f"replicas={replicas.size}: two processes would share a GPU; start as many processes as there are GPUs.")


@contextmanager
def telling(replicas: "Replicas") -> Iterator[Callable[..., None]]:
    """`tell(**decision)` broadcasts rank 0's decision to the other ranks, once; if rank 0 fails before, they are sent its error."""
    told = False

    def tell(**decision: Any) -> None:
        nonlocal told
        told = True
        replicas.from_first(decision)

    try:
        yield tell
    except BaseException as error:
        if not told and not isinstance(error, Preempted):  # the signal is theirs too
            tell(error=" ".join(str(error).split()))
        raise


def give_up() -> None:
    """Skip the orderly end of torch.distributed after an error: the others may hang in an exchange that this process will not join."""
    atexit.unregister(_part)
    if launched().size > 1:
        time.sleep(0.1)  # the group's threads let go of the last exchange's tensors: see `join`


def _part() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
