"""Loss and accuracy on corrupted test images: the files of CIFAR-10-C and CIFAR-100-C (Hendrycks & Dietterich 2019)."""

import os
from pathlib import Path

import numpy as np
import torch

from sam.config import ConfigError
from sam.sharpness.context import Context, Measures, Result, Series, Sizes, Split, suffix
from sam.sharpness.settings import SharpnessConfig

VERSION = 1
SEVERITIES = 5
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")  # for validation; the benchmark's mean is over the other 15
LABELS = "labels.npy"


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    if config.corruption.path is None:
        return 0.0
    try:
        return float(len(files(config.corruption.path)) * _open(Path(config.corruption.path) / LABELS).size)
    except ConfigError:
        return 0.0  # the number is for the progress bar alone; measuring names the problem


def inputs(config: SharpnessConfig) -> dict[str, object]:
    """Return what else the numbers depend on: sizes and modification times of the files. ConfigError if there is no such folder."""
    if config.corruption.path is None:
        return {}
    paths = [*files(config.corruption.path), Path(config.corruption.path).expanduser() / LABELS]
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}


def measure(context: Context) -> Result:
    """Mean losses and accuracies on corrupted test images; nothing if `corruption.path` is null. ConfigError (one sentence) if a file is
    missing or does not fit the data set."""
    path = context.config.corruption.path
    if path is None:
        return Result()
    if context.train.inputs.dtype != torch.uint8:  # whose mean and standard deviation are not known here
        raise ConfigError(
            "sharpness.corruption: its files are uint8 images, to be normalised as an ImageData is; data must be an ImageData."
        )
    found = files(path)
    labels = _labels(Path(path) / LABELS, context)
    values, series = Measures(), dict[str, Series]()
    for file in found:
        curve = series[f"corruption{suffix(kind=file.stem)}"] = _curve(file, labels, context)
        for column in ("accuracy", "loss"):
            values[f"corruption_{column}{suffix(kind=file.stem)}"] = float(np.mean(curve[column]))  # type: ignore[arg-type]
    main = [file.stem for file in found if file.stem not in EXTRA]
    for name in ("corruption_accuracy", "corruption_loss"):
        values[name] = float(np.mean([values[f"{name}{suffix(kind=kind)}"] for kind in main])) if main else None  # type: ignore[arg-type]
    return Result(values | {"corruption_kinds": len(main)}, series)


def _curve(file: Path, labels: np.ndarray, context: Context) -> Series:
    """Measure one corruption, one severity in memory at a time."""
    images = _open(file)
    expected = (len(labels), *context.train.inputs.shape[2:], context.train.inputs.shape[1])
    if images.dtype != np.uint8 or images.shape != expected:
        raise ConfigError(f"{file}: holds {images.dtype} {images.shape}, but must hold uint8 {expected}, as {LABELS} and the data set say.")
    values = []
    for part, right in zip(np.split(images, SEVERITIES), np.split(labels, SEVERITIES), strict=True):
        inputs = torch.from_numpy(np.array(part)).permute(0, 3, 1, 2).to(context.device)
        loss = context.loss(Split(inputs, torch.from_numpy(right).to(context.device)))
        with loss.measuring():
            values.append(loss.value())
    return {"severity": [*range(1, SEVERITIES + 1)], "accuracy": [one.accuracy for one in values], "loss": [one.loss for one in values]}


def files(path: str) -> list[Path]:
    """List the corruptions' files by name. ConfigError if the folder or its labels are missing."""
    folder = Path(path).expanduser()
    if not os.path.isfile(folder / LABELS):
        why = f"has no {LABELS}" if os.path.isdir(folder) else "there is no such folder"
        wanted = f"give the folder of CIFAR-10-C or CIFAR-100-C, with {LABELS} and one .npy a corruption"
        raise ConfigError(f"sharpness.corruption.path={path}: {why}; {wanted}.")
    found = sorted(file for file in folder.glob("*.npy") if file.name != LABELS)
    if not found:
        raise ConfigError(f"sharpness.corruption.path={path}: holds {LABELS}, but no other .npy file with corrupted images.")
    return found


def _labels(file: Path, context: Context) -> np.ndarray:
    labels = _open(file)
    classes = max(int(split.labels.max()) + 1 for split in (context.train, context.test) if split is not None)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0 or len(labels) % SEVERITIES:
        raise ConfigError(f"{file}: must hold {SEVERITIES} whole numbers for each test image, not {labels.dtype} {labels.shape}.")
    if labels.min() < 0 or labels.max() != classes - 1:  # fewer: of CIFAR-10 beside CIFAR-100
        raise ConfigError(f"{file}: labels run from {labels.min()} to {labels.max()}, but those of the data set from 0 to {classes - 1}.")
    return labels.astype(np.int64)


def _open(file: Path) -> np.ndarray:
    from data import regular_file  # now: the library alone is without `data`

    try:
        if isinstance(array := np.load(regular_file(file), mmap_mode="r", allow_pickle=False), np.ndarray):
            return array
        raise ValueError("it is an archive of several")
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{file}: cannot be read as a NumPy array ({str(error).splitlines()[0]}).") from error
