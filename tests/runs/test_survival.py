"""Runs that are stopped, killed, crowded or starved of disk, driven through the real command."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from sam.runs import lock, records

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("train_seconds", "seconds")
RUN = ["protocol=demo", "optimizer=sam_n2", "dataset.train_size=192", "model.dropout=0.2", "checkpoint_interval=1"]


def command(runs_dir: Path, *overrides: str, flags: Sequence[str] = ()) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *flags, *RUN, *overrides, f"runs_dir={runs_dir}"]


def train(runs_dir: Path, *overrides: str, flags: Sequence[str] = (), shell: str = "") -> subprocess.CompletedProcess[str]:
    arguments = command(runs_dir, *overrides, flags=flags)
    if shell:
        arguments = ["bash", "-c", f'{shell}; exec "$@"', "bash", *arguments]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=180)


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "nothing happened in time"
        time.sleep(0.02)


def folder_of(runs_dir: Path) -> Path:
    (folder,) = (path.parent for path in runs_dir.glob("*/run.json"))
    return folder


def record_of(runs_dir: Path) -> dict:
    return json.loads((folder_of(runs_dir) / "run.json").read_text())


def without_times(path: Path) -> list[list[str]]:
    lines = [line.split(",") for line in path.read_text().splitlines()]
    kept = [i for i, name in enumerate(lines[0]) if name not in TIMES]
    return [[line[i] for i in kept] for line in lines]


def assert_same_end(a: Path, b: Path) -> None:
    left, right = (torch.load(folder_of(x) / "checkpoint.pt", weights_only=True) for x in (a, b))
    assert left["model"].keys() == right["model"].keys()
    assert all(torch.equal(left["model"][name], right["model"][name]) for name in left["model"])
    momenta = [[state["momentum_buffer"] for state in x["optimizer"]["base"]["state"].values()] for x in (left, right)]
    assert len(momenta[0]) > 0 and all(map(torch.equal, *momenta))
    assert without_times(folder_of(a) / "metrics.csv") == without_times(folder_of(b) / "metrics.csv")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, never disturbed."""
    runs_dir = tmp_path_factory.mktemp("reference")
    assert train(runs_dir, "epochs=40").returncode == 0
    return runs_dir


