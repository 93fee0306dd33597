"""Signals that ask a run to save and leave. A handler only sets a flag; the loop looks at it after every step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SAVE_AND_LEAVE = ("SIGUSR1", "SIGUSR2", "SIGTERM", "SIGINT")
REQUEUE_ME = 75  # exit code: saved, please start the same command again (EX_TEMPFAIL)
BY_HAND = 130  # exit code after Ctrl-C


class Preempted(Exception):
    """The run was asked to leave and has saved; `exit_code` is what the process should end with."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; the state is saved, and the same command continues")
        self.signum = signum
        self.exit_code = BY_HAND if signum == signal.SIGINT else REQUEUE_ME


class Interrupts:
    """The first signal that came, and the handlers that were there before."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.previous: dict[int, Any] = {}

    def handle(self, signum: int, frame: Any) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the step to end
        self.signum = signum

    def hand_on(self) -> None:
        """After saving: let a handler that was installed before have its turn (submitit's, which requeues the job and exits)."""
        assert self.signum is not None
        earlier = self.previous.get(self.signum)
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(self.signum, None)


@contextmanager
def watching() -> Iterator[Interrupts]:
    """Take the signals over, and give them back. Outside the main thread, where Python allows no handlers, nothing is watched."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    numbers = [getattr(signal, name) for name in SAVE_AND_LEAVE if hasattr(signal, name)]
    interrupts.previous = {number: signal.signal(number, interrupts.handle) for number in numbers}
    try:
        yield interrupts
    finally:
        for number, handler in interrupts.previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
