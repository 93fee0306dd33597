"""Data sets in an .npz file: every check of such a file, and its reading. NumPy only; images are read by `read` alone."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from data import DataError, Description

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_RENUMBER = "number them anew: np.unique(labels.ravel(), return_inverse=True)[1]"
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def describe(path: str, name: str, expected: Description | None) -> Description:
    """Shapes of the file's images and its number of classes, from the headers and the labels.

    With `expected` (CIFAR from a file), image size, channels and classes must be those. Raises `DataError`.
    """
    shapes, labels = {}, {}
    try:
        with zipfile.ZipFile(Path(path).expanduser()) as archive:
            members = set(archive.namelist())
            for key in KEYS:
                if f"{key}.npy" not in members:
                    found = ", ".join(sorted(member.removesuffix(".npy") for member in members)) or "nothing"
                    raise DataError(f"dataset.path={path}: has no array {key} (found: {found}; needed: {', '.join(KEYS)}).")
                with archive.open(f"{key}.npy") as file:
                    if key.endswith("images"):
                        shapes[key] = _image_shape(path, key, *_header(file))
                    else:
                        labels[key] = _checked_labels(path, key, np.lib.format.read_array(file, allow_pickle=False))
    except DataError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error

    for split in ("train", "test"):
        images, count = shapes[f"{split}_images"], len(labels[f"{split}_labels"])
        if images[0] != count:
            raise DataError(f"dataset.path={path}: {split}_images holds {images[0]} images but {split}_labels {count} labels.")
    train, test = shapes["train_images"], shapes["test_images"]
    if train[1:] != test[1:]:
        raise DataError(f"dataset.path={path}: train_images are {_size(train)} but test_images {_size(test)}.")
    if expected and train[1:] != (expected.image_size, expected.image_size, expected.channels):
        size = f"{expected.image_size}x{expected.image_size}x{expected.channels}"
        raise DataError(f"dataset.path={path}: images of dataset={name} are {size}, not {_size(train)}; use dataset=arrays.")
    classes = expected.classes if expected else len(np.unique(labels["train_labels"]))
    why = f"dataset={name}" if expected else f"as many classes as train_labels hold, {classes}"
    for key, values in labels.items():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= classes:
            cure = _RENUMBER if not low or high - low >= classes else f"add {-low}" if low < 0 else f"subtract {low}"
            raise DataError(f"dataset.path={path}: {key} run from {low} to {high}, but must be 0 to {classes - 1} ({why}); {cure}.")
    if expected is None and classes < 2:
        raise DataError(f"dataset.path={path}: {train[0]} train_labels hold one class, but must number two or more classes from 0.")
    return Description(name, train[0], test[0], train[1], train[3], classes)


def read(path: str) -> dict[str, np.ndarray]:
    """The four arrays of a file that passed `describe` (images (n, h, w, c) uint8, labels (n,) int64); also train_exact and test_exact,
    boolean (n,), where the file has both. Raises `DataError`."""
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as file:
            optional = [key for key in ("train_exact", "test_exact") if key in file]
            arrays = {key: file[key] for key in (*KEYS, *(optional if len(optional) == 2 else ()))}
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    for key, values in arrays.items():
        if key.endswith("images") and values.ndim == 3:
            arrays[key] = values[..., None]
        elif key.endswith("labels"):
            arrays[key] = values.astype(np.int64)
        elif key.endswith("exact") and (values.dtype != bool or values.shape != arrays[key.replace("exact", "labels")].shape):
            raise DataError(f"dataset.path={path}: {key} must be one bool for each image, not {values.dtype} {values.shape}.")
    return arrays


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"array format {version}")
    shape, _, dtype = _READ_HEADER[version](file)
    return shape, dtype


def _image_shape(path: str, key: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """(n, h, w, c) of the images."""
    if dtype != np.uint8:
        raise DataError(f"dataset.path={path}: {key} has type {dtype}, but must be uint8 (0 to 255).")
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(f"dataset.path={path}: {key} has shape {shape}, but must be (n, h, w, c) or (n, h, w).")
    if shape[1] != shape[2]:
        raise DataError(f"dataset.path={path}: {key} has images of {shape[1]}x{shape[2]} pixels, but they must be square.")
    return shape if len(shape) == 4 else (*shape, 1)


def _checked_labels(path: str, key: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "iu" or values.ndim != 1:
        cure = "one-hot ones: labels.argmax(1)" if values.ndim == 2 and values.shape[1] > 1 else _RENUMBER
        raise DataError(
            f"dataset.path={path}: {key} has type {values.dtype} and shape {values.shape}, but must be integers of shape (n,); {cure}."
        )
    return values


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:]))


def _unreadable(path: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"dataset.path={path}: there is no such file.")
    reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return DataError(f"dataset.path={path}: is not a readable .npz file, or is cut short ({reason}).")
