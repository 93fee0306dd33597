"""`replica_cases` and `optimizer_oracles` importable by these names; one thread."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

for folder in ("replicas", "optimizers"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
