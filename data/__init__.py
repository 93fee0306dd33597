"""Data sets held in memory as uint8 tensors, and their augmentation on the device.

Importing this package costs nothing: torch, torchvision and scikit-learn are imported by `load` alone, NumPy by whoever opens a file.
"""

import errno
import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.settings import DATASETS, DatasetConfig, Description
from sam.config import ConfigError

if TYPE_CHECKING:
    from data.image_data import ImageData

DataError = ConfigError  # one class for all that a user can set right

__all__ = ["DataError", "Description", "check_augmentation", "describe", "file_fingerprint", "load", "regular_file", "usable_folder"]


def describe(**settings: Any) -> Description:
    """What `load` with the same keywords will return, without reading an image or importing torch, or looking for CIFAR. DataError."""
    s = DatasetConfig.of(**settings)
    if s.val_fraction and (s.val_size is not None or s.sample == "seed"):
        other = f"dataset.val_size={s.val_size}" if s.val_size is not None else "dataset.sample=seed"
        raise DataError(f"dataset.val_fraction={s.val_fraction} with {other}: must be 0; dataset.val_size=N alone holds images out of it.")
    full = DATASETS[s.name].about
    if s.path:
        from data import npz

        full = npz.describe(s.path, f"dataset.path={s.path}", s.name, full)
    train, val = split_sizes(full.train_size, s.train_size, s.val_fraction, s.val_size)
    for key, values in (("mean", s.mean), ("std", s.std)):
        if values is not None and len(values) != full.channels:
            positive = ", each > 0" if key == "std" else ""
            raise DataError(f"dataset.{key}={values}: must hold one number for each of the {full.channels} channels{positive}.")
    return Description(s.name, train, full.test_size, full.image_size, full.channels, full.classes, val)


def split_sizes(available: int, train_size: int | None, val_fraction: float, val_size: int | None = None) -> tuple[int, int]:
    """Return (training, validation) images: `val_size` are set aside first, `val_fraction` is taken out of the `train_size` used."""
    if val_size is not None and not 1 <= val_size < available:
        raise DataError(f"dataset.val_size={val_size}: must be between 1 and {available - 1}, to leave some of the {available} images.")
    left = available - (val_size or 0)
    used = left if train_size is None else train_size
    if not 1 <= used <= left:
        beside = f" that dataset.val_size={val_size} leaves" if val_size else ""
        raise DataError(f"dataset.train_size={train_size}: must be between 1 and {left}, the number of training images{beside}.")
    if val_size is not None:
        return used, val_size
    held_out = round(val_fraction * used)
    if held_out == used:
        raise DataError(f"dataset.val_fraction={val_fraction}: holds out all of the {used} training images.")
    return used - held_out, held_out


def check_augmentation(image_size: int, channels: int, *, crop_padding: int = 0, cutout: int = 0, policy: str = "none", **_: Any) -> None:
    """Raise `DataError` unless these fields of `augmentation` suit images of `image_size` pixels a side (other fields are ignored)."""
    if policy == "autoaugment" and channels not in (1, 3):
        raise DataError(f"augmentation.policy=autoaugment: images with {channels} channels; must be none for other than 1 or 3.")
    for key, value in (("crop_padding", crop_padding), ("cutout", cutout)):
        if not 0 <= value < image_size:
            raise DataError(f"augmentation.{key}={value}: must be between 0 and {image_size - 1} for images of {image_size} pixels.")


