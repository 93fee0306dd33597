"""Measure finished runs and their kept checkpoints: each notion once, its row stored beside the run."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

import data
from data.image_data import ImageData
from sam.config import ConfigError
from sam.core.device import number_format, pick_device
from sam.core.files import told
from sam.evaluation import storing
from sam.evaluation.settings import EvaluateConfig
from sam.runs import checkpoint, records
from sam.runs.progress import Progress, progress_for, share
from sam.runs.workers import run_all
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.sharpness.context import Notion, Result, Sizes, context_of, merge, work
from sam.sharpness.settings import SharpnessConfig
from sam.text import counted
from sam.training.loop import build_model
from sam.training.weights import load_weights

Run = tuple[Path, dict[str, Any]]


class _Pending(NamedTuple):
    """A checkpoint and the notions not yet measured on it, with the keys of their rows. epoch: None for the final checkpoint."""

    folder: Path
    record: dict[str, Any]
    config: TrainConfig
    file: Path
    epoch: int | None
    keys: dict[Notion, str]

    @property
    def data_seed(self) -> int | None:
        """Seed of the draw of training images; None if all runs share them."""
        return self.config.seed if self.config.dataset.sample == "seed" else None

    @property
    def source(self) -> Path:
        """Path that its rows are kept under: the run's folder for the final checkpoint, else the file."""
        return self.folder if self.epoch is None else self.file

    @property
    def name(self) -> str:
        return self.folder.name if self.epoch is None else f"{self.folder.name}/{self.file.name}"

    @property
    def batch(self) -> int:
        return self.config.group_size or self.config.batch_size

    @property
    def sizes(self) -> Sizes:
        try:
            found = data.describe(**to_dict(self.config.dataset))
            test, val = found.test_size, found.val_size
        except Exception:
            test = val = 0  # only the progress bar wants them; loading will name the problem
        return Sizes(self.record["data"]["train_images"], test, self.record["parameters"], val, self.batch)


def part_of(done: Sequence[Run], part: int, parts: int, sharpness: SharpnessConfig) -> list[Run]:
    """The part-th (from 0) of `parts` shares of the measurable runs, of about equal cost, whatever is measured already."""
    # From the record alone, which every process reads alike. A pass over an image costs more in a larger model.
    sizes = lambda record: Sizes(record["data"]["train_images"], 0, record["parameters"])
    cost = lambda record: work(sharpness.chosen, sizes(record), sharpness) * record["parameters"]
    costs = {folder: cost(record) for folder, record in done if record["status"] != records.DIVERGED}
    loads, given = [0.0] * parts, dict[Path, int]()
    for folder in sorted(costs, key=lambda folder: (-costs[folder], folder)):  # the dearest first, each to the share with least so far
        given[folder] = loads.index(min(loads))
        loads[given[folder]] += costs[folder]
    return [(folder, record) for folder, record in done if given.get(folder) == part]


def measure_runs(done: Sequence[Run], config: EvaluateConfig, problems: list[str]) -> dict[Path, Result]:
    """Read stored rows and measure what they lack. Rows by run folder, and with config.kept by file of a kept checkpoint too."""
    rows: dict[Path, Result] = {}
    pending, every = list[_Pending](), dataclasses.replace(config.sharpness, notions=["all"])  # what is stored of others is shown too
    for folder, record in done:
        try:
            run, files = records.run_config(record), kept_files(folder, record) if config.kept else {}
            splits = ("test", "val") if "val_loss" in record["final"] else ("test",)  # a small val_fraction may hold out no image
            if record["status"] == records.DIVERGED:
                rows[folder] = Result()
            else:
                files = {None: folder / records.CHECKPOINT, **files}
            stored = storing.stored(folder / records.MEASURES, record["fingerprint"])  # with force, too: rows are added to it
            for epoch, file in files.items():
                # A checkpoint that was not kept is known by the record's hash: what was measured on it is as good as ever.
                there, sha256 = file.exists(), record.get("checkpoint_sha256") if epoch is None else None
                if not there and not sha256:
                    problems.append(f"{folder.name}: {file.name} is missing; the run is left out of the tables.")
                    continue
                found = data.file_fingerprint(file, "checkpoint") if file.is_file() else ""
                known = str(sha256 or found)[:16]
                keys = storing.keys(known, record["data"]["fingerprint"], every, splits, run.loss)
                have = stored if not there or (found == known and not config.force) else {}  # loading it will name the problem
                wanted = {notion: key for notion, key in keys.items() if notion.name in config.sharpness.chosen and key not in have}
                lacking = _Pending(folder, record, run, file, epoch, wanted)
                rows[lacking.source] = merge(have[key] for key in keys.values() if key in have)
                if lacking.keys and there:
                    pending.append(lacking)
                elif lacking.keys:
                    names = ", ".join(sorted({notion.name for notion in lacking.keys}))
                    problems.append(f"{folder.name}: {file.name} is missing, and these notions were not measured on it: {names}.")
                    _without(rows, lacking)
        except Exception as error:  # a file of the run is damaged
            problems.append(f"{folder.name}: {told(error)}.")
    if pending:
        _measure(pending, config, rows, problems)
    return rows


