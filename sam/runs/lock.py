"""One process a run: a lock file in the run's folder, with a heartbeat that shows whether its owner is alive."""

import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sam.core.files import DamagedError, check, read_json, write_atomic

LOCK = "lock.json"
BEAT = 15.0  # seconds between heartbeats (the file's time of change)
STALE = 300.0  # a lock whose last heartbeat is older belongs to nobody
_HOLDER = {**dict.fromkeys(("host", "job", "restart", "token", "process_start"), str | None), "pid": int | None}


class LockedError(ValueError):
    """Another process owns the run; one sentence for the user."""


def _process_start(pid: int) -> str | None:
    """Start time of a process of this machine, which tells it from a later one of the same pid; None if it is gone."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def _job() -> str | None:
    parts = [os.environ.get(name) for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")]
    return "_".join(p for p in parts if p) or os.environ.get("SLURM_JOB_ID")


def owner(folder: Path) -> dict[str, Any] | None:
    """Read the lock: host, pid, job, started, token, and `age`, seconds since the last heartbeat; None if there is none."""
    path, nobody = folder / LOCK, dict[str, Any].fromkeys(_HOLDER)
    try:
        age = max(0.0, time.time() - path.lstat().st_mtime)
        try:
            holder = nobody | read_json(path)
            check(holder, _HOLDER)
        except (OSError, DamagedError):  # nobody knows whose it is
            path.lstat()  # or it is gone meanwhile
            holder = nobody
    except OSError:
        return None
    return holder | {"age": age}


def is_alive(holder: dict[str, Any]) -> bool:
    """On this machine: whether the process exists; on another: whether its heartbeat is fresh, and it is not this job before a requeue."""
    if holder["host"] == platform.node() and holder["pid"] is not None:
        start = _process_start(holder["pid"])
        return start is not None and holder["process_start"] == start and (start != "unknown" or bool(holder["age"] < STALE))
    requeued = holder["job"] is not None and holder["job"] == _job() and holder["restart"] != os.environ.get("SLURM_RESTART_COUNT")
    return not requeued and bool(holder["age"] < STALE)


@contextmanager
def hold(folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Hold the run's lock; yields a function to call before writing: True, or LockedError if the lock was lost meanwhile. LockedError if a
    living process has it; a stale lock is taken over."""
    folder.mkdir(parents=True, exist_ok=True)
    path, token = folder / LOCK, uuid.uuid4().hex
    mine = {"host": platform.node(), "pid": os.getpid(), "process_start": _process_start(os.getpid()), "job": _job(), "token": token}
    mine["started"], mine["restart"] = time.strftime("%Y-%m-%dT%H:%M:%S%z"), os.environ.get("SLURM_RESTART_COUNT")
    with alone(path):
        if holder := owner(folder):
            who = f"process {holder['pid']} on {holder['host']}" + (f", job {holder['job']}" if holder["job"] else "")
            who = who if holder["token"] else f"somebody unknown ({LOCK} is damaged)"
            if is_alive(holder):
                sign = f"last sign of life {holder['age']:.0f} s ago"
                raise LockedError(f"{folder.name}: is being run by {who} ({sign}); two must not write one run.")
            say(f"{folder.name}: took over the lock of {who}, which is gone.")
        write_atomic(path, json.dumps(mine))
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            with suppress(OSError):  # of a shared disk: the next beat may reach it
                os.utime(path)

    is_mine = lambda: (owner(folder) or {}).get("token") == token

    def may_write() -> bool:
        if not is_mine():
            raise LockedError(f"{folder.name}: the lock was lost to another process; this one stops and writes nothing more.")
        return True

    threading.Thread(target=beat, name="run-lock", daemon=True).start()
    try:
        yield may_write
    finally:
        stop.set()
        if is_mine():
            path.unlink(missing_ok=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time work on a file: others wait for a guard file beside it, which is free again when its holder has ended."""
    guard = path.with_name(f"{path.name}.taking")
    while True:
        with guard.open("ab") as file:
            with suppress(OSError):  # a file system that knows no locks: the last one to write wins
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # else the holder before removed it: the next ones wait at another
                try:
                    yield
                finally:
                    guard.unlink(missing_ok=True)
                return
