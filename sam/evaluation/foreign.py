"""Measure one checkpoint that no run here made, and store its rows beside it."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import data
import models
from data.image_data import ImageData
from data.settings import DATASETS, DatasetConfig
from models.settings import MODELS, ModelConfig
from sam.core.device import number_format, pick_device
from sam.evaluation import storing
from sam.evaluation.settings import EvaluateConfig
from sam.runs.progress import progress_for
from sam.schema import row_settings, to_dict
from sam.settings import TrainConfig
from sam.sharpness.context import Result, Sizes, context_of, merge, work
from sam.sharpness.derived import derived
from sam.tables.conditions import data_label
from sam.training import weights
from sam.training.loop import build_model


class Checkpoint(NamedTuple):
    """Measures of a checkpoint, the file that stores them, and notes to print with them."""

    found: Result
    file: Path
    notes: list[str]


def evaluate_checkpoint(config: EvaluateConfig) -> Checkpoint:
    """Measure what is not stored yet; rows lie in FILE.sharpness.json beside the checkpoint, or in the folder `out`."""
    assert config.checkpoint is not None and config.model is not None and config.dataset is not None
    path = Path(config.checkpoint).expanduser()
    given = {key: value for key, value in (("mean", config.mean), ("std", config.std)) if value is not None}
    dataset = dataclasses.replace(config.dataset, **given)  # type: ignore[arg-type]
    description = data.describe(**to_dict(dataset))
    models.check(**to_dict(config.model), image_size=description.image_size, channels=description.channels)
    states = weights.read(path)
    device = pick_device(config.device)
    images = data.load(**to_dict(dataset))
    what = _subject(config.model, dataset, images) | ({} if config.checkpoint_key is None else {"weights": config.checkpoint_key})
    model = build_model(TrainConfig(model=config.model), images)  # every weight is replaced
    sizes = Sizes(len(images.train_labels), len(images.test_labels), sum(p.numel() for p in model.parameters()), len(images.val_labels))
    keys = storing.keys(data.file_fingerprint(path), images.fingerprint, config.sharpness, sizes.splits, config.loss, subject=what)
    file = (Path(config.out) if config.out else path.parent) / f"{path.name}.sharpness.json"
    rows = {key: row for key, row in storing.stored(file).items() if not config.force}
    found = merge(rows[key] for key in keys.values() if key in rows)
    missing = {notion: key for notion, key in keys.items() if key not in rows}
    notes = weights.load(model, path, states, wanted=config.checkpoint_key)
    if missing:
        total = work(missing, sizes, config.sharpness)
        with number_format("fp32", config.threads), progress_for(total, f"measuring {path.name}") as progress:
            context = context_of(model.to(device), images.to(device), config.sharpness, loss_name=config.loss, progress=progress.advance)
            found = merge([found, storing.measure(context, missing, file, progress.note)])
    found.values.update(derived(found.values))
    mean, std = (", ".join(f"{value:.4f}" for value in values.tolist()) for values in (images.mean, images.std))
    notes += [
        *images.notes,
        f"Measured on {data_label(dataset, images.fingerprint)}, unaugmented, normalised with mean ({mean}) and std ({std}).",
        "Compare its accuracy with what you know: a checkpoint trained with another normalisation needs mean=[...] std=[...].",
    ]
    return Checkpoint(found, file, notes)


def _subject(model: ModelConfig, dataset: DatasetConfig, images: ImageData) -> dict[str, object]:
    """Settings besides the weights that the numbers depend on: model, split, and the normalisation used (given, or the data set's own)."""
    elsewhere = ("path", "root", "download", "mean", "std")
    split = {key: value for key, value in row_settings(dataset).items() if key not in elsewhere}
    plugins = MODELS[model.name].plugin | DATASETS[dataset.name].plugin
    foreign: dict[str, object] = {"plugins": plugins} if plugins else {}
    return {"model": row_settings(model), "dataset": split, "mean": images.mean.tolist(), "std": images.std.tolist(), **foreign}
