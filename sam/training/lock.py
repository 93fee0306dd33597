"""One process a run: a lock in the run's folder, with a heartbeat, so that a dead owner's lock can be told from a living one's."""

from __future__ import annotations

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

from sam.results.records import DamagedError, check, read_json

LOCK = "lock.json"
BEAT = 15.0  # seconds between heartbeats (the file's time of change)
GUARD = 60.0  # seconds after which a takeover that was begun is given up for dead
STALE = 300.0  # a lock whose last heartbeat is older belongs to nobody
_HOLDER = {**dict.fromkeys(("host", "job", "token", "process_start"), str | None), "pid": int | None}


class LockedError(ValueError):
    """Another process owns the run; one sentence for the user."""


def _process_start(pid: int) -> str | None:
    """When a process of this machine started (a number that its successor under the same pid does not share); None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
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
    """Who holds the lock: host, pid, job, started, token, and `age`, seconds since the last heartbeat; None if nobody does."""
    path, nobody = folder / LOCK, dict[str, Any].fromkeys(_HOLDER)
    try:
        age = max(0.0, time.time() - path.lstat().st_mtime)
    except OSError:
        return None
    try:
        holder = nobody | read_json(path)
        check(holder, _HOLDER)
    except (OSError, DamagedError):  # gone meanwhile, or nobody knows whose it is
        if not os.path.lexists(path):
            return None
        holder = nobody
    return holder | {"age": age}


def is_alive(holder: dict[str, Any]) -> bool:
    """On this machine, whether the process is still there; on another, whether its heartbeat is fresh.

    The lock of this very SLURM job on another machine is its own, from before it was requeued: that process is gone.
    """
    if holder["host"] == platform.node() and holder["pid"] is not None:
        return holder.get("process_start") == _process_start(holder["pid"])
    if holder["job"] is not None and holder["job"] == _job():
        return False
    return bool(holder["age"] < STALE)


@contextmanager
def hold(folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the run's lock; yields a function that raises LockedError if the lock was lost meanwhile (call it before writing).

    Raises LockedError if a living process has it. A stale lock is taken over, and `say` is told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, token = folder / LOCK, uuid.uuid4().hex
    mine = {"host": platform.node(), "pid": os.getpid(), "process_start": _process_start(os.getpid()), "job": _job(), "token": token}
    content = json.dumps(mine | {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    while not _create(path, content):
        holder = owner(folder)
        if holder is None:
            continue
        who = f"process {holder['pid']} on {holder['host']}" + (f", job {holder['job']}" if holder["job"] else "")
        who = who if holder["token"] else f"somebody unknown ({LOCK} is damaged)"
        if is_alive(holder):
            sign = f"last sign of life {holder['age']:.0f} s ago"
            raise LockedError(f"{folder.name}: is being run by {who} ({sign}); two must not write one run.")
        try:
            taken = _take_over(path, holder["token"], content)
        except OSError as error:
            raise LockedError(f"{path}: cannot be taken over ({error.strerror}); delete it.") from error
        if taken:
            say(f"{folder.name}: took over the lock of {who}, which is gone.")
            break
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            try:
                os.utime(path)
            except OSError:
                return

    threading.Thread(target=beat, name="run-lock", daemon=True).start()

    def check() -> None:
        holder = owner(folder)
        if holder is None or holder["token"] != token:
            raise LockedError(f"{folder.name}: the lock was lost to another process; this one stops and writes nothing more.")

    try:
        yield check
    finally:
        stop.set()
        holder = owner(folder)
        if holder is not None and holder["token"] == token:
            path.unlink(missing_ok=True)


def _beside(path: Path, content: str) -> Path:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(content, encoding="utf-8")
    return temporary


def _create(path: Path, content: str) -> bool:
    """Make the lock file with its content in one step, unless there is one."""
    temporary = _beside(path, content)
    try:
        os.link(temporary, path)  # fails if `path` exists; never shows a half-written lock
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _take_over(path: Path, token: str | None, content: str) -> bool:
    """Replace the lock that holds `token` by `content`, if it is still there; False if somebody else was quicker.

    Takers queue, and the lock is replaced in one step, never absent: otherwise a third process could slip in between.
    """
    with alone(path):
        holder = owner(path.parent)
        if holder is None or holder["token"] != token:
            return False
        os.replace(_beside(path, content), path)
        return True


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time at a file, for moments, on any file system: others wait for a guard file beside it to go."""
    guard = path.with_name(f"{path.name}.taking")
    while True:
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            with suppress(FileNotFoundError):
                if time.time() - guard.stat().st_mtime > GUARD:  # its maker died at it
                    guard.unlink()
            time.sleep(0.02)
    try:
        yield
    finally:
        guard.unlink(missing_ok=True)
