"""Tests import this folder's modules by their names, as a run does that is started here. A folder of its own: `python -m pytest` in it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run("train.py", "plugins=zsharp", ...)`: a command of the repository's, started from this folder (or `cwd`)."""

    def run(script: str, *words: str, cwd: Path = HERE, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {key: value for key, value in os.environ.items() if key != "SAM_PLUGINS" and not key.startswith("WANDB")}
        command = [sys.executable, str(HERE.parents[1] / script), *words]
        full = known | {"OMP_NUM_THREADS": "1"} | environment
        return subprocess.run(command, cwd=cwd, env=full, capture_output=True, text=True, timeout=300, check=False)

    return run
