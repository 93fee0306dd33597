"""What a progress says while it goes on, by a clock that the test moves."""

import re
import types

import pytest

from sam.runs import progress
from sam.runs.progress import Progress, progress_for
from sam.runs.workers import _Told


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return clock


def lefts(time: Clock, tasks: list[tuple[float, int, float, float]], made: Progress) -> list[tuple[float, float, float | None]]:
    """Go through tasks of (start-up, steps, seconds a step, units a step) with a closing second each; (share done, truth, said) by step."""
    said, ends = [], []
    progress.share(made)
    try:
        for startup, steps, seconds, units in tasks:
            with progress_for(steps * units, "run") as shown:
                time.now += startup
                for _ in range(steps):
                    time.now += seconds
                    shown.advance(units)
                    said.append((shown.done / shown.total, time.now, shown.left()))
                time.now += 1.0
            ends.append(time.now)
    finally:
        progress.share(None)
    return [(share, ends[-1] - now, left) for share, now, left in said]


SWEEPS: dict[str, list[tuple[float, int, float, float]]] = {
    "a slow start": [(600.0, 1000, 0.1, 2.0)],
    "one to eleven passes a step": [(30.0, 300, 0.1 * units, units) for units in (1, 2, 3, 6, 11)],
    "compiled for as long as they run": [(60.0, 100, 0.6, 2.0)] * 6,
    "short ones": [(5.0, 8, 0.5, 2.0)] + [(0.2, 8, 0.5, 2.0)] * 30,
}


@pytest.mark.parametrize("name", SWEEPS)
def test_the_estimate_is_right_within_a_factor_of_two_after_a_tenth(time: Clock, name: str) -> None:
    tasks = SWEEPS[name]
    total = sum(steps * units for _, steps, _, units in tasks)
    found = lefts(time, tasks, Progress(total, "sweep", tasks=len(tasks), quiet=True))
    assert all(left is None for _, _, left in found[:20])  # 20 steps, and the first of a run ends its start-up
    late = [(truth, left) for share, truth, left in found if 0.1 < share < 0.95]
    assert len(late) > 20
    for truth, left in late:
        assert left is not None and truth / 2 < left < 2 * truth, (truth, left)


def test_what_an_earlier_session_did_says_nothing_about_the_speed(time: Clock) -> None:
    made = Progress(1000, "run", quiet=True)
    made.begin()
    made.skip(500)
    time.now += 50
    for _ in range(30):
        time.now += 1
        made.advance(1)
    left = made.left()
    assert left == pytest.approx(470)


def test_a_run_that_fails_or_diverges_leaves_no_work_behind(time: Clock) -> None:
    made = Progress(200, "sweep", tasks=2, quiet=True)
    progress.share(made)
    try:
        with pytest.raises(RuntimeError), progress_for(100, "run") as shown:
            shown.advance(10)
            raise RuntimeError
        assert made.done == 100
    finally:
        progress.share(None)


def test_lines_of_a_log(time: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """The metric first, a short name last, no estimate too early, 100% at the end."""
    with progress_for(100, "run") as shown:
        shown.note("test 93.20%, train loss 0.123, epoch 1/9", "sam-n1-rho0.05-s1\x1b")
        for step in range(99):
            time.now += 1 if step else 20
            shown.advance(1)
    first, *_, last = lines = capsys.readouterr().err.splitlines()
    assert first == "test 93.20%, train loss 0.123, epoch 1/9; 1%, 0:20 gone; sam-n1-rho0.05-s1?"
    assert any(re.search(r"; 46%, 1:05 gone, about 0:54 left; sam-n1", line) for line in lines), lines
    assert "; 100%, 1:58 gone; sam-n1" in last


def test_a_run_that_stops_does_not_say_100(time: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), progress_for(100, "run") as shown:
        shown.advance(10)
        raise KeyboardInterrupt
    assert "100%" not in capsys.readouterr().err


def test_a_bar_is_one_line_of_a_terminal_of_80_columns(time: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    made = Progress(100, "run")
    made.note("test 93.20%, train loss 0.123, epoch 1/9", "sam-n1-rho0.05-s1")
    for _ in range(45):
        time.now += 1
        made.advance(1)
    bar = made._bar
    shown = bar.format_meter(**(bar.format_dict | {"ncols": 80}))
    made.close(whole=False)
    assert len(shown) <= 80
    assert re.fullmatch(r"test 93\.20%, train loss 0\.123, epoch 1/9  45%\|.*\|, 0:45<0:55, sam-n1-rho0\.05-s1", shown), shown


def test_a_worker_hands_on_what_its_run_says() -> None:
    sent: list[tuple[object, ...]] = []
    told = _Told(types.SimpleNamespace(send=sent.append))  # type: ignore[arg-type]
    progress.share(told)
    try:
        with progress_for(10, "run") as shown:
            shown.note("a", "b")
            shown.say_once("c")
            shown.skip(3)
            shown.advance(2)
    finally:
        progress.share(None)
    assert sent == [("note", ("a", "b")), ("say_once", ("c",)), ("skip", (3,)), ("advance", (2.0,)), ("skip", (5.0,))]