def load(*, seed: int | None = None, **settings: Any) -> "ImageData":
    """Read a data set, split it and corrupt its training labels, reproducibly. seed: the run's, for sample=seed. Raises `DataError`."""
    s, wanted = DatasetConfig.of(**settings), describe(**settings)
    if s.sample == "seed" and seed is None:
        raise DataError("dataset.sample=seed: needs the seed of a run, and there is none here; must be fixed.")
    from data import image_data, known, npz, sources

    raw = sources.arrays(s.name, s.path) if s.path else DATASETS[s.name].load()(s.name, s.root, s.download)
    if not s.path and DATASETS[s.name].is_foreign:  # a plug-in's reader may return anything
        own: list[Any] = [getattr(raw, key, None) for key in npz.KEYS]
        about = DATASETS[s.name].about
        n, m, image = about.train_size, about.test_size, (about.image_size, about.image_size, about.channels)
        said = [f"ndarray {kind}" for kind in (f"uint8 {(n, *image)}", f"int64 {(n,)}", f"uint8 {(m, *image)}", f"int64 {(m,)}")]
        found = [f"{type(v).__name__} {getattr(v, 'dtype', '')} {tuple(getattr(v, 'shape', ()))}" for v in own]
        if found != said or raw.classes != about.classes or not all(0 <= v.min() <= v.max() < about.classes for v in own[1::2]):
            raise DataError(f"dataset={s.name}: its reader returned {found}; its row says {said}, labels 0 to {about.classes - 1}.")
    raw = replace(raw, **{key: values for key, values in (("mean", s.mean), ("std", s.std)) if values is not None})  # type: ignore[arg-type]
    if not all(raw.std):
        raise DataError(f"dataset.path={s.path}: a channel of train_images has one value everywhere; give dataset.mean and dataset.std.")
    if (raw.train_labels[1:] >= raw.train_labels[:-1]).all() and not (raw.train_labels[1:] > raw.train_labels[:-1]).all():
        raw = replace(raw, notes=(*raw.notes, "training images sorted by class: batches of sharpness.m hold one or two classes"))
    images = image_data.build(raw, wanted.train_size, wanted.val_size, s.label_noise, seed if s.sample == "seed" else None)
    if known.is_genuine(s.name, s.path, images.fingerprint):
        return images
    return replace(images, notes=(*images.notes, f"images of {Path(str(s.path)).name}, not known by their fingerprint as dataset={s.name}"))


def file_fingerprint(path: str | Path, key: str = "dataset.path") -> str:
    """16 hex digits of the SHA-256 of a file, computed once per (path, size, time of change). DataError that names the setting `key`."""
    try:
        file = regular_file(path)
        return _file_sha256(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{key}={path}: cannot be read ({error.strerror}).") from error


@lru_cache(maxsize=64)
def _file_sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def regular_file(path: str | Path) -> Path:
    """Return the path if it is a regular file (no folder, pipe, device or socket, which could block). Raises OSError."""
    try:
        file = Path(path).expanduser()
        if not stat.S_ISREG(file.stat().st_mode):
            raise OSError(errno.EINVAL, "is a folder, a pipe, a device or a socket, and no file")
    except (ValueError, RuntimeError) as error:  # NUL in the name, or letters that this locale lacks; no such home folder
        raise OSError(errno.EINVAL, str(error)) from error
    return file


def usable_folder(path: str | Path, key: str) -> None:
    """Raise `DataError`, which names the setting `key`, unless `path` is a writable folder or can be created: a temporary file is made in
    the deepest existing part of the path, since permissions alone say nothing about root."""
    if str(path).startswith("~"):
        raise DataError(f"{key}={path}: must be a folder, written without ~.")
    try:
        there = Path(path).absolute() / ("x" * 60)  # as long a name as any that will be written there
        if "\0" in str(there) or len(os.fsencode(there)) > 4000 or max(len(os.fsencode(part)) for part in there.parts) > 255:
            raise OSError(errno.ENAMETOOLONG, "too long, or with NUL")
        while not os.path.lexists(there):
            there = there.parent
        with tempfile.TemporaryFile(dir=there.resolve(strict=True)):
            pass
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{key}={path}: must be a folder to write to, or one that can be made ({why}).") from error


def host_memory() -> int:
    """Return the memory of this machine, or of the container around this process, in bytes."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):  # no such file, or "max" in it
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    return min(sizes)


def enough_memory(what: str, size: int) -> None:
    """Raise `DataError`, which names `what`, unless this machine has memory for `size` bytes."""
    if size > host_memory():
        raise DataError(f"{what}: unpacks to {size:,} bytes; this machine has {host_memory():,} of memory.")
