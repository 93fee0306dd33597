"""Check and read data sets in an .npz file. NumPy only; `read` alone reads images."""

import io
import math
import zipfile

import numpy as np

from data import DataError, Description, enough_memory, regular_file

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_HEADER = 16_384  # bytes in which the header of an array must end; NumPy takes 10,000 of text
_BOTH = "np.concatenate([train_labels.ravel(), test_labels.ravel()])"
_RENUMBER = f"number both at once: np.unique({_BOTH}, return_inverse=True)[1], train_labels first"


def describe(path: str, called: str, name: str = "arrays", expected: Description | None = None) -> Description:
    """Sizes of the file's images and number of classes, from headers and labels; those of `expected` (CIFAR), or DataError. called: the
    file in messages, dataset.path=FILE."""
    shapes, labels = {}, {}
    try:
        with zipfile.ZipFile(regular_file(path)) as archive:
            members, total = set(archive.namelist()), 0
            for key in KEYS:
                if f"{key}.npy" not in members:
                    found = ", ".join(sorted(member.removesuffix(".npy") for member in members)[:20]) or "nothing"
                    raise DataError(f"{called}: has no array {key} (found: {found}; needed: {', '.join(KEYS)}).")
                shape, dtype = _header(archive, key)
                shapes[key] = checked_shape(called, key, shape, dtype)
                total += math.prod(shape) * dtype.itemsize
            for split in ("train", "test"):
                images, count = shapes[f"{split}_images"], shapes[f"{split}_labels"][0]
                if images[0] != count:
                    raise DataError(f"{called}: {split}_images holds {images[0]} images but {split}_labels {count} labels.")
            enough_memory(called, total)  # a small file may unpack to any size
            for key in ("train_labels", "test_labels"):
                with archive.open(f"{key}.npy") as file:
                    labels[key] = np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # damaged bytes make zipfile and NumPy raise nearly anything
        raise _unreadable(called, error) from error

    train, test = shapes["train_images"], shapes["test_images"]
    if train[1:] != test[1:]:
        raise DataError(f"{called}: train_images are {_size(train)} but test_images {_size(test)}.")
    if expected and train[1:] != (expected.image_size, expected.image_size, expected.channels):
        size = f"{expected.image_size}x{expected.image_size}x{expected.channels}"
        raise DataError(f"{called}: images of dataset={name} are {size}, not {_size(train)}; use dataset=arrays.")
    classes = expected.classes if expected else len(np.unique(labels["train_labels"]))
    why = f"dataset={name}" if expected else f"as many classes as train_labels hold, {classes}"
    every = np.unique(np.concatenate([*labels.values()]))
    least, most = int(every[0]), int(every[-1])
    for key, values in labels.items():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= classes:
            cure = _RENUMBER if not least or most - least >= classes else f"{'add' if least < 0 else 'subtract'} {abs(least)} in both"
            cure = f"both hold {len(every)} classes; leave the images of {len(every) - classes} out" if len(every) > classes else cure
            raise DataError(f"{called}: {key} run from {low} to {high}, but must be 0 to {classes - 1} ({why}); {cure}.")
    if expected is None and classes < 2:
        raise DataError(f"{called}: {train[0]} train_labels hold one class, but must number two or more classes from 0.")
    return Description(name, train[0], test[0], train[1], train[3], classes)


def read(path: str, called: str) -> dict[str, np.ndarray]:
    """Images (n, h, w, c) uint8, labels (n,) int64 and, where both are, *_exact (n,) bool of a file that passed `describe`. DataError."""
    try:
        with np.load(regular_file(path), allow_pickle=False) as file:
            exact = [key for key in ("train_exact", "test_exact") if "train_exact" in file and "test_exact" in file]
            for key in exact:
                shape, dtype = _header(file.zip, key)
                if dtype.kind != "b" or shape != _header(file.zip, key.replace("exact", "labels"))[0]:
                    raise DataError(f"{called}: {key} must be one bool for each image, not {dtype} {shape}.")
            arrays = {key: file[key] for key in (*KEYS, *exact)}
    except DataError:
        raise
    except Exception as error:  # see `describe`
        raise _unreadable(called, error) from error
    for key, values in arrays.items():
        if key.endswith("images") and values.ndim == 3:
            arrays[key] = values[..., None]
        elif key.endswith("labels"):
            arrays[key] = values.astype(np.int64)
    return arrays


def _header(archive: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of an array from its header. ValueError if the archive holds fewer bytes."""
    with archive.open(f"{key}.npy") as member:
        start = io.BytesIO(member.read(_HEADER))
    version = np.lib.format.read_magic(start)
    if version not in _READ_HEADER:
        raise ValueError(f"array format {version}")
    shape, _, dtype = _READ_HEADER[version](start)
    missing = start.tell() + math.prod(shape) * dtype.itemsize - archive.getinfo(f"{key}.npy").file_size
    if missing > 0 or min(shape, default=0) < 0:
        raise ValueError(f"{key} has shape {shape}, for which {missing:,} bytes are missing")
    return shape, dtype


def checked_shape(called: str, key: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """Check an array's type; return its shape: (n, h, w, c) of images, (n,) of labels."""
    if key.endswith("labels"):
        if dtype.kind not in "iu" or len(shape) != 1:
            cure = "one-hot ones: labels.argmax(1)" if len(shape) == 2 and shape[1] > 1 else _RENUMBER
            raise DataError(f"{called}: {key} has type {dtype} and shape {shape}, but must be integers of shape (n,); {cure}.")
        return shape
    if dtype != np.uint8:
        raise DataError(f"{called}: {key} has type {dtype}, but must be uint8 (0 to 255).")
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(f"{called}: {key} has shape {shape}, but must be (n, h, w, c) or (n, h, w).")
    if shape[1] != shape[2]:
        last = "; channels come last: images.transpose(0, 2, 3, 1)" if shape[2:] == 2 * shape[2:3] else ""
        raise DataError(f"{called}: {key} has images of {shape[1]}x{shape[2]} pixels, but they must be square{last}.")
    return shape if len(shape) == 4 else (*shape, 1)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:]))


def _unreadable(called: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{called}: there is no such file.")
    reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return DataError(f"{called}: is not a readable .npz file, or is cut short ({reason}).")
