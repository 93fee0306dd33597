"""Several runs of a sweep at a time: the same records as one after the other, whatever happens to one of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from hydra_plugins.sam_launchers.launchers import LocalLauncher
from sam.runs import sweep, workers

ROOT = Path(__file__).resolve().parents[2]
TINY = ("dataset=digits", "model=wrn_10_1", "dataset.train_size=128", "batch_size=64", "threads=1", "device=cpu")
TIMES = ("train_seconds", "seconds")


def line(runs_dir: Path, launcher: str, *overrides: str) -> list[str]:
    return [sys.executable, "train.py", "-m", f"hydra/launcher={launcher}", *TINY, *overrides, f"runs_dir={runs_dir}"]


def train(runs_dir: Path, launcher: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line(runs_dir, launcher, *overrides), cwd=ROOT, capture_output=True, text=True, timeout=180)


def folders(runs_dir: Path) -> list[Path]:
    return sorted(path.parent for path in runs_dir.glob("*/run.json"))


def status(runs_dir: Path) -> list[str]:
    return [json.loads((folder / "run.json").read_text())["status"] for folder in folders(runs_dir)]


def assert_same_end(a: Path, b: Path) -> None:
    assert [f.name for f in folders(a)] == [f.name for f in folders(b)]
    for left, right in zip(folders(a), folders(b), strict=True):
        one, other = (torch.load(f / "checkpoint.pt", weights_only=True)["model"] for f in (left, right))
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert without_times(left) == without_times(right)


def without_times(folder: Path) -> list[list[str]]:
    rows = [row.split(",") for row in (folder / "metrics.csv").read_text().splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if name not in TIMES]
    return [[row[i] for i in kept] for row in rows]


def wait_for(runs_dir: Path, epochs: int, count: int) -> None:
    """Until that many runs have recorded that many epochs."""
    limit = time.monotonic() + 120
    while (
        sum(len((f / "metrics.csv").read_text().splitlines()) > epochs for f in folders(runs_dir) if (f / "metrics.csv").exists()) < count
    ):
        assert time.monotonic() < limit, "nothing happened in time"
        time.sleep(0.05)


def children(pid: int) -> Sequence[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


GRID = ("optimizer=sam,xsam", "seed=0,1", "epochs=2")


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("basic")
    assert train(runs, "basic", *GRID).returncode == 0
    return runs


def test_the_records_are_those_of_one_after_the_other(one_by_one: Path, tmp_path: Path) -> None:
    done = train(tmp_path, "local", *GRID)
    assert done.returncode == 0, done.stderr
    assert "\n4 finished, 0 failed in " in done.stdout and "; 100%, " in done.stderr.splitlines()[-1]
    assert_same_end(one_by_one, tmp_path)
    again = train(tmp_path, "local", *GRID)
    assert again.returncode == 0
    assert "4 runs, 0 to do" in again.stdout


def test_one_that_fails_keeps_no_other_from_running(one_by_one: Path, tmp_path: Path) -> None:
    blocked = tmp_path / folders(one_by_one)[0].name
    blocked.mkdir()
    (blocked / "checkpoint.pt").mkdir()  # what is left of a run whose record has gone
    done = train(tmp_path, "local", *GRID)
    assert done.returncode == 1
    assert done.stderr.count("failed: ") == 1
    assert status(tmp_path) == ["finished"] * 3 and "run.json: is missing" in done.stderr
    assert "\n3 finished, 1 failed in " in done.stdout


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the worker processes in /proc")
def test_a_signal_saves_every_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    long = ("optimizer=sam", "seed=0,1", "epochs=60")
    process = subprocess.Popen(line(tmp_path / "a", "local", *long), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(tmp_path / "a", epochs=1, count=2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and b"\n0 finished, 0 failed, 2 stopped in " in out
    assert status(tmp_path / "a") == ["preempted", "preempted"]
    assert train(tmp_path / "a", "local", *long).returncode == 0
    assert train(tmp_path / "b", "local", *long).returncode == 0
    assert_same_end(tmp_path / "a", tmp_path / "b")


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the worker processes in /proc")
def test_a_process_that_dies_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        line(tmp_path, "local", "optimizer=sam", "seed=0,1", "epochs=60"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path, epochs=1, count=2)
    victims = [pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "its process died" in stderr
    assert sorted(status(tmp_path)) == ["finished", "running"]


def test_impossible_numbers_of_processes_are_refused(tmp_path: Path) -> None:
    done = train(tmp_path, "local", *GRID, "hydra.launcher.processes=0")
    assert done.returncode == 2
    assert "hydra.launcher.processes=0" in done.stderr


def test_several_processes_for_one_run_and_several_runs_at_a_time_are_refused_together(tmp_path: Path) -> None:
    """Each of torchrun's processes would start workers of its own, which would meet in each other's runs."""
    torchrun = os.environ | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = subprocess.run(line(tmp_path, "local", *GRID), cwd=ROOT, capture_output=True, text=True, timeout=180, env=torchrun)
    assert done.returncode == 2
    assert "hydra/launcher=local: 2 processes were started for each run" in done.stderr and "Traceback" not in done.stderr
    assert not folders(tmp_path)


@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_a_sweep_that_wants_processes_nobody_started_is_refused_before_it_begins(tmp_path: Path, launcher: str) -> None:
    done = train(tmp_path, launcher, *GRID, "replicas=2")
    assert done.returncode == 2
    assert "replicas=2: one process was started" in done.stderr and "Nothing was run." in done.stderr


DIES, DONE = "import os; os.kill(os.getpid(), {})", "pass"


@pytest.mark.parametrize(
    ("plugins", "tasks", "outcomes"),
    [
        ("", [DIES.format(9), DONE, DIES.format(9), DIES.format(9), DONE], [workers.LOST, None, workers.LOST, workers.LOST, None]),
        ("", [DIES.format(15), DONE], [workers.LEFT, None]),
        ("", [DONE, DIES.format(9)], [None, workers.LOST]),
        ("no_such_module", [DONE, DONE, DONE], [workers.LOST, workers.UNSTARTED, workers.UNSTARTED]),
    ],
    ids=["killed", "told to leave", "at the end", "cannot start"],
)
def test_a_process_that_dies_takes_its_own_task_alone(plugins: str, tasks: list[str], outcomes: list[str | None]) -> None:
    """Another takes its place, unless none can start."""
    code = f"import os; os.environ['SAM_PLUGINS'] = {plugins!r}; from sam.runs.workers import run_all; print(run_all(exec, {tasks!r}, 1))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(outcomes), done.stderr
    assert done.stderr.count("plugins=no_such_module: cannot be imported") == bool(plugins)


WAITING = "import pathlib, os, time; pathlib.Path({folder!r}, str(os.getpid())).touch(); time.sleep(50)"
PROGRAM = "from sam.runs.workers import run_all; run_all(exec, {tasks!r}, 2)"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_work_without_handlers_of_its_own_leaves_at_once(tmp_path: Path, number: int, code: int) -> None:
    """As a run that reads its data and does not yet watch for signals: it would go on to its end, and be killed for it."""
    tasks = [WAITING.format(folder=str(tmp_path))] * 2
    process = subprocess.Popen([sys.executable, "-c", PROGRAM.format(tasks=tasks)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code and "Traceback" not in stderr, stderr


def test_the_run_that_failed_is_named_beside_finished_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher, points = LocalLauncher(), [[f"seed={i}"] for i in range(4)]
    launcher.config = OmegaConf.create({"hydra": {"job": {"name": "train"}, "sweep": {"dir": str(tmp_path)}}})
    monkeypatch.setattr(sweep, "compose", lambda points, config: points)
    monkeypatch.setattr(sweep, "unfinished", lambda plans: [1, 3])
    monkeypatch.setattr(workers, "run_all", lambda task, plans, processes: ["it died" if plan == ["seed=3"] else None for plan in plans])
    ends = [end.status.name for end in launcher.launch(points, 0)]
    assert ends == ["COMPLETED"] * 3 + ["FAILED"] and capsys.readouterr().err == "failed: seed=3: it died\n"
