"""SIGKILL at random moments of a run's life, again and again: it ends bit by bit like one that was left alone.

KILLS=43 in the environment makes it three hundred over all cases (results/kill_test); the tests make at least three of each case.
"""

import csv
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sam.runs import checkpoint, records
from sam.runs.run import run
from sam.schema import from_dict
from sam.settings import TrainConfig

KILLS = int(os.environ.get("KILLS", "3"))
TIMES = ("train_seconds", "seconds")
BASE: dict[str, Any] = {
    "dataset": {"name": "digits", "train_size": 200},
    "model": {"depth": 10, "width": 1},
    "epochs": 3,
    "batch_size": 32,
    "checkpoint_steps": 1,
    "threads": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": {"method": "sgd"}, "augmentation": {"crop_padding": 1, "flip": True}},
    "rand_sam": {"optimizer": {"method": "rand_sam", "rho": 0.5}},
    "sam": {"optimizer": {"rho": 0.3}, "model": {"depth": 10, "width": 1, "dropout": 0.3}},
    "sam_n3_mean": {"optimizer": {"rho": 0.3, "ascent_steps": 3, "step_rule": "project", "descent_gradient": "mean"}},
    "sam_m": {"optimizer": {"rho": 0.3}, "m": 24},
    "xsam": {"optimizer": {"method": "xsam", "rho": 0.3}, "augmentation": {"cutout": 3}},
    "xsam_k2": {"optimizer": {"method": "xsam", "rho": 0.3, "ascent_steps": 2, "alpha_refresh": 0.5}},
}
FORKS = multiprocessing.get_context("forkserver")  # from a process that has imported everything and run nothing
FORKS.set_forkserver_preload(["sklearn.datasets", "torch._dynamo", "sam.runs.run"])


def start(case: str, runs_dir: Path) -> Any:
    settings = from_dict(TrainConfig, BASE | CASES[case] | {"runs_dir": str(runs_dir)})
    process = FORKS.Process(target=run, args=(settings,))
    process.start()
    return process


def finish(case: str, runs_dir: Path) -> float:
    """Run to the end; seconds it took."""
    began = time.monotonic()
    process = start(case, runs_dir)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def outcome(runs_dir: Path) -> tuple[Any, ...]:
    """(checkpoint, rows of metrics.csv, final numbers) of the one run below `runs_dir`, without times."""
    ((folder, record),) = records.find_runs(runs_dir)
    state = checkpoint.load(folder)
    state.pop("seconds")
    with (folder / records.METRICS).open() as file:
        tables = [state.pop("rows"), list(csv.DictReader(file))]
    rows = [{key: value for key, value in row.items() if key not in TIMES} for table in tables for row in table]
    return state, rows, {key: record[key] for key in ("status", "final", "last5", "best", "cost")}


def same(a: Any, b: Any) -> bool:
    """Equality to the last bit, through nested containers."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Else the first run would seem to live for as long as everything takes to import."""
    process = FORKS.Process(target=int)
    process.start()
    process.join()


@pytest.mark.parametrize("case", CASES)
def test_kills_at_random_moments_change_nothing(case: str, tmp_path: Path) -> None:
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    life, chance, kills = finish(case, reference), random.Random(case), 0
    while kills < KILLS:
        for _ in range(chance.randint(1, 3)):
            process = start(case, killed)
            process.join(chance.uniform(0.2, 1.0) * life)
            process.kill()
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL)
            kills += process.exitcode != 0  # else it was done before the blow
        finish(case, killed)
        assert same(outcome(reference), outcome(killed))
        shutil.rmtree(killed)
