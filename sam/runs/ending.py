"""What a command says when its training has ended, however it did: the runs counted, and the commands that come next."""

import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sam.core.files import DamagedError
from sam.evaluation.settings import EvaluateConfig
from sam.runs import identity, lock, progress, records
from sam.runs.command import evaluate_command
from sam.runs.distributed import launched
from sam.runs.signals import BY_HAND, REQUEUE_ME
from sam.runs.tracking import sync_command
from sam.settings import TrainConfig
from sam.text import printable

MOST_COMMANDS = 3  # where runs lie in many folders
_under_way: Callable[[bool], Iterator[str]] | None = None  # the lines to print at the end, given whether the command was stopped


def begin(plans: Sequence[TrainConfig], before: int | None = None, *, waits: bool = True, given: Iterable[str] = ()) -> None:
    """Note what this command is about to train, and say which of the `given` overrides no run reads. before: how many were finished (None:
    a single run, of which its own line tells); waits: whether the command waits for the runs."""
    global _under_way
    for line in identity.unread(plans, given) if not launched().rank else ():
        print(f"note: {printable(line)}: no run here reads this key.", file=sys.stderr)
    folders = dict[Path, None]()  # each once
    with suppress(ValueError):  # of data that are not there: the run will say so
        folders = dict.fromkeys(map(identity.run_folder, plans))  # now: a file that names one may be gone at the end
    _under_way = functools.partial(_lines, plans, folders, before, waits, time.monotonic())


@contextmanager
def summed_up() -> Iterator[None]:
    """Around a command: print its end after `begin`. A sweep's progress ends here, too."""
    global _under_way
    stopped = False
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as leaving:
        stopped = getattr(leaving, "code", BY_HAND) in (BY_HAND, REQUEUE_ME)
        raise
    finally:
        progress.end_sweep(whole=not stopped)
        lines, _under_way = _under_way, None
        if lines is not None and not launched().rank:
            print("".join(f"{printable(line)}\n" for line in lines(stopped)), end="", flush=True)


def _lines(
    plans: Sequence[TrainConfig], folders: Iterable[Path], before: int | None, waits: bool, began: float, stopped: bool
) -> Iterator[str]:
    found = Counter(_became(folder, stopped) for folder in folders)
    places = dict.fromkeys(plan.run_dir or plan.runs_dir for plan in plans)
    commands = [evaluate_command(EvaluateConfig.of(runs_dir=place)) for place in places]
    if not waits:
        found, commands = Counter(), [f"python scripts/status.py {command.split(maxsplit=2)[2]}" for command in commands]
    elif before is not None:
        counts = [f"{found['finished']} finished" + (f" ({before} before)" if before else ""), f"{found['failed']} failed"]
        counts += [f"{found[word]} {word}" for word in ("diverged", "stopped", "run by others", "not begun") if found[word]]
        redone = ", and redoes what is finished (force=true)" if any(plan.force for plan in plans) else ""
        rest = f" The same command runs what is left{redone}." if found.total() > found["finished"] + found["diverged"] else ""
        yield f"{', '.join(counts)} in {progress.clock(time.monotonic() - began)}.{rest}"
    if found["finished"] or not waits:
        yield from (f"Next: {command}" for command in commands[:MOST_COMMANDS])
    if any(plan.tracking.backend == "wandb" for plan in plans) and (command := sync_command(folders)):
        yield f"W&B was offline: {command}"


def _became(folder: Path, stopped: bool) -> str:
    try:
        record = records.read_run(folder)
    except DamagedError:
        return "failed"
    if record is None:
        return "not begun" if stopped else "failed"
    if record["status"] == records.RUNNING and (holder := lock.owner(folder)) is not None and lock.is_alive(holder):
        return "run by others"
    # "running" was said by a process that has not lived to say more.
    ended = {records.PREEMPTED: "stopped", records.RUNNING: "stopped" if stopped else "failed"}
    return ended.get(record["status"], str(record["status"]))
