"""Progress as a bar on a terminal or plain lines in a log, with an estimate of the time left. One bar can span a whole sweep."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sam.text import printable, sentence

LINE_EVERY = 15.0  # seconds between lines in a log
FIRST_ESTIMATE = 20  # steps before anything is said about the time that is left


def clock(seconds: float) -> str:
    """75 -> "1:15", 7325 -> "2:02:05"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


class Progress:
    """Count units of work: `advance(units)` after a step. `total`: all of them, in any unit that is proportional to time; `tasks`: how many
    one after the other, each with a start-up, which is no step and is estimated apart (data, compiling: minutes in some runs)."""

    def __init__(self, total: float, label: str, *, tasks: int = 1, quiet: bool = False) -> None:
        self.total, self.done, self.label, self.text = max(total, 1e-9), 0.0, printable(label), ""
        self.finished: set[str] = set()  # the runs that it counted, by fingerprint and folder
        self._said: set[str] = set()
        self.quiet, self.began = quiet, time.monotonic()
        self._tasks, self._steps, self._stepped, self._stepping = tasks, 0, 0.0, 0.0  # of steps: number, units, seconds
        self._startup, self._mark, self._starting = 0.0, self.began, True
        self._next_line = self.began + LINE_EVERY
        self._bar: Any = None
        if sys.stderr.isatty() and not quiet:
            from tqdm import tqdm

            self._bar = tqdm(total=100.0, dynamic_ncols=True, bar_format="{desc}{percentage:3.0f}%|{bar}|{postfix}")

    def begin(self) -> None:
        """A task begins: what follows is its start-up, until its first step has ended. The time since the last step is that task's."""
        now = time.monotonic()
        self._stepping += 0.0 if self._starting else now - self._mark
        self._mark, self._starting = now, True

    def skip(self, units: float) -> None:
        """Count work that took no time: done in an earlier session, or not needed after all."""
        self.done += units

    def advance(self, units: float) -> None:
        now = time.monotonic()
        if self._starting:
            self._tasks, self._startup, self._starting = self._tasks - 1, now - self._mark, False
        else:
            self._steps, self._stepped, self._stepping = self._steps + 1, self._stepped + units, self._stepping + now - self._mark
        self._mark = now
        self.done += units
        if self._bar is not None or (now >= self._next_line and not self.quiet):
            self._show()

    def left(self) -> float | None:
        """Seconds of work left, from the steps seen so far and the last start-up; None before there are enough of them, and at the end."""
        if self._steps < FIRST_ESTIMATE or not self._stepped or self.done >= self.total:
            return None
        return (self.total - self.done) * self._stepping / self._stepped + max(0, self._tasks) * self._startup

    def note(self, text: str, name: str = "") -> None:
        """Set what stands before the bar, the state of the current activity; and a short name for what it is, after the bar."""
        self.text, self.label = printable(text), printable(name) or self.label

    def _show(self) -> None:
        share, left, gone = min(100.0, 100 * self.done / self.total), self.left(), clock(time.monotonic() - self.began)
        if self._bar is not None:
            self._bar.n = share
            self._bar.set_description_str(f"{self.text} " if self.text else "", refresh=False)
            self._bar.set_postfix_str(f"{gone}{'' if left is None else f'<{clock(left)}'}, {self.label}", refresh=False)
            self._bar.update(0)
            return
        text, remains = f"{self.text}; " if self.text else "", "" if left is None else f", about {clock(left)} left"
        print(f"{text}{share:.0f}%, {gone} gone{remains}; {self.label}", file=sys.stderr, flush=True)
        self._next_line = time.monotonic() + LINE_EVERY

    def close(self, *, whole: bool) -> None:
        """End the bar. `whole`: everything is done, and the last line says 100%."""
        if whole:
            self.done = self.total
            if not self.quiet:
                self._show()
        if self._bar is not None:
            self._bar.close()

    def say(self, text: str) -> None:
        """Print a separate line, above the bar."""
        text = sentence(text)
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def say_once(self, text: str) -> None:
        """`say`, unless a run of this sweep has printed the same."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)


shared: Progress | None = None  # a sweep's, which every run of this process advances


def share(progress: Progress | None) -> None:
    """Let every following run of this process advance one progress (a sweep's); None ends that."""
    global shared
    shared = progress


def end_sweep(*, whole: bool) -> None:
    """End the sweep's progress, if there is one."""
    if shared is not None:
        shared.close(whole=whole)
    share(None)


@contextmanager
def progress_for(total: float, label: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Yield the sweep's progress if there is one, else a new one."""
    own, whole = shared or Progress(total, label, quiet=quiet), False
    end = own.done + total
    own.begin()
    try:
        yield own
        whole = True
    finally:
        own.skip(max(0.0, end - own.done))  # of a run that failed or diverged, in a sweep
        if own is not shared:
            own.close(whole=whole)
