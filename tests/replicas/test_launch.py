"""Who was started, where they meet, and what is refused before anything is built."""

import signal
from typing import Any

import pytest
import torch

from sam.config import ConfigError
from sam.core.replicas import ReplicaError, Replicas
from sam.runs import distributed, run
from sam.runs.distributed import Launch, launched, meeting_point, take_device, with_replicas
from sam.runs.signals import Preempted
from sam.schema import from_dict
from sam.settings import TrainConfig
from sam.training import cost

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
JOB = {"SLURM_JOB_ID": "70", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NNODES": "1"}
STEP = JOB | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "2", "SLURM_LOCALID": "2"}


def config(**values: Any) -> TrainConfig:
    return from_dict(TrainConfig, {"dataset": {"name": "digits"}, "batch_size": 64} | values)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        (TORCHRUN, Launch(3, 4, 1)),
        (TORCHRUN | STEP, Launch(3, 4, 1)),  # torchrun inside a SLURM step
        (STEP, Launch(2, 4, 2)),
        (JOB, Launch()),  # a batch script, or a shell, in a job of four tasks
        (JOB | {"SLURM_ARRAY_TASK_ID": "3", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, Launch()),  # srun in a task of an array
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, Launch()),
        ({"WORLD_SIZE": "4"}, Launch()),  # left over from something else
    ],
)
def test_several_processes_are_those_of_torchrun_or_of_a_slurm_step(environment: dict[str, str], expected: Launch) -> None:
    assert launched(environment) == expected


def test_the_meeting_point_is_what_is_set_or_follows_from_the_step() -> None:
    assert meeting_point(TORCHRUN) == ("node1", 29500)
    host, port = meeting_point(STEP)
    assert host == "127.0.0.1" and 20_000 <= port < 30_000
    assert meeting_point(STEP | {"SLURM_PROCID": "3", "SLURM_LOCALID": "3"}) == (host, port)
    assert meeting_point(STEP | {"SLURM_STEP_ID": "1"})[1] != port  # steps side by side on one machine
    assert meeting_point(STEP | {"SLURM_JOB_ID": "71"})[1] != port
    assert meeting_point(STEP | {"SLURM_STEP_ID": "1"}) != meeting_point(STEP | {"SLURM_JOB_ID": "71"})  # the next job's first step
    with pytest.raises(ConfigError, match="MASTER_ADDR is not set"):
        meeting_point(STEP | {"SLURM_STEP_NUM_NODES": "2"})


def test_the_number_of_replicas_is_that_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"replicas=2: one process was started; .*torchrun --nproc-per-node=2"):
        with_replicas(config(replicas=2))
    assert with_replicas(config()) == config()
    for key, value in TORCHRUN.items():
        monkeypatch.setenv(key, value)
    assert with_replicas(config()).replicas == 4 == with_replicas(config(replicas=4)).replicas
    with pytest.raises(ConfigError, match="replicas=2: 4 processes were started"):
        with_replicas(config(replicas=2))
    with pytest.raises(ConfigError, match="replicas=4: must divide batch_size=42"):
        with_replicas(config(batch_size=42))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replicas": 0}, "replicas=0: must be"),
        ({"replicas": 3}, "replicas=3: must divide batch_size=64"),
        ({"replicas": 2, "m": 64}, r"m=64: must divide each replica's share of a batch, batch_size / replicas = 32"),
        ({"perturbation": "own"}, "perturbation=own: must be one of synchronised, replica"),
        ({"batchnorm": "none"}, "batchnorm=none: must be one of replica, sync"),
        ({"batchnorm": "sync", "m": 32}, "batchnorm=sync: .* needs m=null"),
        ({"batchnorm": "sync", "perturbation": "replica"}, "batchnorm=sync: .* perturbation=synchronised"),
        ({"batchnorm": "sync", "micro_batch": 8}, "batchnorm=sync: .* micro_batch=null"),
        ({"micro_batch": 65}, "micro_batch=65: must not exceed batch_size=64"),
        ({"micro_batch": 0}, "micro_batch=0: must be"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**values)


def test_a_last_batch_too_small_to_be_shared_is_refused() -> None:
    ragged = {"replicas": 4, "dataset": {"name": "digits", "train_size": 131}}
    with pytest.raises(ConfigError, match="replicas=4: the last batch of an epoch has only 3 images"):
        cost.check(config(**ragged))
    for allowed in ({"drop_last": True}, {"m": 16}, {"perturbation": "replica"}):
        cost.check(config(**ragged, **allowed))


def test_the_samples_that_share_a_perturbation() -> None:
    assert config().group_size is None and config(replicas=2).group_size is None
    assert config(m=16, replicas=2).group_size == 16
    assert config(perturbation="replica", replicas=2).group_size == 32
    assert config(perturbation="replica").group_size is None


class Told(Replicas):
    """A process among two, with what it says to the other, and hears from it, kept here."""

    def __init__(self, rank: int, hears: Any = None) -> None:
        super().__init__(rank, 2)
        self.said: list[Any] = []
        self.hears = hears

    def from_first(self, value: Any = None) -> Any:
        self.said.append(value)
        return self.hears


def test_the_others_are_told_once_how_it_goes_on_or_why_it_does_not() -> None:
    first = Told(0)
    with pytest.raises(ConfigError), distributed.telling(first):
        raise ConfigError("the folder\nholds another run.")
    assert first.said == [{"error": "the folder holds another run."}]
    first = Told(0)
    with pytest.raises(RuntimeError), distributed.telling(first) as tell:
        tell(state=None)
        raise RuntimeError("in training: the others find the connection closed")
    assert first.said == [{"state": None}]
    first = Told(0)
    with pytest.raises(Preempted), distributed.telling(first):
        raise Preempted(signal.SIGTERM)
    assert first.said == []  # they got the signal too, and an error would cost them the code that requeues


def test_the_others_do_what_they_are_told() -> None:
    with pytest.raises(ReplicaError, match="the first process of this run stopped: the disk is full"):
        run._work(config(replicas=2), Told(1, {"error": "the disk is full"}))
    assert run._work(config(replicas=2), Told(1, {"record": {"status": "finished"}})) == {"status": "finished"}


def test_the_others_read_the_images_of_the_runs_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(seed: int, **settings: Any) -> None:
        raise ReplicaError(f"images of seed {seed}")

    monkeypatch.setattr("data.load", load)
    monkeypatch.setattr(distributed, "refuse_shared_gpus", lambda *_: None)
    with pytest.raises(ReplicaError, match="images of seed 3"):
        run._work(config(replicas=2, seed=3, device="cpu"), Told(1, {"state": None}))


def test_a_process_takes_the_gpu_of_its_rank_on_its_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in TORCHRUN.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("sam.core.device.pick_device", lambda name: torch.device("cuda" if name == "auto" else name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert take_device(config()) == torch.device("cuda:1")  # rank 3 of 4, the second of the second machine
    shared = Told(0)
    shared.gather = lambda value: [value, value]  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="replicas=2: two processes would share a GPU"):
        distributed.refuse_shared_gpus(shared, torch.device("cpu"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "cpu", "batchnorm": "sync"}, "batchnorm=sync: torch has SyncBatchNorm for CUDA alone"),
        ({"device": "cuda:1"}, "device=cuda:1: several processes each take a device of their own; allowed: auto, cuda, cpu"),
    ],
)
def test_devices_that_replicas_cannot_take(values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in TORCHRUN.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=message):
        take_device(config(**values))
    assert take_device(config(device="cpu")).type == "cpu"
