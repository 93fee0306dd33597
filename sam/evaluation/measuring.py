"""Every finished run -> one row of measurements, each notion measured once and stored beside the run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import data
from data.image_data import ImageData
from sam.config import ConfigError, EvaluateConfig, SharpnessConfig, TrainConfig, to_dict
from sam.core.device import number_format, pick_device
from sam.evaluation import storing
from sam.evaluation.storing import Measured
from sam.results import records
from sam.sharpness.notions import work
from sam.sharpness.subject import Sizes, subject_of
from sam.training import checkpoint
from sam.training.progress import Progress, progress_for
from sam.training.run import load_trained

Run = tuple[Path, dict[str, Any]]


@dataclass
class _Pending:
    """A run and the notions that its stored rows lack."""

    folder: Path
    record: dict[str, Any]
    config: TrainConfig
    keys: dict[str, str]  # notion -> key of its row

    @property
    def sizes(self) -> Sizes:
        try:
            test = data.describe(**to_dict(self.config.dataset)).test_size
        except data.DataError:
            test = 0  # only the progress bar wants it; loading will name the problem
        return Sizes(self.record["data"]["train_images"], test, self.record["parameters"])


def share(done: Sequence[Run], part: int, parts: int, sharpness: SharpnessConfig) -> list[Run]:
    """The part-th (from 0) of `parts` shares of the runs that can be measured. The shares are disjoint, hold all of them, and cost about
    the same; with the same runs and settings they are the same, whatever is measured already: an interrupted part goes on where it was.
    """
    costs = {}
    for folder, record in done:
        if record["status"] != records.DIVERGED:
            # From the record alone, which every process reads alike. A pass over an image costs more in a larger model.
            sizes = Sizes(record["data"]["train_images"], 0, record["parameters"])
            costs[folder] = work(sharpness.chosen, sizes, sharpness) * sizes.parameters
    loads, mine = [0.0] * parts, set()
    for folder in sorted(costs, key=lambda folder: (-costs[folder], folder)):  # the dearest first, each to the share with least so far
        chosen = loads.index(min(loads))
        loads[chosen] += costs[folder]
        if chosen == part:
            mine.add(folder)
    return [(folder, record) for folder, record in done if folder in mine]


def measure_runs(done: Sequence[Run], config: EvaluateConfig, problems: list[str]) -> dict[Path, Measured]:
    """Rows by folder: what is stored beside the run, and what is measured now. A run that cannot be measured becomes a problem."""
    rows: dict[Path, Measured] = {}
    pending: list[_Pending] = []
    for folder, record in done:
        if record["status"] == records.DIVERGED:
            rows[folder] = Measured()
            continue
        try:
            checkpoint_hash = data.file_fingerprint(folder / records.CHECKPOINT)
        except data.DataError:
            problems.append(f"{folder.name}: {records.CHECKPOINT} is missing; the run is left out of the tables.")
            continue
        keys = storing.keys(checkpoint_hash, record["data"]["fingerprint"], config.sharpness)
        stored = {} if config.force else storing.stored(folder / records.MEASURES)
        rows[folder] = storing.merge(stored[key] for key in keys.values() if key in stored)
        missing = {name: key for name, key in keys.items() if key not in stored}
        if missing:
            pending.append(_Pending(folder, record, records.run_config(record), missing))
    if pending:
        _measure(pending, config, rows, problems)
    return rows


def _measure(pending: list[_Pending], config: EvaluateConfig, rows: dict[Path, Measured], problems: list[str]) -> None:
    """Measure what is pending, run by run; every notion is stored as soon as it is known."""
    device, load = pick_device(config.device), _data_loader(config)
    pending.sort(key=lambda run: json.dumps(to_dict(run.config.dataset), sort_keys=True))  # each data set is read once
    total = sum(work(run.keys, run.sizes, config.sharpness) for run in pending)
    with number_format("fp32", config.threads), progress_for(total, f"measuring {len(pending)} checkpoints") as progress:
        for run in pending:
            try:
                images = load(run.config, run.record["data"]["fingerprint"])
                model = load_trained(run.config, run.folder, images, device)
                subject = subject_of(model, images, config.sharpness, optimizer=run.config.optimizer, progress=progress.advance)
                found = storing.measure(subject, run.keys, run.folder / records.MEASURES, partial(_note, progress, run.folder.name))
                rows[run.folder] = storing.merge([rows[run.folder], found])
            except (checkpoint.CheckpointError, data.DataError, ConfigError) as error:
                rows.pop(run.folder)
                _say(progress, problems, f"{run.folder.name}: {error}")


def _note(progress: Progress, name: str, notion: str) -> None:
    progress.note(f"{name}: {notion}")


def _say(progress: Progress, problems: list[str], sentence: str) -> None:
    problems.append(sentence)
    progress.say(f"error: {sentence}")


def _data_loader(config: EvaluateConfig) -> Callable[[TrainConfig, str], ImageData]:
    """Data sets by their settings, read once each; `data_path` and `data_root` say where they lie now, if they have moved."""
    cache: dict[str, ImageData] = {}

    def load(run: TrainConfig, expected: str) -> ImageData:
        dataset = dataclasses.replace(run.dataset, path=config.data_path or run.dataset.path, root=config.data_root or run.dataset.root)
        key = json.dumps(to_dict(dataset), sort_keys=True)
        if key not in cache:
            cache.clear()  # one at a time in memory
            cache[key] = data.load(**to_dict(dataset)).to(pick_device(config.device))
        if cache[key].fingerprint != expected:
            raise ConfigError(
                f"the data differ from those it was trained on (fingerprint {cache[key].fingerprint}, trained on {expected})."
            )
        return cache[key]

    return load
