"""A headless Chromium for the tests of the report (skipped where it is not installed, except in CI);
`browser` and `made_up` are importable by name."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tables"))

from browser import Browser, missing


@pytest.fixture(scope="module")
def browser(insist: Callable[[str, str | None], None]) -> Iterator[Browser]:
    insist("Chromium", missing())
    with Browser() as running:
        yield running
