"""One run on two processes, started as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sam.config import ConfigError
from sam.runs import records
from sam.runs.run import run

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone", str(ROOT / "train.py"))
TINY = ("dataset=digits", "model=wrn_10_1", "dataset.train_size=128", "batch_size=64", "device=cpu", "checkpoint_interval=1")


def start(folder: Path, *overrides: str, flags: Sequence[str] = ()) -> subprocess.Popen[str]:
    line = [sys.executable, *TORCHRUN, *flags, *TINY, f"runs_dir={folder}", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def record(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*/run.json")
    return json.loads(path.read_text())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_with_synchronised_batchnorm_are_one(tmp_path: Path) -> None:
    """One batch, normalised and perturbed as a whole: the same run, up to rounding in float32."""
    options = ("epochs=2", "device=cuda", "batchnorm=sync", "optimizer=xsam", "optimizer.lr=0.01")
    code, _, err = end(start(tmp_path / "two", *options))
    assert code == 0, err
    line = [sys.executable, str(ROOT / "train.py"), *TINY, *options, f"runs_dir={tmp_path / 'one'}"]
    subprocess.run(line, cwd=ROOT, check=True, timeout=120)
    one, two = record(tmp_path / "one"), record(tmp_path / "two")
    assert one["fingerprint"] == two["fingerprint"]
    assert two["final"]["train_loss"] == pytest.approx(one["final"]["train_loss"], rel=1e-3)
    assert two["final"]["test_loss"] == pytest.approx(one["final"]["test_loss"], rel=1e-3)


def test_two_processes_make_one_record_stop_together_and_continue(tmp_path: Path) -> None:
    options = ("epochs=40", "m=32", "optimizer=sgd")
    stopped = start(tmp_path, *options)
    limit = time.monotonic() + 90
    while not list(tmp_path.glob("*/metrics.csv")):
        assert time.monotonic() < limit and stopped.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{stopped.pid}/task/{stopped.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGUSR1)
    _, _, err = end(stopped)
    assert "stopped by SIGUSR1; the state is saved" in err
    assert record(tmp_path)["status"] == "preempted" and not list(tmp_path.glob("*/lock.json"))
    with pytest.raises(ConfigError, match=r"replicas=1: .* was begun with 2; continue it with as many, or redo it with force=true"):
        run(records.run_config(record(tmp_path) | {"config": record(tmp_path)["config"] | {"replicas": None}}))
    code, out, err = end(start(tmp_path, *options, "seed=0,0", flags=["-m"]))  # a sweep of two points with one identity
    assert code == 0 and "continuing after epoch" in err, err
    assert out.count("2 runs, 1 to do") == 1  # one process speaks
    (folder,) = (path.parent for path in tmp_path.glob("*/run.json"))
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "metrics.csv", "run.json"]
    end_of_run = record(tmp_path)
    assert end_of_run["status"] == "finished" and [segment["replicas"] for segment in end_of_run["segments"]] == [2, 2]
    assert end_of_run["config"]["replicas"] == 2 and end_of_run["cost"]["backwards"] == 80


PART = """
import os
from sam.runs import distributed
distributed.join().wait()
import torch.distributed.nn.functional  # as torch itself does at some time: its default arguments hold the group of this moment
threads = lambda: {open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")}
assert any("gloo" in name for name in threads()), threads()
distributed._part()
assert not any("gloo" in name for name in threads()), threads()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_no_thread_of_the_process_group_outlives_it(tmp_path: Path) -> None:
    """One that lets go of a tensor while Python ends aborts the process: a finished run would count as failed, and SLURM would not requeue
    a preempted one. (It was one run of two processes in six, or in thirty.)"""
    script = tmp_path / "part.py"
    script.write_text(PART)
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone", str(script)]
    ran = subprocess.run(line, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
