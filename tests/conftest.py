"""Which tests are slow, commands as a user types them, tiny runs, and one sweep that the tests of commands share."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data
from sam.optimizers.settings import METHODS as REGISTRY
from sam.registry import load_plugins
from sam.schema import from_dict, to_dict
from sam.settings import TrainConfig
from sam.training.loop import Trainer

load_plugins()  # of SAM_PLUGINS, whose methods take part in the contract
ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "wandb", "submitit")
# What starts processes, a server, SLURM or a browser is slow, and what says so itself: `make test-all` runs it, `make test` the rest.
SLOW = ("replicas", "scripts", "slurm", "tracking", "test_cli.py", "test_readme.py", "test_sweep.py", "test_foreign.py")
SLOW += ("test_kills.py", "test_lock.py", "test_old_runs.py", "test_survival.py", "test_workers.py")
SLOW_FIXTURES = {"browser", "command", "commands", "swept"}

# Runs command lines one after the other in one process, each as `python <line>` would: what it prints, how it ends, what it imported.
DRIVER = """
import contextlib, io, json, os, runpy, sys, traceback
results = []
for line in json.loads(sys.stdin.read()):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv, sys.path[0] = list(line), os.path.dirname(os.path.abspath(line[0]))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(line[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
    heavy = [name for name in HEAVY if name in sys.modules]
    results.append({"code": code, "out": out.getvalue(), "err": err.getvalue(), "heavy": heavy})
print(json.dumps(results))
""".replace("HEAVY", repr(HEAVY))


# Methods whose turn under the contract comes in `make test-all`. Friendly-SAM, which has a memory, stands for them in `make test`, but not
# where whole runs are trained.
LATER = ("asam", "weighted_sam", "gsam", "momentum_sam", "late_sam", "rwp", "looksam", "vasso")
LATER_NAMES = {*LATER, *(REGISTRY[name].target.partition(":")[2] for name in LATER)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        slow = set(item.path.relative_to(ROOT / "tests").parts) & set(SLOW) or SLOW_FIXTURES & set(getattr(item, "fixturenames", ()))
        if slow or (item.get_closest_marker("contract") and LATER_NAMES & set(re.split(r"\W+", item.name))):
            item.add_marker("slow")


@dataclass(frozen=True)
class Result:
    """How a command ended. `heavy`: which of the slow packages its process had imported by then."""

    code: int
    out: str
    err: str
    heavy: tuple[str, ...] = ()

    def refused(self, *words: str) -> bool:
        """Exit code 2 and one sentence on stderr that holds all `words`."""
        lines = [line for line in self.err.splitlines() if line.strip() and line != "Nothing was run."]
        return self.code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and all(word in lines[0] for word in words)


def environment() -> dict[str, str]:
    quiet = {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0", "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}
    return {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | quiet


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Heeded by the tests and what they start, though pytest may run in the background, where a shell lets it be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Results that do not depend on the machine's cores; small tensors are faster, too, and pytest's workers do not share cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def insist() -> Callable[[str, str | None], None]:
    """`insist("SLURM", reason)`: where it cannot be started, for a reason, the test is skipped with it; in CI that is a failure."""

    def check(what: str, reason: str | None) -> None:
        if reason is not None:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no {what} can be started here ({reason})")

    return check


@pytest.fixture(scope="session")
def command() -> Callable[..., Result]:
    """`command("train.py", "epochs=1")`: a process of its own."""

    def run(*line: str) -> Result:
        done = subprocess.run([sys.executable, *line], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def commands() -> Callable[[Sequence[Sequence[str]]], list[Result]]:
    """Several command lines in one process, which saves importing torch for each."""

    def run(lines: Sequence[Sequence[str]]) -> list[Result]:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
            input=json.dumps(lines),
        )
        assert done.returncode == 0, done.stderr
        values: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return [Result(v["code"], v["out"], v["err"], tuple(v["heavy"])) for v in values]

    return run


@dataclass(frozen=True)
class Sweep:
    """A finished sweep of the four methods with two seeds, measured once: its folder, and what the two commands said."""

    runs: Path
    line: tuple[str, ...]
    trained: Result
    measured: Result


TINY = ("dataset=digits", "model=wrn_10_1", "dataset.train_size=128", "batch_size=64", "epochs=1", "threads=1", "device=cpu")
MEASURE = ("sharpness.m=64", "threads=1", "device=cpu")


@pytest.fixture(scope="session")
def tiny_options() -> tuple[str, ...]:
    return TINY


@pytest.fixture(scope="session")
def measure_options() -> tuple[str, ...]:
    return MEASURE


@pytest.fixture(scope="session")
def swept(command: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Never write into its folder: copy it."""
    runs = tmp_path_factory.mktemp("swept") / "runs"
    line = ("train.py", "-m", "optimizer=sgd,sam,rand_sam,xsam", "seed=0,1", *TINY, f"runs_dir={runs}")
    trained = command(*line)
    return Sweep(runs, line, trained, command("evaluate_sharpness.py", f"runs_dir={runs}", *MEASURE))


# Every registered method, and ours with the keys that make their passes differ; 96 images in batches of 40 give ragged epochs of 3 steps.
METHODS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in REGISTRY},
    "sam_n3": {"method": "sam", "ascent_steps": 3},
    "sam_drawn": {"method": "sam", "ascent_steps": 2, "radius": "uniform"},
    "sam_mean": {"method": "sam", "ascent_steps": 2, "descent_gradient": "mean"},
    "xsam_often": {"method": "xsam", "alpha_refresh": 0.5, "alpha_grid": [0.0, 0.5, 1.0, 2.0]},
    "xsam_rare": {"method": "xsam", "alpha_refresh": 1.4, "ascent_steps": 2},
    "xsam_constant": {"method": "xsam", "alpha": 0.7},
}

# `make test` tries these as they come; the other cases' turn comes in `make test-all`.
FAST = REGISTRY.keys() - {*LATER, "friendly_sam"}


@pytest.fixture(params=[pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in METHODS])
def method(request: pytest.FixtureRequest) -> dict[str, Any]:
    return METHODS[request.param]


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., TrainConfig]:
    """A run of milliseconds: `tiny(method="sam", optimizer={"rho": 0.1}, epochs=3)`; groups are merged, other keys replace."""

    def config(*, runs: str = "runs", **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "model": {"depth": 10, "width": 1},
            "dataset": {"name": "digits", "train_size": 96},
            "optimizer": {"method": "sam", "rho": 0.1},
            "epochs": 2,
            "batch_size": 40,
            "checkpoint_interval": 1,
            "device": "cpu",
            "threads": 1,
            "runs_dir": str(tmp_path / runs),
        }
        for key, value in changes.items():
            values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
        return from_dict(TrainConfig, values)

    return config


@pytest.fixture
def trainer() -> Callable[[TrainConfig], Trainer]:
    return lambda config: Trainer(config, data.load(**to_dict(config.dataset), seed=config.seed), torch.device("cpu"))


@pytest.fixture
def arrays(tmp_path: Path) -> str:
    """Random 12 x 12 colour images of 5 classes: 90 to train, 30 to test."""
    draw = np.random.RandomState(0)
    parts = {}
    for split, n in (("train", 90), ("test", 30)):
        parts[f"{split}_images"] = draw.randint(256, size=(n, 12, 12, 3)).astype(np.uint8)
        parts[f"{split}_labels"] = np.arange(n) % 5
    path = tmp_path / "images.npz"
    np.savez(path, **parts)
    return str(path)
