"""Run several tasks at a time on one machine, in worker processes that share one progress."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partialmethod
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sam.registry import load_plugins
from sam.runs import progress
from sam.runs.signals import BY_HAND, REQUEUE_ME, SAVE_AND_LEAVE, Interrupts, Preempted, handling

TELL_EVERY = 0.25  # seconds between two reports of a worker
LOST = "its process died (out of memory?); the same command continues it from its last checkpoint"
LEFT = "its process was told to leave; it has saved, and the same command continues it"
UNSTARTED = "not started: no process was left to take it"


class _Told(progress.Progress):
    """A worker's progress: sends everything to the parent process."""

    def __init__(self, parent: Connection) -> None:
        super().__init__(1.0, "", quiet=True)
        self.parent, self._units, self._next = parent, 0.0, 0.0

    def advance(self, units: float) -> None:
        self.done, self._units = self.done + units, self._units + units
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> None:
        self._tell("advance", self._units)
        self._units, self._next = 0.0, time.monotonic() + TELL_EVERY

    def skip(self, units: float) -> None:
        super().skip(units)
        self._tell("skip", units)

    def _tell(self, kind: str, *content: object) -> None:
        try:
            self.parent.send((kind, content))
        except BrokenPipeError:  # nobody listens any more: save and leave
            os.kill(os.getpid(), signal.SIGTERM)

    note, say, say_once = partialmethod(_tell, "note"), partialmethod(_tell, "say"), partialmethod(_tell, "say_once")


def _work(parent: Connection, function: Callable[[Any], object]) -> None:
    """A worker's main loop: take an argument, call the function, send how it ended (done | failed | left, text), until None comes."""
    os.setsid()  # Ctrl-C in a terminal reaches the parent alone, which hands it on once
    with suppress(OSError):  # Linux schedules sessions as groups, and a new one at nice 0: ours shall be as nice as its parent
        Path("/proc/self/autogroup").write_text(str(os.nice(0)), encoding="ascii")
    load_plugins()  # before an argument that holds their classes comes
    interrupts = Interrupts()
    interrupts.waits = True  # but for a task's own time, in which a training run has handlers of its own as soon as it can save
    for number in SAVE_AND_LEAVE:
        signal.signal(number, interrupts.handle)
    shown = _Told(parent)
    progress.share(shown)
    with suppress(EOFError, BrokenPipeError):  # the parent is gone: what is under way was finished, nothing new begins
        while interrupts.signum is None and (argument := parent.recv()) is not None:
            try:
                with interrupts.broken_off():
                    function(argument)
                shown.flush()
                parent.send(("done", ""))
            except (Preempted, KeyboardInterrupt):
                parent.send(("left", ""))
                return
            except ValueError as error:  # bad settings, bad data, a checkpoint that does not fit: one sentence
                parent.send(("failed", str(error)))
            except Exception:
                parent.send(("failed", traceback.format_exc()))


@dataclass
class _Worker:
    process: Any
    line: Connection
    task: int | None = None  # what it is at


def run_all(function: Callable[[Any], object], arguments: Sequence[Any], processes: int) -> list[str | None]:
    """Call `function` (importable by name) with every argument, `processes` at a time; returns None or the problem for each. A process that
    is killed is replaced. A signal that asks to leave goes on to the processes, which save, and SystemExit is raised (75, or 130 after
    Ctrl-C)."""
    spawn = multiprocessing.get_context("spawn")
    waiting = list(range(len(arguments)))[::-1]
    outcomes: list[str | None] = [UNSTARTED] * len(arguments)
    workers: list[_Worker] = []
    came: list[int] = []

    def hand_on(signum: int, frame: Any) -> None:
        came.append(signum)
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker.process.pid, signum)

    def start() -> _Worker:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_work, args=(theirs, function))
        process.start()
        theirs.close()
        workers.append(_Worker(process, ours))
        return workers[-1]

    with handling(hand_on), progress.progress_for(1.0, "runs", quiet=True) as shown:
        for _ in range(min(processes, len(arguments))):
            start()
        for worker in workers:
            _hand_out(worker, arguments, waiting, came)
        while busy := {worker.line: worker for worker in workers if worker.task is not None}:
            for line in wait(list(busy)):
                worker = busy[line]  # type: ignore[index]
                _hear(worker, outcomes, shown)
                code = worker.process.exitcode  # None: it lives; above 0: it could not even start, nor would another
                if waiting and not came and code is not None and code <= 0:  # killed or told to leave, with its own task alone
                    workers.remove(worker)
                    worker = start()
                _hand_out(worker, arguments, waiting, came)
        for worker in workers:
            worker.process.join()
    if came:
        shown.say("stopped: what was done is kept, and the same command continues.")
        raise SystemExit(BY_HAND if came[0] == signal.SIGINT else REQUEUE_ME)
    return outcomes


def _hand_out(worker: _Worker, arguments: Sequence[Any], waiting: list[int], came: list[int]) -> None:
    """Send an idle worker its next argument, or None: the end."""
    if worker.task is not None or not worker.process.is_alive():
        return
    with suppress(BrokenPipeError):
        if waiting and not came:
            worker.line.send(arguments[waiting[-1]])
            worker.task = waiting.pop()
        else:
            worker.line.send(None)


def _hear(worker: _Worker, outcomes: list[str | None], shown: progress.Progress) -> None:
    """Process one message of a worker, or its death."""
    assert worker.task is not None
    try:
        kind, content = worker.line.recv()
    except (EOFError, ConnectionResetError):
        kind, content = "lost", ""
        worker.process.join()
    if kind in ("advance", "skip", "note", "say", "say_once"):
        getattr(shown, kind)(*content)
        return
    outcomes[worker.task] = {"done": None, "left": LEFT, "lost": LOST}.get(kind, content)
    worker.task = None
    if kind == "left":
        worker.process.join()
