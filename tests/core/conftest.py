"""One thread: results do not depend on the machine's cores, and small tensors are faster."""

import pytest


@pytest.fixture(autouse=True)
def every_test(one_thread: None) -> None:
    """Runs on one thread."""
