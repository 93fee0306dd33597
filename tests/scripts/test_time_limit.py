"""A time limit around commands: who is told, who is killed, and what the exit status says. (With training: tests/runs/test_survival.py.)"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "time_limit.py")
SOON, LATE = "minutes=0.01", "minutes=1"  # 0.6 seconds
SAVES = "trap 'echo saved; exit 75' TERM; echo begun; sleep 60 & wait"


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def limited(*arguments: str) -> tuple[int | None, str, float]:
    """(exit status, standard output, seconds); the output ends only when no process holds it any more."""
    began, process = time.monotonic(), start(*arguments)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return process.returncode, out, time.monotonic() - began


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 75", 75), ("kill -KILL $$", 137)])
def test_a_command_that_ends_by_itself_says_how(command: str, code: int) -> None:
    assert limited(LATE, "--", "sh", "-c", command)[:2] == (code, "")


@pytest.mark.parametrize(
    ("command", "code", "out"),
    [
        (SAVES, 75, "begun\nsaved\n"),
        ("sleep 60", 75, ""),  # TERM ends it
        ("trap 'exit 0' TERM; sleep 60 & wait", 0, ""),  # done just in time
        ("trap 'exit 1' TERM; sleep 60 & wait", 75, ""),
        (f'sh -c "{SAVES}" & sleep 60', 75, "begun\nsaved\n"),  # the first process is gone before the one that saves
    ],
)
def test_at_the_limit_all_are_told_and_may_save(command: str, code: int, out: str) -> None:
    ended, said, seconds = limited(SOON, "grace=30", "--", "sh", "-c", command)
    assert (ended, said) == (code, out) and 0.6 < seconds < 25


def test_who_does_not_leave_is_killed_after_the_grace() -> None:
    stubborn = "trap '' TERM; (trap '' TERM; sleep 60) & sleep 60"
    ended, _, seconds = limited(SOON, "grace=1", "--", "sh", "-c", stubborn)
    assert ended == 75 and 1.6 < seconds < 25


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGUSR1, 3)])
def test_signals_go_on_to_the_command(signum: int, code: int) -> None:
    traps = "trap 'exit 75' TERM; trap 'exit 130' INT; trap 'exit 3' USR1; echo begun; while :; do sleep 0.05; done"
    with start(LATE, "--", "sh", "-c", traps) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(signum)
        assert process.wait(timeout=25) == code


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("minutes=1",), "give a limit and a command"),
        (("minutes=1", "--"), "give a limit and a command"),
        (("--", "true"), "give a limit and a command"),
        (("hours=-1", "--", "true"), "hours=-1: must be a finite number > 0."),
        (("minutes=1", "true"), "true: unknown argument; known here: hours=..., minutes=..., grace=..."),
        (("minutes=1", "--", "no-such-command"), "no-such-command: cannot be started (No such file or directory)."),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    process = start(*arguments)
    _, err = process.communicate(timeout=25)
    assert process.returncode == 2 and err.startswith(f"error: {sentence}") and err.count("\n") == 1
