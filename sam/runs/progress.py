"""Progress as a bar on a terminal or plain lines in a log, with an estimate of the time left. One bar can span a whole sweep."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sam.text import printable, sentence

LINE_EVERY = 15.0  # seconds between lines in a log


def clock(seconds: float) -> str:
    """75 -> "1:15", 7325 -> "2:02:05"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


class Progress:
    """Count units of work: `advance(units)`. `total`: all of them, in any unit that is proportional to time."""

    def __init__(self, total: float, label: str, *, quiet: bool = False) -> None:
        self.total, self.done, self.label, self.text = max(total, 1e-9), 0.0, printable(label), ""
        self.finished: set[str] = set()
        self._said: set[str] = set()
        self.quiet, self.began = quiet, time.monotonic()
        self._next_line = self.began + LINE_EVERY
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            from tqdm import tqdm

            self._bar = tqdm(total=100.0, desc=label, bar_format="{desc} {percentage:3.0f}%|{bar:24}| {elapsed}<{remaining} {postfix}")

    def advance(self, units: float) -> None:
        self.done += units
        if self._bar is not None:
            self._bar.n = min(100.0, 100 * self.done / self.total)
            self._bar.update(0)
        elif time.monotonic() >= self._next_line:
            self.line()

    def note(self, text: str) -> None:
        """Set the text beside the bar: the current activity and its state."""
        self.text = text = printable(text)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def line(self) -> None:
        if self.quiet or self._bar is not None:
            return
        elapsed = time.monotonic() - self.began
        share = min(1.0, self.done / self.total)
        remains = f", about {clock(elapsed * (1 - share) / share)} left" if share > 0.01 else ""
        print(f"{self.label}: {100 * share:3.0f}%, {clock(elapsed)} gone{remains}  {self.text}", file=sys.stderr, flush=True)
        self._next_line = time.monotonic() + LINE_EVERY

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

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


_shared: Progress | None = None


def share(progress: Progress | None) -> None:
    """Let every following run of this process advance one progress (a sweep's); None ends that."""
    global _shared
    _shared = progress


def in_sweep() -> bool:
    return _shared is not None


def finished_in_sweep() -> set[str]:
    """Fingerprints of the runs that this sweep has done; outside a sweep, an empty set that nobody keeps."""
    return _shared.finished if _shared is not None else set()


@contextmanager
def progress_for(total: float, label: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Yield the sweep's progress if there is one, else a new one."""
    own = _shared or Progress(total, label, quiet=quiet)
    try:
        yield own
    finally:
        if own is not _shared:
            own.close()
