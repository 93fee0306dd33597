"""The programs that stand beside the numbers they made (results/): whoever reads a number can start them, from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = "import runpy, sys; [runpy.run_path(path, run_name='imported') for path in sys.argv[1:]]"


@pytest.mark.slow
def test_they_find_the_project(tmp_path: Path) -> None:
    programs = [str(path) for path in sorted((ROOT / "results").rglob("*.py"))]
    assert len(programs) >= 5
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for program in programs:  # each in a process of its own: one that finds the project would let the next find it too
        done = subprocess.run([sys.executable, "-c", IMPORTED, program], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{program}: {done.stderr}"
