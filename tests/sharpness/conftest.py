"""One thread, and `sharpness_toys` importable by that name (pytest's importlib mode puts no test folder on the path)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def every_test(one_thread: None) -> None:
    """Runs on one thread."""