def kept_files(folder: Path, record: dict[str, Any]) -> dict[int | None, Path]:
    """Epoch -> file of the run's kept checkpoints, except the last epoch's, which equals the final checkpoint."""
    last = record["config"].get("epochs", TrainConfig.epochs) if record["status"] == records.FINISHED else None
    return {epoch: file for epoch, file in checkpoint.kept(folder).items() if epoch != last}


def _measure(pending: list[_Pending], config: EvaluateConfig, rows: dict[Path, Result], problems: list[str]) -> None:
    """Measure what is pending, run by run; every notion is stored as soon as it is known."""
    pending.sort(key=lambda run: json.dumps([to_dict(run.config.dataset), run.data_seed], sort_keys=True))  # each data set is read once
    total = sum(work(run.keys, run.sizes, config.sharpness) for run in pending)
    outcomes: Sequence[Result | str | None]
    with progress_for(total, f"measuring {counted(len(pending), 'checkpoint')}") as progress:
        if config.processes == 1 or len(pending) == 1:
            outcomes = list(_measured(pending, config, progress))
        else:
            share(progress)
            try:
                outcomes = run_all(measure_one, [(run, config) for run in pending], config.processes)
            finally:
                share(None)
    for run, outcome in zip(pending, outcomes, strict=True):
        found = _read_back(run) if outcome is None else outcome
        if isinstance(found, Result):
            rows[run.source] = merge([rows[run.source], found])
        else:
            _without(rows, run)
            problems.append(found if found.startswith(run.name) else f"{run.name}: {found}")  # a worker's own begins so


def _measured(pending: Sequence[_Pending], config: EvaluateConfig, progress: Progress) -> Iterator[Result | str]:
    """What was measured on each checkpoint, or why it could not be."""
    device = pick_device(config.device)
    with number_format("fp32", config.threads):
        for run, weights in _read_ahead(pending):
            try:
                state = weights.result()  # first: it needs no data to be damaged
                images = _load_data(config, run, device)
                model = build_model(run.config, images).to(device)
                load_weights(model, state, run.folder / records.CHECKPOINT)
                del weights, state  # on the device only the model's own are left
                trained = {"loss_name": run.config.loss, "optimizer": run.config.optimizer, "batch": run.batch}
                context = context_of(model, images, config.sharpness, progress=progress.advance, **trained)
                note = lambda notion, name=run.name: progress.note(f"{name}: {notion}")
                yield storing.measure(context, run.keys, run.folder / records.MEASURES, note, run.record["fingerprint"])
            except Exception as error:  # no run, whatever is wrong with it, keeps another from its table
                problem = f"{run.name}: {told(error)}."
                progress.say(f"error: {problem}")
                yield problem


def _read_back(run: _Pending) -> Result | str:
    """What a worker stored, or why it cannot be read."""
    try:
        stored = storing.stored(run.folder / records.MEASURES, run.record["fingerprint"])
        return merge(stored[key] for key in run.keys.values())
    except Exception as error:  # damaged meanwhile
        return told(error)


def measure_one(task: tuple[_Pending, EvaluateConfig]) -> None:
    """Measure one checkpoint in a worker process; rows are stored whole, so a signal may end it at any time. Raises ConfigError."""
    run, config = task
    with progress_for(1.0, run.name, quiet=True) as progress:
        (outcome,) = _measured([run], config, progress)
    if isinstance(outcome, str):
        raise ConfigError(outcome)


def _without(rows: dict[Path, Result], run: _Pending) -> None:
    """Drop a checkpoint that cannot be measured, unless it has rows already."""
    if not rows[run.source].values:
        rows.pop(run.source)


def _read_ahead(pending: Sequence[_Pending]) -> Iterator[tuple[_Pending, Future[dict[str, torch.Tensor]]]]:
    """Yield each checkpoint with its weights in host memory, reading the next one in the background."""
    read = lambda run: checkpoint.load(run.folder, name=run.file.name, record=run.record)["model"]
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(read, run) for run in pending[:1]]
        for i, run in enumerate(pending):
            ahead += [reader.submit(read, following) for following in pending[i + 1 : i + 2]]
            yield run, ahead.pop(0)


_data_in_memory: dict[str, ImageData] = {}


def _load_data(config: EvaluateConfig, run: _Pending, device: torch.device) -> ImageData:
    """Load the run's data set onto the device; the last one is cached. `data_path` and `data_root` override its location."""
    kept = run.config.dataset
    dataset = dataclasses.replace(kept, path=(kept.name != "digits" and config.data_path) or kept.path, root=config.data_root or kept.root)
    key = json.dumps([to_dict(dataset), run.data_seed, str(device)], sort_keys=True)
    if key not in _data_in_memory:
        _data_in_memory.clear()  # one at a time
        _data_in_memory[key] = data.load(**to_dict(dataset), seed=run.data_seed).to(device)
    images, expected = _data_in_memory[key], run.record["data"]["fingerprint"]
    if images.fingerprint != expected:
        raise ConfigError(f"the data differ from those it was trained on (fingerprint {images.fingerprint}, trained on {expected}).")
    return images