def stopped(runs_dir: Path, signum: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The run, sent a signal once it has recorded an epoch."""
    lines = lambda: sum(len(path.read_text().splitlines()) for path in runs_dir.glob("*/metrics.csv"))
    before, line = lines(), command(runs_dir, "epochs=40", *overrides)
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: lines() > before or process.poll() is not None)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.parametrize(("name", "code"), [("SIGUSR1", 75), ("SIGUSR2", 75), ("SIGTERM", 75), ("SIGHUP", 75), ("SIGINT", 130)])
def test_a_signal_saves_within_a_step_and_the_same_command_ends_bitwise_the_same(
    name: str, code: int, tmp_path: Path, reference: Path
) -> None:
    result = stopped(tmp_path, getattr(signal, name))
    assert result.returncode == code, result.stderr
    assert f"stopped by {name}" in result.stderr and "Traceback" not in result.stderr
    assert record_of(tmp_path)["status"] == "preempted"
    assert not (folder_of(tmp_path) / lock.LOCK).exists()
    again = train(tmp_path, "epochs=40")
    assert again.returncode == 0 and "continuing after epoch" in again.stderr, again.stderr
    assert_same_end(tmp_path, reference)
    segments = record_of(tmp_path)["segments"]
    assert [segment["from_epoch"] > 0 for segment in segments] == [False, True]
    assert not (folder_of(tmp_path) / "checkpoint.previous.pt").exists()


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path, reference: Path) -> None:
    stopped(tmp_path, signal.SIGTERM)
    newest = folder_of(tmp_path) / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:5000])
    again = train(tmp_path, "epochs=40")
    assert again.returncode == 0
    assert "checkpoint.pt: the checkpoint is damaged or truncated" in again.stderr and "continuing after epoch" in again.stderr
    assert_same_end(tmp_path, reference)


def test_two_processes_never_write_one_run(tmp_path: Path) -> None:
    process = subprocess.Popen(command(tmp_path, "epochs=4000"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: list(tmp_path.glob("*/metrics.csv")))
        second = train(tmp_path, "epochs=4000")
        assert second.returncode == 2
        assert f"is being run by process {process.pid} on" in second.stderr and "Traceback" not in second.stderr
        rows = len((folder_of(tmp_path) / "metrics.csv").read_text().splitlines())
        wait_for(lambda: len((folder_of(tmp_path) / "metrics.csv").read_text().splitlines()) > rows)  # the first one goes on
    finally:
        process.kill()
        process.communicate()


def test_a_lock_whose_owner_is_gone_is_taken_over_and_said_so(tmp_path: Path) -> None:
    process = subprocess.Popen(command(tmp_path, "epochs=4000"), cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("*/metrics.csv")))
    process.kill()
    process.wait()
    assert (folder_of(tmp_path) / lock.LOCK).exists()
    status = subprocess.run(
        [sys.executable, str(ROOT / "scripts/status.py"), f"runs_dir={tmp_path}"], capture_output=True, text=True, timeout=60
    )
    assert "preempted" in status.stdout and "its process is gone" in status.stdout
    next_one = subprocess.Popen(command(tmp_path, "epochs=4000"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: json.loads((folder_of(tmp_path) / lock.LOCK).read_text())["pid"] == next_one.pid)
    next_one.send_signal(signal.SIGTERM)
    _, err = next_one.communicate(timeout=90)
    assert f"took over the lock of process {process.pid}" in err


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    """`ulimit -f` makes the write of the checkpoint fail half-way, as a full disk does."""
    result = train(tmp_path, "epochs=2", shell="ulimit -f 200")
    assert result.returncode == 2
    assert "checkpoint.pt" in result.stderr and "could not be written (File too large)" in result.stderr
    assert "Traceback" not in result.stderr
    record = record_of(tmp_path)
    assert record["status"] == "failed" and "could not be written" in record["error"]
    assert [path.name for path in folder_of(tmp_path).glob("*.tmp")] == []
    assert train(tmp_path, "epochs=2").returncode == 0  # with room again, the same command finishes


def test_force_never_continues_from_what_it_was_told_to_redo(tmp_path: Path) -> None:
    assert train(tmp_path, "epochs=1").returncode == 0
    process = subprocess.Popen([*command(tmp_path, "epochs=1"), "force=true"], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(
        lambda: process.poll() is not None or (folder_of(tmp_path) / lock.LOCK).exists() if list(tmp_path.glob("*/run.json")) else False
    )
    process.kill()
    process.wait()
    folder = next(path.parent for path in tmp_path.glob("*/*.json"))
    left = torch.load(folder / "checkpoint.pt", weights_only=True) if (folder / "checkpoint.pt").exists() else None
    assert left is None or not left["rows"] or json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_continuing_with_other_threads_warns_and_is_recorded(tmp_path: Path) -> None:
    stopped(tmp_path, signal.SIGUSR1)
    again = stopped(tmp_path, signal.SIGUSR1, "threads=2")
    assert again.returncode == 75 and "continued elsewhere" in again.stderr and "1 threads" in again.stderr
    assert [segment["environment"]["threads"] for segment in record_of(tmp_path)["segments"]] == [1, 2]


def test_status_names_every_state_of_a_grid(tmp_path: Path) -> None:
    grid = ["optimizer=sgd", "epochs=1", "seed=0,1,2,3"]
    assert train(tmp_path, "optimizer=sgd", "epochs=1", "seed=0,1,2", flags=["-m"]).returncode == 0
    folders = sorted(path.parent for path in tmp_path.glob("*/run.json"))
    for folder, status, error in ((folders[0], "failed", "RuntimeError: out of luck"), (folders[1], "preempted", "stopped by SIGTERM")):
        record = records.read_run(folder)
        assert record is not None
        records.write_run(folder, record | {"status": status, "error": error})
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts/status.py"), *RUN, *grid, f"runs_dir={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert result.returncode == 1, result.stderr
    assert "RuntimeError: out of luck" in result.stdout and "stopped by SIGTERM" in result.stdout
    assert "1 missing" in result.stdout and "1 failed" in result.stdout and "1 preempted" in result.stdout and "1 finished" in result.stdout


def limited(epochs: int, runs_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that is told to leave once it has recorded so many epochs, as `timeout` does it after so many minutes; counted in epochs,
    where it is cut off does not depend on the machine's speed."""
    recorded = lambda: sum(len(path.read_text().splitlines()) - 1 for path in runs_dir.glob("*/metrics.csv"))
    before = recorded()
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and recorded() - before <= epochs:
            time.sleep(0.05)
        process.terminate()
        out, err = process.communicate(timeout=180)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def test_a_run_cut_off_by_its_time_limit_ends_bitwise_the_same(tmp_path: Path, reference: Path) -> None:
    codes = [limited(9, tmp_path, *command(tmp_path, "epochs=40")).returncode for _ in range(2)]
    assert codes == [75, 75] and record_of(tmp_path)["status"] == "preempted"
    assert limited(40, tmp_path, *command(tmp_path, "epochs=40")).returncode == 0
    assert len(record_of(tmp_path)["segments"]) == 3
    assert_same_end(tmp_path, reference)


def test_a_sweep_that_is_told_to_leave_begins_no_further_run(tmp_path: Path) -> None:
    done = limited(2, tmp_path, *command(tmp_path, "epochs=4000", "seed=0,1", flags=["-m"]))
    assert done.returncode == 75 and "stopped by SIGTERM" in done.stderr and "Traceback" not in done.stderr
    assert record_of(tmp_path)["status"] == "preempted"  # of the only folder
