"""Freed memory stays with the process (sam.core.device), and the arithmetic is the one asked for."""

import os
import platform
import subprocess
import sys

import pytest
import torch

FAULTS = """
import resource
import torch
from sam.core.device import number_format

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        kept = [torch.ones(10_000_000) for _ in range(3)]  # 40 MB each: glibc would map each of them, and unmap it
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with number_format("fp32"):
    print(min(faults() for _ in range(8)))
"""


def page_faults(**environment: str) -> int:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=clean | environment)
    return int(ran.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again_unless_the_user_has_chosen() -> None:
    """3 x 3 x 40 MB are 88,000 pages of 4 kB (176 of 2 MB, where the system hands out huge ones, which a fault each would still count). The
    best of some rounds counts: how many rounds the heap needs until three such blocks find room in it depends on the machine."""
    assert page_faults() < 100
    assert page_faults(MALLOC_ARENA_MAX="64") > 150


@pytest.mark.skipif(os.environ.get("ATEN_CPU_CAPABILITY") != "default", reason="is for the second part of `make test-all`")
def test_the_old_arithmetic_is_in_use() -> None:
    assert torch.backends.cpu.get_cpu_capability() == "DEFAULT"
