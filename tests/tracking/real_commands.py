"""The real commands, each in a process of its own, cut off from whatever W&B settings this machine has."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ("dataset=digits", "model=wrn_10_1", "epochs=2", "dataset.train_size=128", "batch_size=64", "threads=1", "tracking=wandb")
PATIENCE = 120.0  # seconds; nothing here takes a quarter of it, and nothing may wait for ever


class Commands:
    """Runs the repository's commands in `folder`; `environment` is added to one without W&B settings, credentials and proxies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, script: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and "proxy" not in key.lower()}
        clean |= {"HOME": str(self.folder), "WANDB_CONFIG_DIR": str(self.folder), "WANDB_CACHE_DIR": str(self.folder)}
        clean |= {"WANDB_ERROR_REPORTING": "false", **(environment or {})}
        command = [sys.executable, str(ROOT / script) if script.endswith(".py") else f"-m{script}", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=clean, stdout=pipe, stderr=pipe, text=True)

    def run(self, script: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return self.end(self.start(script, *arguments, environment=environment))

    def shell(self, line: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """A line that is printed for a shell, `wandb` being this Python's."""
        program = f"{sys.executable} -m wandb"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and "proxy" not in key.lower()}
        command = ["bash", "-c", f"{program} {line.removeprefix('wandb ')}"]
        return subprocess.run(command, cwd=self.folder, env=clean | environment, capture_output=True, text=True, timeout=PATIENCE)

    def end(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"still running after {PATIENCE} s: {process.args}; {process.communicate()[1]}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start_training(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return self.start("train.py", *TINY, *arguments, environment=environment)

    def train(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return self.end(self.start_training(*arguments, environment=environment))

    def interrupted(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        """Train, and press Ctrl-C after some epochs; the checkpoints are lost, so that the next run begins anew."""
        process = self.start_training(*arguments, environment=environment)
        self.wait_for_epochs(3)
        process.send_signal(signal.SIGINT)
        done = self.end(process)
        assert done.returncode == 130, done.stderr
        for checkpoint in self.run_folder.glob("checkpoint*.pt"):
            checkpoint.unlink()

    def wait_for_epochs(self, epochs: int) -> None:
        began = time.monotonic()
        while len(self.metrics()) < epochs:
            assert time.monotonic() - began < PATIENCE, "the run records no epochs"
            time.sleep(0.02)

    def metrics(self) -> list[str]:
        """The lines of metrics.csv, without its header."""
        return [line for path in self.folder.glob("runs/*/metrics.csv") for line in path.read_text().splitlines()[1:]]

    @property
    def run_folder(self) -> Path:
        (folder,) = (path.parent for path in self.folder.glob("runs/*/run.json"))
        return folder

    def segments(self) -> list[Path]:
        """The folders that wandb wrote, in the order of time."""
        return sorted(self.run_folder.glob("wandb/*run-*"), key=lambda path: path.name.removeprefix("offline-"))

    def inspect(self, segment: Path) -> list[dict[str, Any]]:
        """What wandb's own reader finds in a folder that wandb wrote."""
        (file,) = segment.glob("run-*.wandb")
        read = self.run("wandb", "leet", "inspect", "--json", str(file))
        assert read.returncode == 0, read.stderr
        return [json.loads(line) for line in read.stdout.splitlines()]
