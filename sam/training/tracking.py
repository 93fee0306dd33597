"""A run mirrored to Weights & Biases, if asked for. The run's own files are the record; training never dies of tracking."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam.config import METHODS, TrainConfig
from sam.results.records import Row


class Tracker:
    """No tracking: what every call site may rely on."""

    def log(self, row: Row) -> None: ...

    def summarize(self, record: dict[str, Any]) -> None: ...

    def preempting(self) -> None: ...

    def finish(self, *, failed: bool) -> None: ...


class WandbTracker(Tracker):
    """Mirrors rows and summaries; the first failure switches it off with one warning."""

    def __init__(self, config: TrainConfig, record: dict[str, Any], folder: Path) -> None:
        self._run: Any = None
        self._guard(lambda: self._start(config, record, folder))

    def _guard(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # any failure of the mirror; the record is on disk
            self._run = None
            reason = " ".join([f"{type(error).__name__}:", *str(error).split()])[:200].rstrip(":")
            print(f"warning: tracking stopped ({reason}); the run goes on.", file=sys.stderr)

    def _start(self, config: TrainConfig, record: dict[str, Any], folder: Path) -> None:
        import wandb

        tracking, optimizer = config.tracking, config.optimizer
        mode: Any = tracking.mode
        if mode == "auto":  # W&B's own variable decides first, then whether there are credentials
            mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        options: dict[str, Any] = {
            "project": tracking.project,
            "entity": tracking.entity,
            "id": record["fingerprint"],
            "name": record["name"],
            "group": f"{config.dataset.label} {config.model.label} {config.protocol.name}",
            "job_type": "train",
            "resume": "allow",
            "dir": str(folder),
            "config": record["config"] | {"method": METHODS[optimizer.method].label, "n": optimizer.ascent_steps, "rho": optimizer.rho},
        }
        settings = wandb.Settings(init_timeout=tracking.init_timeout, finish_timeout=tracking.finish_timeout)
        try:
            self._run = wandb.init(mode=mode, settings=settings, **options)
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            if mode != "online":
                raise
            print(f"warning: no W&B server ({type(error).__name__}); logging offline in {folder}.", file=sys.stderr)
            self._run = wandb.init(mode="offline", settings=settings, **options)
        self._run.define_metric("*", step_metric="epoch")

    def log(self, row: Row) -> None:
        if self._run is not None:
            numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
            self._guard(lambda: self._run.log(numbers))

    def summarize(self, record: dict[str, Any]) -> None:
        if self._run is not None:
            parts = {f"{part}/{key}": value for part in ("final", "last5", "best") for key, value in record[part].items()}
            self._guard(lambda: self._run.summary.update({"status": record["status"], **parts}))

    def finish(self, *, failed: bool) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.finish(exit_code=int(failed)))
            self._run = None


def make_tracker(config: TrainConfig, record: dict[str, Any], folder: Path) -> Tracker:
    return WandbTracker(config, record, folder) if config.tracking.backend == "wandb" else Tracker()
