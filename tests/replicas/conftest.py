"""`replica_cases` and `optimizer_oracles` importable by these names; one thread."""

import sys
from pathlib import Path

import pytest

for folder in ("replicas", "optimizers"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


@pytest.fixture(autouse=True)
def every_test(one_thread: None) -> None:
    """Runs on one thread."""
