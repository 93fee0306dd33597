"""The lock: one holder, whatever the order of events."""

import json
import os
import platform
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sam.runs import lock


def _contend(folder: Path, entered: list[int], refused: list[int], leave: threading.Event) -> None:
    try:
        with lock.hold(folder, lambda text: None):
            entered.append(1)
            leave.wait(5)
    except lock.LockedError:
        refused.append(1)


def test_only_one_of_many_threads_takes_over_a_stale_lock(tmp_path: Path) -> None:
    """All see the same dead owner; exactly one gets in, the others are refused."""
    dead = {"host": platform.node(), "pid": 2**22 - 7, "process_start": "1", "job": None, "token": "old"}
    for _ in range(20):
        (tmp_path / lock.LOCK).write_text(json.dumps(dead))
        entered: list[int] = []
        refused: list[int] = []
        leave = threading.Event()
        threads = [threading.Thread(target=_contend, args=(tmp_path, entered, refused, leave)) for _ in range(6)]
        [thread.start() for thread in threads]
        limit = time.monotonic() + 5
        while len(refused) < 5 and time.monotonic() < limit:
            time.sleep(0.005)
        leave.set()
        [thread.join() for thread in threads]
        assert (len(entered), len(refused)) == (1, 5)
        assert not (tmp_path / lock.LOCK).exists()


def test_another_machines_lock_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    path = tmp_path / lock.LOCK
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": "17_3", "token": "t"}))
    with pytest.raises(lock.LockedError, match="job 17_3"), lock.hold(tmp_path, print):
        pass
    os.utime(path, (time.time() - lock.STALE - 5,) * 2)
    said: list[str] = []
    with lock.hold(tmp_path, said.append):
        assert "took over the lock of process 1 on elsewhere" in said[0]


def test_a_job_requeued_on_another_machine_does_not_wait_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    (tmp_path / lock.LOCK).write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": "17_3", "token": "t"}))
    with pytest.raises(lock.LockedError, match="job 17_3"), lock.hold(tmp_path, print):
        pass  # another node of the same job, which lives
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    said: list[str] = []
    with lock.hold(tmp_path, said.append):
        assert "job 17_3" in said[0]


def test_a_lost_lock_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    with lock.hold(tmp_path, print) as check:
        check()
        (tmp_path / lock.LOCK).write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "theirs"}))
        with pytest.raises(lock.LockedError, match="lost"):
            check()
    assert json.loads((tmp_path / lock.LOCK).read_text())["token"] == "theirs"  # and theirs is left alone


def test_a_recycled_pid_is_not_the_owner(tmp_path: Path) -> None:
    """Our own pid, but started at another time: some earlier process had this number."""
    (tmp_path / lock.LOCK).write_text(json.dumps({"host": platform.node(), "pid": os.getpid(), "process_start": "1", "token": "t"}))
    holder = lock.owner(tmp_path)
    assert holder is not None and not lock.is_alive(holder)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_a_later_process_has_a_later_start() -> None:
    with subprocess.Popen(["sleep", "9"]) as later:
        starts = [lock._process_start(pid) for pid in (os.getpid(), later.pid)]
        later.kill()
    assert int(starts[0] or 0) < int(starts[1] or 0) and lock._process_start(later.pid) is None


def test_an_unreadable_lock_does_not_block_for_ever(tmp_path: Path) -> None:
    path = tmp_path / lock.LOCK
    path.write_text("{")
    os.utime(path, (time.time() - lock.STALE - 5,) * 2)
    with lock.hold(tmp_path, lambda text: None):
        pass


def test_a_guard_that_a_killed_process_left_keeps_nobody_waiting(tmp_path: Path) -> None:
    """However fresh it is; and of those who find it, each has its turn alone."""
    path, inside, most = tmp_path / "rows.json", [], []
    path.with_name("rows.json.taking").touch()

    def turn() -> None:
        for _ in range(20):
            with lock.alone(path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    began = time.monotonic()
    threads = [threading.Thread(target=turn) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert most == [1] * 160 and time.monotonic() - began < 10 and not os.listdir(tmp_path)


def test_a_beat_that_a_shared_disk_refuses_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats, beat = [], os.utime

    def once_refused(path: Path, *times: Any) -> None:
        beats.append(path)
        if len(beats) == 2:
            raise OSError(5, "Input/output error")
        beat(path, *times)

    monkeypatch.setattr(lock, "BEAT", 0.01)
    monkeypatch.setattr(lock.os, "utime", once_refused)
    with lock.hold(tmp_path, print):
        limit = time.monotonic() + 20
        while len(beats) < 4 and time.monotonic() < limit:
            time.sleep(0.01)
    assert len(beats) >= 4


def test_without_a_start_time_the_heartbeat_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system without /proc."""
    monkeypatch.setattr(lock, "_process_start", lambda pid: "unknown")
    here = {"host": platform.node(), "pid": 1, "process_start": "unknown", "job": None, "restart": None, "token": "t"}
    assert lock.is_alive(here | {"age": 3.0}) and not lock.is_alive(here | {"age": 1e6})
    monkeypatch.setattr(lock, "_process_start", lambda pid: None)
    assert not lock.is_alive(here | {"age": 3.0, "process_start": None})
