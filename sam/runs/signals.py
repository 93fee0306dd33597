"""Signals that ask a run to save and leave: at once, or after the current step where steps are not yet saved."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SAVE_AND_LEAVE = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
REQUEUE_ME = 75  # exit code: saved, please start the same command again (EX_TEMPFAIL)
BY_HAND = 130  # exit code after Ctrl-C


class Preempted(SystemExit):
    """A signal asked the run to leave, and its state is saved. A SystemExit, so that no `except Exception` of a library catches it."""

    told = False  # whether the user was told

    def __init__(self, signum: int) -> None:
        self.code: int = BY_HAND if signum == signal.SIGINT else REQUEUE_ME
        super().__init__(self.code)
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}; the state is saved, and the same command continues"


def _leave(signum: int, frame: Any) -> None:
    os.write(2, f"stopped by {signal.Signals(signum).name} before the run began.\n".encode())
    os._exit(Preempted(signum).code)  # an exception in the midst of importing torch would become another one


def heeded() -> list[int]:
    """The signals to act on. What was started to ignore Ctrl-C (a shell's background job) or SIGHUP (nohup) goes on ignoring it."""
    mutable = (signal.SIGINT, signal.SIGHUP)
    return [number for number in SAVE_AND_LEAVE if number not in mutable or signal.getsignal(number) != signal.SIG_IGN]


def leave_at_once() -> None:
    """Install handlers that end the process: outside of `watching` there is nothing to save or to tidy up."""
    for number in heeded():
        signal.signal(number, _leave)


class Interrupts:
    """The signal that came, and the handlers of before. waits: only note the signal, because a step will look at it soon; otherwise raise
    Preempted where the process stands. If a library swallows that, the next signal or look raises it."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.waits = False
        self.previous: dict[int, Any] = {}

    def handle(self, signum: int, frame: Any) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the step to end
        self.signum = signum
        if not self.waits:
            raise Preempted(signum)

    @contextmanager
    def broken_off(self) -> Iterator[None]:
        """Let a signal interrupt the work inside at once, because it changes nothing that is saved."""
        if self.signum is not None:
            raise Preempted(self.signum)
        self.waits = False
        try:
            yield
        finally:
            self.waits = True

    def hand_on(self) -> None:
        """After saving: call the handler that was installed before (submitit's, which requeues the job and exits)."""
        assert self.signum is not None
        earlier = self.previous.get(self.signum)
        if callable(earlier) and earlier not in (signal.default_int_handler, _leave):
            earlier(self.signum, None)


@contextmanager
def handling(handler: Callable[[int, Any], None]) -> Iterator[dict[int, Any]]:
    """Let `handler` take the signals that ask to leave, and restore the handlers of before, which are yielded."""
    before: dict[int, Any] = {number: signal.signal(number, handler) for number in heeded()}
    try:
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier if earlier is not None else signal.SIG_DFL)


@contextmanager
def watching() -> Iterator[Interrupts]:
    """Take the signals over (in the main thread, as Python allows); one that was noted but not acted on raises Preempted at the end."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    with handling(interrupts.handle) as interrupts.previous:
        try:
            yield interrupts
        except Exception:  # of a library that made another one of Preempted
            if interrupts.signum is None or interrupts.waits:
                raise
        if interrupts.signum is not None:  # it came after the last step
            raise Preempted(interrupts.signum)
