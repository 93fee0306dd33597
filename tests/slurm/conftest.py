"""A real SLURM for the tests of this folder (skipped where it is not installed, except in CI), and `one_node` importable by that name."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from one_node import Cluster, missing


@pytest.fixture(scope="session")
def cluster(insist: Callable[[str, str | None], None]) -> Iterator[Cluster]:
    insist("SLURM", missing())
    with Cluster() as running:
        yield running
    left = running.survivors()
    assert not left, f"processes of the cluster outlive it: {left}"
