"""Kill training runs at random moments, start them again, and compare the end with an uninterrupted run, bit by bit.

    python scripts/kill_test.py n=300            # n SIGKILLs, spread over every method
    python scripts/kill_test.py n=14 seed=1

Each trial starts a run in a forked process, kills it up to three times at random moments of its life, lets it finish, and compares weights,
BatchNorm buffers, momentum, the method's own state and metrics.csv (all columns but those of time) with the reference. Exit code 1 if any
differs.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sklearn.datasets  # noqa: F401  # imported once, before the forks
import torch

from sam.config import TrainConfig, from_dict
from sam.results import records
from sam.training import checkpoint, progress
from sam.training.run import run

BASE: dict[str, Any] = {
    "dataset": {"name": "digits", "train_size": 200},
    "model": {"depth": 10, "width": 1},
    "epochs": 3,
    "batch_size": 64,
    "checkpoint_steps": 1,
    "threads": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": {"method": "sgd"}, "augmentation": {"crop_padding": 1, "flip": True}},
    "rand_sam": {"optimizer": {"method": "rand_sam", "rho": 0.5}},
    "sam": {"optimizer": {"rho": 0.3}, "model": {"depth": 10, "width": 1, "dropout": 0.3}},
    "sam_n3_mean": {"optimizer": {"rho": 0.3, "ascent_steps": 3, "step_rule": "project", "descent_gradient": "mean"}},
    "sam_m": {"optimizer": {"rho": 0.3}, "m": 24},
    "xsam": {"optimizer": {"method": "xsam", "rho": 0.3}, "augmentation": {"cutout": 3}},
    "xsam_k2": {"optimizer": {"method": "xsam", "rho": 0.3, "ascent_steps": 2, "alpha_refresh": 0.5}},
}
TIMES = ("train_seconds", "seconds")


def config(case: str, runs_dir: Path) -> TrainConfig:
    return from_dict(TrainConfig, BASE | CASES[case] | {"runs_dir": str(runs_dir)})


def start(settings: TrainConfig) -> int:
    """The pid of a forked process that trains `settings` and exits with 0."""
    pid = os.fork()
    if pid:
        return pid
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        progress.share(progress.Progress(1, "", quiet=True))
        run(settings)
    except BaseException as error:  # a forked process must never return into the parent's code
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def finish(settings: TrainConfig) -> float:
    """Run to the end in a forked process; seconds it took. RuntimeError if it failed."""
    began = time.monotonic()
    _, status = os.waitpid(start(settings), 0)
    if status:
        raise RuntimeError(f"a run that nobody killed ended with status {status}")
    return time.monotonic() - began


def outcome(runs_dir: Path) -> tuple[dict[str, Any], list[dict[str, str]], dict[str, Any]]:
    """(checkpoint, rows of metrics.csv without times, final numbers) of the one run below `runs_dir`."""
    ((folder, record),) = records.find_runs(runs_dir)
    with (folder / records.METRICS).open() as file:
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    state = checkpoint.load(folder)
    state.pop("seconds")
    state["rows"] = [{key: value for key, value in row.items() if key not in TIMES} for row in state["rows"]]
    return state, rows, {key: record[key] for key in ("status", "final", "last5", "best", "cost")}


def same(a: Any, b: Any) -> bool:
    """Equality to the last bit, through nested containers."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def main(arguments: list[str]) -> int:
    options = {"n": "28", "seed": "0"} | dict(argument.split("=", 1) for argument in arguments)
    chance = random.Random(int(options["seed"]))
    torch.set_num_threads(1)
    wanted, kills, trials, bad = int(options["n"]), 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        durations = {case: finish(config(case, root / "reference" / case)) for case in CASES}
        reference = {case: outcome(root / "reference" / case) for case in CASES}
        began, moments = time.monotonic(), []
        while kills < wanted:
            case = list(CASES)[trials % len(CASES)]
            settings = config(case, root / f"trial{trials}")
            for _ in range(chance.randint(1, 3)):
                pid = start(settings)
                moment = chance.uniform(0.02, 1.0) * durations[case]
                time.sleep(moment)
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                if os.WIFSIGNALED(status):  # otherwise it was done before the blow
                    kills += 1
                    moments.append(moment / durations[case])
            finish(settings)
            if not same(reference[case], outcome(root / f"trial{trials}")):
                bad.append(f"{case} (trial {trials})")
            trials += 1
            if trials % len(CASES) == 0:
                left = progress.clock((time.monotonic() - began) / max(kills, 1) * (wanted - kills))
                print(f"{kills} of {wanted} kills, {trials} runs, about {left} left", flush=True)
    quarters = [sum(min(int(4 * moment), 3) == quarter for moment in moments) for quarter in range(4)]
    spread = f"by quarter of a run's life: {quarters}"
    print(f"{kills} SIGKILLs over {trials} runs of {len(CASES)} cases ({spread}); {len(bad)} ended differently.")
    if bad:
        print("different: " + ", ".join(bad))
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
