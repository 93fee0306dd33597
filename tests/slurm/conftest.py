"""A real SLURM for the tests of this folder (skipped where it is not installed, except in CI), and `one_node` importable by that name."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from one_node import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    reason = missing()
    if reason is not None:
        why = f"no SLURM can be started here ({reason})"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    with Cluster() as running:
        yield running
    left = running.survivors()
    assert not left, f"processes of the cluster outlive it: {left}"
