"""Versions, commit and hardware of a run. Recorded, never part of a run's identity."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torchvision", "numpy", "hydra-core", "omegaconf", "timm", "wandb")


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict[str, Any]:
    """Collect versions, git commit (and whether the tree was modified), hardware, threads and the command line."""
    versions = {"torch": str(torch.__version__)}  # with the build, +cpu or +cu130, which a package's metadata may leave out
    versions |= {name: found[0].version for name in PACKAGES if (found := list(metadata.distributions(name=name)))}
    versions["python"] = platform.python_version()
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "versions": versions,
        "commit": _git("rev-parse", "HEAD"),
        "modified": None if changed is None else bool(changed),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "host": platform.node(),
        "command": " ".join(["python", *sys.argv]),
    }
