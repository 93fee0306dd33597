"""A headless Chromium for the tests of the report (skipped where it is not installed, except in CI), and `browser` importable by name."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from browser import Browser, missing


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    reason = missing()
    if reason is not None:
        why = f"no Chromium can be started here ({reason})"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    with Browser() as running:
        yield running
