"""Both routes to SLURM on a real one: what fails reads FAILED, what is done is not done again, what is preempted comes back."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from one_node import Cluster, wait_until

from sam.runs import records

ROOT = Path(__file__).resolve().parents[2]
TINY = ("dataset=digits", "model=wrn_10_1", "epochs=1", "batch_size=64", "dataset.train_size=128", "threads=1", "runs_dir=runs")
LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=20")
SBATCH = ("--cpus-per-task=1", "--time=20")
LIMIT = 240  # seconds for one step of a story, on a slow and busy machine

needs_exit_75 = pytest.mark.skipif(importlib.util.find_spec("sam.runs.signals") is None, reason="runs do not yet save on a signal")

# Python runs this first in every process below: the run whose folder's name contains $CRASH crashes when it writes its first epoch.
CRASHING = """
import os, sys

def crash(event, arguments):
    if event == "open" and str(arguments[0]).endswith("metrics.csv.tmp") and os.environ["CRASH"] in str(arguments[0]):
        raise RuntimeError("crash on purpose")

sys.addaudithook(crash)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a sweep is composed and submitted: a folder that is not the repository."""
    (tmp_path / "crashing").mkdir()
    (tmp_path / "crashing" / "sitecustomize.py").write_text(CRASHING)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def python(cluster: Cluster, program: str, *arguments: str, cwd: Path, crash: str = "") -> subprocess.CompletedProcess[str]:
    """`python PROGRAM ARGUMENTS` from a folder, on the cluster; with `crash`, the run of that name will crash."""
    command = [sys.executable, str(ROOT / program), *arguments]
    environment = environment_of(cluster, cwd, crash)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)


def environment_of(cluster: Cluster, cwd: Path, crash: str = "") -> dict[str, str]:
    extra = {"CRASH": crash, "PYTHONPATH": str(cwd.parent / "crashing")} if crash else {}
    return cluster.environment | {"PYTHON": sys.executable} | extra


def submit(cluster: Cluster, listed: str, cwd: Path, *options: str, crash: str = "") -> str:
    """Run the one sbatch command that grid.py printed, from `cwd`, with more options; the job's number."""
    (command,) = [line for line in listed.splitlines() if not line.startswith("#")]
    environment = environment_of(cluster, cwd, crash)
    command = command.replace("sbatch ", f"sbatch --parsable {shlex.join(options)} ")
    done = subprocess.run(["bash", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def finished(folder: Path) -> int:
    return sum(record["status"] == records.FINISHED for _, record in records.find_runs(folder / "runs"))


def one_gpu_each(cluster: Cluster, job: str) -> bool:
    shares = cluster.call("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}", "--format=AllocTRES").split()
    return all("gres/gpu=1" in share for share in shares)


def job_number(text: str) -> str:
    found = re.search(r"submitted job (\d+)", text)
    assert found, text
    return found[1]


# ------------------------------------------------------------------------------------------------------------ hydra/launcher=slurm


def test_a_sweep_through_the_launcher(cluster: Cluster, folder: Path) -> None:
    sweep = ("-m", *TINY, *LAUNCHER, "optimizer=sgd,sam", "seed=range(4)")

    first = python(cluster, "train.py", *sweep, cwd=folder, crash="-sgd-s2-")
    job = job_number(first.stdout)
    states = cluster.wait_for(job)
    assert states == {f"{job}_{i}": "FAILED 1:0" if i == 2 else "COMPLETED 0:0" for i in range(8)}
    assert one_gpu_each(cluster, job)
    assert first.returncode == 1
    (named,) = [line for line in first.stderr.splitlines() if line.startswith("failed: ")]
    assert "optimizer=sgd seed=2" in named and f"job {job}_2" in named and "RuntimeError: crash on purpose" in named
    log = (folder / named.rpartition("log: ")[2]).read_text()
    assert "Traceback (most recent call last)" in log and "RuntimeError: crash on purpose" in log
    assert finished(folder) == 7

    began = time.monotonic()
    second = python(cluster, "train.py", *sweep, "hydra.launcher.wait=false", cwd=folder)  # the folder holds 7 finished runs
    job = job_number(second.stdout)
    assert second.returncode == 0, second.stderr
    assert "1 of 8 runs" in second.stdout
    assert cluster.queue(job) and finished(folder) == 7, f"it came back only after the run, {time.monotonic() - began:.0f} s later"
    assert set(cluster.wait_for(job).values()) == {"COMPLETED 0:0"}
    assert finished(folder) == 8

    third = python(cluster, "train.py", *sweep, cwd=folder)
    assert third.returncode == 0 and "nothing was submitted" in third.stdout and "submitted job" not in third.stdout


# ---------------------------------------------------------------------------------------------------- grid.py and slurm_array.sh


def test_a_sweep_as_an_array(cluster: Cluster, folder: Path) -> None:
    sweep = (*TINY, "optimizer=sgd,sam", "optimizer.rho=0.05,0.1")
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()

    listed = python(cluster, "scripts/grid.py", *sweep, "seed=range(3)", "throttle=2", cwd=folder).stdout
    assert "# 12 runs, 9 to do" in listed and "--array=0-8%2" in listed  # SGD does not read rho: both radii are one run
    job = submit(cluster, listed, elsewhere, *SBATCH, crash="-sgd-s2-")
    assert cluster.wait_for(job) == {f"{job}_{i}": "FAILED 1:0" if i == 2 else "COMPLETED 0:0" for i in range(9)}
    assert one_gpu_each(cluster, job)
    (log,) = folder.glob(f"runs/.slurm/*/{job}_2.out")
    assert "Traceback (most recent call last)" in log.read_text() and "RuntimeError: crash on purpose" in log.read_text()
    assert len(list(log.parent.glob(f"{job}_*.out"))) == 9
    assert finished(folder) == 8 and not list(elsewhere.iterdir())

    # Again, with one more seed, two runs side by side in each task.
    listed = python(cluster, "scripts/grid.py", *sweep, "seed=range(4)", "runs_per_task=2", cwd=folder).stdout
    assert "# 16 runs, 4 to do" in listed and "--array=0-1 " in listed
    job = submit(cluster, listed, folder, *SBATCH)
    assert set(cluster.wait_for(job).values()) == {"COMPLETED 0:0"}
    assert len(list(folder.glob(f"runs/.slurm/*/grid-0-{job}-line*.out"))) == 4
    assert finished(folder) == 12

    listed = python(cluster, "scripts/grid.py", *sweep, "seed=range(4)", cwd=folder).stdout
    assert listed == "# 16 runs, 0 to do: nothing to submit\n"


# ------------------------------------------------------------------------------------------------------- plug-ins, both routes

PLUGIN = """
from sam.optimizers.sam import SAM
from sam.optimizers.settings import METHODS, SAMConfig

VERSION = 3

class Mine(SAM):
    pass

METHODS.add("mine", "mine:Mine", SAMConfig, option={"rho": 0.2})
"""


def test_a_plug_in_of_the_launching_folder_reaches_the_tasks(cluster: Cluster, folder: Path) -> None:
    (folder / "mine.py").write_text(PLUGIN)
    line = ("plugins=mine", "optimizer=mine", *TINY)
    swept = python(cluster, "train.py", "-m", *line, *LAUNCHER, "seed=0,1", cwd=folder)
    assert swept.returncode == 0, swept.stderr
    listed = python(cluster, "scripts/grid.py", *line, "seed=range(3)", cwd=folder).stdout
    assert "# 3 runs, 1 to do" in listed
    job = submit(cluster, listed, folder, *SBATCH)
    assert set(cluster.wait_for(job).values()) == {"COMPLETED 0:0"}
    found = [json.loads(path.read_text()) for path in folder.glob("runs/*/run.json")]
    assert [(run["status"], run["identity"]["plugins"]) for run in found] == [("finished", {"mine": "3"})] * 3


# ------------------------------------------------------------------------------------------------------- measuring, both routes


def test_checkpoints_are_measured_as_an_array_by_both_routes(cluster: Cluster, folder: Path) -> None:
    assert python(cluster, "train.py", "-m", *TINY, "seed=range(4)", cwd=folder).returncode == 0
    options = ("runs_dir=runs", "threads=1", "sharpness.m=64", "parts=2")

    def measured() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("sharpness.json")}

    launched = python(cluster, "evaluate_sharpness.py", "-m", *options, *LAUNCHER, "sharpness.notions=[gap]", "part=0,1", cwd=folder)
    job = job_number(launched.stdout)
    assert launched.returncode == 0 and cluster.wait_for(job) == {f"{job}_{i}": "COMPLETED 0:0" for i in range(2)}, launched.stderr
    assert len(measured()) == 4 and not (folder / "runs" / "tables").exists()

    listed = python(cluster, "scripts/grid.py", "evaluate", *options, "sharpness.notions=[ascent,gap]", cwd=folder).stdout
    job = submit(cluster, listed, folder, *SBATCH)
    assert cluster.wait_for(job) == {f"{job}_{i}": "COMPLETED 0:0" for i in range(2)}
    before = measured()
    tables = python(cluster, "evaluate_sharpness.py", *options[:-1], cwd=folder)
    assert tables.returncode == 0 and "All measures" in tables.stdout, tables.stderr
    assert measured() == before  # the tables found every row there


# What a line of this list says is what the program does; it stands in for train.py, which takes longer.
STANDIN = """
import os, signal, sys, time

def leave(number, frame):
    print("caught", signal.Signals(number).name, flush=True)
    raise SystemExit(75)

restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
print("start", restarts, "gpu", os.environ["CUDA_VISIBLE_DEVICES"], "threads", os.environ["OMP_NUM_THREADS"], sys.argv[1:], flush=True)
match sys.argv[1].split("="):
    case ["exit", *codes]:
        raise SystemExit(int(codes[min(restarts, len(codes) - 1)]))
    case ["wait", names] if restarts == 0:
        for name in names.split(","):
            signal.signal(getattr(signal, name), leave)
        print("waiting", flush=True)
        time.sleep(60)
    case ["die", name]:
        os.kill(os.getpid(), getattr(signal, name))
"""


def array(cluster: Cluster, folder: Path, lines: list[str], *options: str, **environment: str) -> tuple[str, Path]:
    """Submit slurm_array.sh over these lines with the stand-in; the job's first task and its log."""
    (folder / "standin.py").write_text(STANDIN)
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    tasks = -(-len(lines) // int(environment.get("RUNS_PER_TASK", "1")))
    script = [str(ROOT / "scripts" / "slurm_array.sh"), "list.txt"]
    done = subprocess.run(
        ["sbatch", "--parsable", f"--array=0-{tasks - 1}", *options, *script],
        cwd=folder,
        env=environment_of(cluster, folder) | {"PROGRAM": str(folder / "standin.py")} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    return f"{job}_0", folder / f"slurm-{job}_0.out"


def test_a_task_requeues_itself_and_the_restarts_are_bounded(cluster: Cluster, folder: Path) -> None:
    task, log = array(cluster, folder, ["exit=75"], "--cpus-per-task=4", MAX_RESTARTS="1")
    cluster.release(task)
    assert cluster.wait_for(task, 40) == {task: "FAILED 75:0"}
    assert [line for line in log.read_text().splitlines() if line.startswith("start")] == [
        "start 0 gpu 0 threads 4 ['exit=75']",
        "start 1 gpu 0 threads 4 ['exit=75']",
    ]
    assert "restarted 1 times already" in log.read_text()


def test_the_last_task_of_an_array_requeues_only_itself(cluster: Cluster, folder: Path) -> None:
    task, log = array(cluster, folder, ["wait=SIGUSR1,SIGTERM", "exit=75=0"])
    last = task.replace("_0", "_1")
    cluster.release(last)
    assert cluster.wait_for(last, 40) == {last: "COMPLETED 0:0"}
    assert cluster.queue(task) == {task: "RUNNING"} and log.read_text().count("start") == 1
    cluster.call("scancel", task)


@pytest.mark.parametrize("how", [("--signal=USR1",), ("--batch", "--signal=USR1"), ("--batch", "--signal=TERM")], ids=" ".join)
def test_a_signal_reaches_the_run(cluster: Cluster, folder: Path, how: tuple[str, ...]) -> None:
    task, log = array(cluster, folder, ["wait=SIGUSR1,SIGTERM"], MAX_RESTARTS="0")
    wait_until("the start", lambda: log.exists() and "waiting" in log.read_text())
    cluster.call("scancel", *how, task)
    assert cluster.wait_for(task, 40) == {task: "FAILED 75:0"}
    assert "caught SIGUSR1" in log.read_text()


def test_a_task_that_another_partition_preempts_comes_back(cluster: Cluster, folder: Path) -> None:
    task, log = array(cluster, folder, ["wait=SIGUSR1"])
    wait_until("the start", lambda: log.exists() and "waiting" in log.read_text())
    cluster.call("sbatch", "--partition=high", "--gpus-per-node=2", f"--output={folder}/high.out", "--wrap=true")
    cluster.release(task)
    assert cluster.wait_for(task, 40) == {task: "COMPLETED 0:0"}
    assert "caught SIGUSR1" in log.read_text() and "start 1 " in log.read_text()


def test_a_cancelled_task_does_not_come_back(cluster: Cluster, folder: Path) -> None:
    task, log = array(cluster, folder, ["wait=SIGUSR1,SIGTERM"])
    wait_until("the start", lambda: log.exists() and "waiting" in log.read_text())
    cluster.call("scancel", task)
    assert cluster.wait_for(task, 40)[task].startswith("CANCELLED")
    assert "caught SIG" in log.read_text()  # it was told, and asked to be started again


@pytest.mark.parametrize(
    ("lines", "ends"),
    [
        (["exit=0", "exit=3", "exit=0"], "FAILED 3:0"),
        (["exit=75=0", "exit=3=0", "exit=0"], "COMPLETED 0:0"),  # one saved and asks to come back: all do, and then it is well
        (["die=SIGUSR1", "exit=0"], "FAILED 75:0"),  # told to leave before it could listen: nothing is lost, so it comes back
    ],
)
def test_runs_side_by_side(cluster: Cluster, folder: Path, lines: list[str], ends: str) -> None:
    bound = "0" if ends == "FAILED 75:0" else "1"
    task, log = array(cluster, folder, lines, "--cpus-per-task=6", RUNS_PER_TASK="3", MAX_RESTARTS=bound)
    if ends == "COMPLETED 0:0":
        cluster.release(task)
    assert cluster.wait_for(task, 40) == {task: ends}
    logs = sorted(folder.glob("list-*-line*.out"))
    assert [path.name for path in logs] == [f"list-{task.partition('_')[0]}-line{i}.out" for i in range(len(lines))]
    for path, line in zip(logs, lines, strict=True):
        assert path.read_text().startswith(f"start 0 gpu 0 threads 2 ['{line}']")
        assert line in log.read_text() and str(path.name) in log.read_text()


def test_arguments_reach_the_program_as_they_were_written(cluster: Cluster, folder: Path) -> None:
    arguments = ["exit=0", "a=[1,2]", "b='x y'", 'c="$HOME *"', "*"]
    task, log = array(cluster, folder, [shlex.join(arguments)])
    assert cluster.wait_for(task, 40) == {task: "COMPLETED 0:0"}
    assert str(arguments) in log.read_text()


# ------------------------------------------------------------------------------------------------------------------- preemption


def same(one: Any, other: Any) -> bool:
    """Bitwise, whatever the nesting; times are not compared."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        times = {"seconds", "train_seconds"}
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one.keys() - times)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_same_run(one: Path, other: Path) -> None:
    states = [torch.load(path / records.CHECKPOINT, weights_only=True) for path in (one, other)]
    assert same(*states)
    assert same(*[records.read_metrics(path) for path in (one, other)])


LONG = (*TINY, "epochs=12", "batch_size=8", "optimizer=xsam")


def run_folder(work: Path) -> Path:
    return next(work.glob("runs/digits-*"))


def under_way(work: Path) -> bool:
    """Two epochs are recorded, ten are not."""
    return any(len(records.read_metrics(path)) >= 2 for path in work.glob("runs/digits-*"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the long run, done without SLURM and without a pause."""
    work = tmp_path_factory.mktemp("uninterrupted")
    command = [sys.executable, str(ROOT / "train.py"), *LONG]
    subprocess.run(command, cwd=work, check=True, capture_output=True, timeout=LIMIT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return run_folder(work)


@needs_exit_75
def test_a_preempted_array_task_ends_as_if_nothing_had_happened(cluster: Cluster, folder: Path, uninterrupted: Path) -> None:
    listed = python(cluster, "scripts/grid.py", *LONG, cwd=folder).stdout
    task = submit(cluster, listed, folder, *SBATCH) + "_0"
    wait_until("the run being under way", lambda: under_way(folder), LIMIT)
    cluster.call("scancel", "--signal=USR1", task)
    cluster.release(task)
    record = records.read_run(run_folder(folder))
    assert record is not None and record["status"] == "preempted"
    assert cluster.wait_for(task) == {task: "COMPLETED 0:0"}
    assert "continuing after epoch" in next(folder.glob(f"runs/.slurm/*/{task}.out")).read_text()
    assert_same_run(run_folder(folder), uninterrupted)


@needs_exit_75
@pytest.mark.parametrize("name", ["USR1", "USR2"])
def test_a_preempted_task_of_the_launcher_ends_as_if_nothing_had_happened(
    cluster: Cluster, folder: Path, uninterrupted: Path, name: str
) -> None:
    launched = python(cluster, "train.py", "-m", *LONG, *LAUNCHER, "hydra.launcher.wait=false", cwd=folder)
    job = job_number(launched.stdout)
    wait_until("the run being under way", lambda: under_way(folder), LIMIT)
    cluster.call("scancel", f"--signal={name}", job)
    cluster.release(job)
    assert cluster.wait_for(job) == {job: "COMPLETED 0:0"}
    assert_same_run(run_folder(folder), uninterrupted)


@needs_exit_75
def test_a_cancelled_task_of_the_launcher_does_not_come_back_and_is_named(cluster: Cluster, folder: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "-m", *LONG, *LAUNCHER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=cluster.environment, stdout=pipe, stderr=pipe, text=True) as launcher:
        wait_until("the run being under way", lambda: under_way(folder) or launcher.poll() is not None, LIMIT)
        cluster.call("scancel", "--me")
        output, errors = launcher.communicate(timeout=LIMIT)
    job = job_number(output)
    assert cluster.wait_for(job, 30)[job].startswith("CANCELLED")
    assert launcher.returncode == 1 and "left the queue without a result" in errors


# --------------------------------------------------------------------------------------------------------- several GPUs for a run


def replicas_of(folder: Path) -> list[tuple[str, list[int]]]:
    found = records.find_runs(folder / "runs")
    return sorted((record["status"], [segment["replicas"] for segment in record["segments"]]) for _, record in found)


def test_two_processes_a_run_through_the_launcher(cluster: Cluster, folder: Path) -> None:
    more = ("replicas=2", "hydra.launcher.tasks_per_node=2", "hydra.launcher.gpus_per_node=2")
    swept = python(cluster, "train.py", "-m", *TINY, *LAUNCHER, *more, "optimizer=sgd", "seed=0", cwd=folder)
    assert swept.returncode == 0, swept.stderr
    assert replicas_of(folder) == [(records.FINISHED, [2])]


def test_two_processes_a_run_as_an_array(cluster: Cluster, folder: Path) -> None:
    listed = python(cluster, "scripts/grid.py", *TINY, "epochs=40", "replicas=2", "optimizer=sgd", cwd=folder).stdout
    job = submit(cluster, listed, folder, *SBATCH)
    wait_until("the run is under way", lambda: list(folder.glob("runs/*/metrics.csv")) != [], LIMIT)
    cluster.call("scancel", "--signal=USR1", f"{job}_0")
    wait_until("it saved and left", lambda: replicas_of(folder) == [(records.PREEMPTED, [2])], LIMIT)
    cluster.release(f"{job}_0")
    assert set(cluster.wait_for(job).values()) == {"COMPLETED 0:0"}
    assert replicas_of(folder) == [(records.FINISHED, [2, 2])]
