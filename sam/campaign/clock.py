"""The time of one call: how much is left, what the work under way still needs, and the end of it at the deadline or on a signal."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sam.training import progress
from sam.training.interrupts import SAVE_AND_LEAVE
from sam.training.progress import Progress, clock

SYNCHRONISE_EVERY = 1.0  # seconds


class TimeUp(Exception):
    """The call is over; whatever was being measured is left to the next one."""


class CallClock(Progress):
    """The progress of everything that one call does. It is told of every step and every batch, and there it ends the call.

    In training it raises SIGUSR1 in this process, at which a run saves within that same step and leaves (`sam.training.interrupts`); in
    measuring it raises TimeUp. Work begun with `guaranteed` is not ended by the deadline while measuring, so that every call, however
    short, gets something done; in training one step always is. A signal from outside ends either.
    """

    def __init__(self, began: float, seconds: float, log: Path) -> None:
        super().__init__(1.0, "", quiet=True)
        self.start, self.deadline, self.log = began, began + seconds, log
        self.signum: int | None = None
        self.training = self.guaranteed = False
        self._given = 0.0  # seconds a unit, as estimated
        self._synchronised = began
        self._mark: tuple[float, float] | None = None  # (time, units done) after the first report, which may be a resumed run's past
        log.parent.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left <= 0 or self.signum is not None

    def begin(self, label: str, units: float, seconds: float, *, training: bool, guaranteed: bool) -> None:
        """A piece of work of so many units, expected to take so many seconds."""
        self.label, self.text, self.total, self.done = label, "", max(units, 1e-9), 0.0
        self.training, self.guaranteed = training, guaranteed
        self._given, self._mark = seconds / self.total, None
        self._next_line = time.monotonic() + progress.LINE_EVERY

    @property
    def remains(self) -> float:
        """Seconds that the work under way still needs."""
        rate = self._given
        if self._mark is not None and time.monotonic() - self._mark[0] > 5 and self.done > self._mark[1]:
            rate = (time.monotonic() - self._mark[0]) / (self.done - self._mark[1])
        return max(0.0, self.total - self.done) * rate

    def advance(self, units: float) -> None:
        self.done += units
        self._synchronise()
        if self._mark is None:
            self._mark = time.monotonic(), self.done
        if time.monotonic() >= self._next_line:
            self.line()
        if not self.over:
            return
        if self.training:
            signal.raise_signal(signal.SIGUSR1 if self.signum is None else self.signum)
        elif self.signum is not None or not self.guaranteed:
            raise TimeUp

    def _synchronise(self) -> None:
        """Now and then wait for the GPU, which may be many steps behind what was asked of it: the deadline is that of the work itself."""
        if time.monotonic() - self._synchronised > SYNCHRONISE_EVERY:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            self._synchronised = time.monotonic()

    def line(self) -> None:
        share = 100 * min(1.0, self.done / self.total)
        self.say(f"{self.label}: {share:.0f}%, about {clock(self.remains)} left; this call has {clock(max(0.0, self.left))}.  {self.text}")
        self._next_line = time.monotonic() + progress.LINE_EVERY

    def say(self, text: str) -> None:
        """A line on the standard error output and in the log, with the time of day and of the call."""
        for part in text.splitlines():
            print(part, file=sys.stderr, flush=True)
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S')} +{clock(time.monotonic() - self.start)}"
        with contextlib.suppress(OSError), self.log.open("a") as file:
            file.writelines(f"{stamp}  {part}\n" for part in text.splitlines())

    def _handle(self, signum: int, frame: Any) -> None:
        if self.training and signum == signal.SIGUSR1 and self.left <= 0:
            return  # our own, handed on by the run that has saved
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this holds, runs and measurements report here, and signals end the call at the next step or batch."""
        numbers = [getattr(signal, name) for name in SAVE_AND_LEAVE if hasattr(signal, name)]
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        progress.share(self)
        try:
            yield
        finally:
            progress.share(None)
            for number, handler in previous.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
