"""Run a command for a limited time. `train.py` saves when it is told to leave, and the same command goes on where it was.

    python scripts/time_limit.py hours=6 -- python train.py -m experiment=table2
    python scripts/time_limit.py minutes=9 grace=60 -- python evaluate_sharpness.py runs_dir=runs/table2
    python scripts/time_limit.py hours=6 -- sh -c 'python train.py -m experiment=demo && python evaluate_sharpness.py runs_dir=runs/demo'

hours, minutes  the limit is their sum
grace           seconds between SIGTERM and SIGKILL, which all processes of the command get (60), also after a signal to this script

`evaluate_sharpness.py` keeps every notion that it has stored. Exit status: 75 the limit was reached before the command was done, start
the same command again; else the command's own (128 + n if signal n ended it); 2 for wrong arguments.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from arguments import parse, script

from sam.runs.signals import REQUEUE_ME, heeded

TICK = 0.05  # seconds between two looks at the command


def supervise(command: Sequence[str], seconds: float, grace: float) -> int:
    """The exit status, as the docstring says it. Raises ValueError if the command cannot be started."""
    came: list[int] = []
    for each in heeded():
        signal.signal(each, lambda number, _: came.append(number))
    try:
        process = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        raise ValueError(f"{command[0]}: cannot be started ({error.strerror}).") from error
    limit, kill, over = time.monotonic() + seconds, float("inf"), False
    while process.poll() is None or (kill < float("inf") and _tell(process.pid, 0)):
        if not over and time.monotonic() > limit:
            over = True
            came.append(signal.SIGTERM)
        while came:
            kill = min(kill, time.monotonic() + grace)
            _tell(process.pid, came.pop(0))
        if time.monotonic() > kill:
            _tell(process.pid, signal.SIGKILL)
            break
        time.sleep(TICK)
    code = process.wait()
    return REQUEUE_ME if over and code else code if code >= 0 else 128 - code


def _tell(group: int, number: int) -> bool:
    """Send a signal (0: none). Whether a process of the group is left: the first may leave before those that are still saving."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False


@script
def main(arguments: list[str]) -> int:
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    own, _ = parse({"hours": float, "minutes": float, "grace": 60.0}, arguments[:cut])
    seconds = 3600 * (own["hours"] or 0) + 60 * (own["minutes"] or 0)
    if not seconds or not arguments[cut + 1 :]:
        raise ValueError("give a limit and a command: hours=... or minutes=..., then --, then the command.")
    return supervise(arguments[cut + 1 :], seconds, own["grace"])
