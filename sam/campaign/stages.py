"""What the first call does beside training: the tests that want a GPU, and the benchmark, each a process with a time limit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sam.campaign.clock import CallClock

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "scripts" / "benchmark.py"
NEEDS_GPU = re.compile(r"cuda\.is_available|mark\.gpu|mark\.cuda")
TESTS_SHARE, BENCHMARK_SHARE = 1 / 3, 1 / 2  # of what is left of the call when each of the two begins
WAIT = 0.1  # seconds between looks at a process


@dataclass(frozen=True)
class Ended:
    """code: exit status, None if it was stopped; why: the reason for that; seconds it took."""

    code: int | None
    why: str
    seconds: float


def supervised(command: list[str], log: Path, limit: float, clock: CallClock) -> Ended:
    """Run a command to its end, its time limit or a signal, with everything it prints in `log`."""
    began = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        why = ""
        while process.poll() is None:
            time.sleep(WAIT)
            if clock.signum is not None:
                why = "stopped by a signal"
            elif time.monotonic() - began > limit:
                why = f"stopped after its share of the call, {limit:.0f} s"
            if why:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return Ended(None, why, time.monotonic() - began)
    return Ended(process.returncode, "", time.monotonic() - began)


def gpu_test_files(tests: Path) -> list[Path]:
    """The test files that ask for a GPU; the others are not even imported, so that what they need may be missing."""
    return [path for path in sorted(tests.rglob("test_*.py")) if NEEDS_GPU.search(path.read_text())]


def run_tests(out: Path, clock: CallClock, tests: Path = ROOT / "tests") -> dict[str, object]:
    """Outcome of the GPU tests; their output is in tests.txt."""
    files = gpu_test_files(tests)
    if not files:
        return {"status": "none", "summary": "no test asks for a GPU"}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--continue-on-collection-errors", *map(str, files)]
    ended = supervised(command, out / "tests.txt", TESTS_SHARE * max(1.0, clock.left), clock)
    status = "stopped" if ended.code is None else "passed" if ended.code == 0 else "none" if ended.code == 5 else "failed"
    summary = ended.why or _last_line(out / "tests.txt")
    return {"status": status, "summary": summary, "files": len(files), "seconds": round(ended.seconds, 1)}


def run_benchmark(out: Path, clock: CallClock, preset: str, script: Path = BENCHMARK) -> dict[str, object]:
    """Outcome of the benchmark; its numbers are in benchmark.json, its printed table in the log."""
    if not script.exists():
        return {"status": "none", "summary": f"{script.name} is not in this version"}
    printed = out / "runs" / "benchmark.txt"
    command = [sys.executable, str(script), f"preset={preset}", f"out={out.resolve() / 'benchmark.json'}"]
    ended = supervised(command, printed, BENCHMARK_SHARE * max(1.0, clock.left), clock)
    clock.say(printed.read_text(errors="replace").strip())
    status = "stopped" if ended.code is None else "passed" if ended.code == 0 else "failed"
    return {"status": status, "summary": ended.why or _last_line(printed), "seconds": round(ended.seconds, 1)}


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip("= ") if lines else "it printed nothing"
