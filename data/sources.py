"""Read data sets: scikit-learn's digits, CIFAR through torchvision, arrays in a file."""

import contextlib
import fcntl
import hashlib
import io
import os
import shlex
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data import DATASETS, DataError, known, npz, usable_folder

# Mean and standard deviation of the training pixels scaled to [0, 1], per channel: the constants of Foret et al.'s code.
CIFAR_STATISTICS = {
    "cifar10": ((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)),
    "cifar100": ((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)),
}
CONNECT_TIMEOUT = 30.0  # seconds; without one, a firewall that drops packets would hold a run for minutes


@dataclass(frozen=True)
class RawData:
    """A whole data set: images (n, h, w, c) uint8, labels (n,) int64; mean, std (c,) of the training images scaled to [0, 1]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    mean: np.ndarray
    std: np.ndarray
    notes: tuple[str, ...] = ()


def fingerprint(raw: RawData) -> str:
    """16 hex digits of the SHA-256 over shapes and bytes of images (n, h, w, c) and labels (int64), training before test."""
    digest = hashlib.sha256()
    for array in (raw.train_images, raw.train_labels, raw.test_images, raw.test_labels):
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def digits(name: str, root: str, download: bool) -> RawData:
    """1,797 scans of 8 x 8 pixels, 0 to 16 as they come; shuffled once, because the file is ordered by writer."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    order = np.random.RandomState(0).permutation(len(scans.target))  # the legacy generator's stream is frozen across NumPy versions
    images = scans.images.astype(np.uint8)[order][..., None]
    labels = scans.target.astype(np.int64)[order]
    n = DATASETS[name].about.train_size
    return RawData(images[:n], labels[:n], images[n:], labels[n:], DATASETS[name].about.classes, *pixel_statistics(images[:n]))


def arrays(name: str, path: str) -> RawData:
    """The data set `name` from a file that `describe` has checked. Raises `DataError`."""
    arrays = npz.read(path, f"dataset.path={path}")
    notes: tuple[str, ...] = ()
    if "train_exact" in arrays:
        exact = np.concatenate([arrays.pop("train_exact"), arrays.pop("test_exact")])
        if decoded := np.count_nonzero(~exact):
            notes = (f"{Path(path).name}, {decoded:,} of {len(exact):,} images JPEG-decoded",)
    mean, std = map(np.array, CIFAR_STATISTICS[name]) if name in CIFAR_STATISTICS else pixel_statistics(arrays["train_images"])
    classes = DATASETS[name].about.classes if DATASETS[name].about else int(arrays["train_labels"].max()) + 1
    return RawData(**arrays, classes=classes, mean=mean, std=std, notes=notes)


def pixel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (c,) in float64 of uint8 images (n, h, w, c) scaled to [0, 1]."""
    values = np.arange(256) / 255
    counts = np.zeros((images.shape[-1], 256))
    for block in np.array_split(images, -(-len(images) // 1000)):  # in blocks: bincount needs 8 bytes a pixel
        for channel, row in enumerate(counts):
            row += np.bincount(block[..., channel].ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    return mean, np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))


def cifar(name: str, root: str, download: bool) -> RawData:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        train, test = fetch_cifar(name, root, download)
    mean, std = map(np.array, CIFAR_STATISTICS[name])
    splits = [(np.ascontiguousarray(part.data), np.array(part.targets, dtype=np.int64)) for part in (train, test)]
    return RawData(*splits[0], *splits[1], DATASETS[name].about.classes, mean, std, (known.BY_SOURCE[name],))


def fetch_cifar(name: str, root: str, download: bool) -> tuple[Any, Any]:
    """Return torchvision's training and test set of `name` below `root`, checked against their MD5 sums; download them if allowed (of
    several processes, one). Raises `DataError`, which names the missing or damaged files and how to get them."""
    from data import torchvision_guard

    torchvision_guard.ensure()
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataError(f"dataset={name}: needs torchvision, or dataset.path=FILE.npz ({error}).") from error
    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = Path(root).expanduser()
    both = lambda: (source(folder, train=True), source(folder, train=False))  # RuntimeError: missing, or MD5 differs
    with contextlib.suppress(Exception):
        return both()
    if download:
        usable_folder(folder, "dataset.root")
    try:
        if download:
            with _alone(folder):
                with contextlib.suppress(RuntimeError):
                    return both()  # another process has just unpacked them
                _unpack(source, folder)
        return both()
    except Exception as error:  # no network, no room; a download cut short; whatever tarfile and pickle raise for damaged bytes
        reason = (str(getattr(error, "reason", error)) or type(error).__name__).splitlines()[0].rstrip(".")
        cause = f"the download failed: {reason}" if download else "dataset.download=false"
        raise DataError(_cifar_missing(name, root, source, cause)) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and let connections to servers time out meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    before, lock = socket.getdefaulttimeout(), os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        socket.setdefaulttimeout(CONNECT_TIMEOUT)
        yield
    finally:
        os.close(lock)
        socket.setdefaulttimeout(before)


def _unpack(source: Any, folder: Path) -> None:
    """Download the archive unless it is intact, and unpack it so that a reader sees the whole folder or none."""
    from torchvision.datasets import cifar

    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-", ignore_cleanup_errors=True) as temporary:
        cifar.download_and_extract_archive(source.url, folder, temporary, source.filename, source.tgz_md5)
        with contextlib.suppress(FileNotFoundError):
            (folder / source.base_folder).replace(Path(temporary) / "damaged")
        (Path(temporary) / source.base_folder).replace(folder / source.base_folder)


def _cifar_missing(name: str, root: str, source: Any, cause: str) -> str:
    from torchvision.datasets.utils import check_integrity

    sums = {**dict(source.train_list + source.test_list), source.meta["filename"]: source.meta["md5"]}
    folder = Path(root).expanduser() / source.base_folder
    missing = [file for file in sums if not (folder / file).exists()]
    damaged = [file for file, md5 in sums.items() if file not in missing and not check_integrity(str(folder / file), md5)]
    found = [f"{', '.join(files)} {how}" for files, how in ((missing, "missing"), (damaged, "damaged (MD5 differs)")) if files]
    state = "; ".join(found) or "the files are there but cannot be read"
    again = f"python scripts/prepare_data.py dataset={name} {shlex.quote(f'root={root}')}"
    cure = f"run `{again}` on a machine with a network and copy the folder here"
    return f"dataset={name}: {folder} must hold {', '.join(sums)} ({state}; {cause}); {cure}, or give dataset.path=FILE.npz."
