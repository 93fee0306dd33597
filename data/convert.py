"""Convert images from elsewhere into the .npz file that dataset=arrays reads. PIL, SciPy and pyarrow are imported where they are needed."""

import glob
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data import DataError, enough_memory, npz, regular_file
from data.downsample import save
from data.sources import fetch_cifar

HELD_OUT = ("test", "val", "valid", "validation")  # the test set: the first that is there
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # none of those for which PIL starts another program
Split = tuple[np.ndarray, np.ndarray]  # images (n, h, w, c) or (n, h, w) uint8, labels (n,) integers
Encoded = tuple[str, bytes | None, int]  # an image: its file's name, or what a message calls it and the bytes; its label


def convert(source: str, out: str, size: int | None = None) -> None:
    """Write the images of the folder `source` to the file `out`. size: pixels a side to resize them to; None: they must be squares of one
    size. An existing file with other contents is kept. Raises DataError."""
    folder = Path(source).expanduser()
    reader = next((read for pattern, read in READERS.items() if next(folder.glob(pattern), None)), None)
    if reader is None:
        kinds = "train/CLASS/IMAGE, train_32x32.mat, x_train.npy and y_train.npy, or train*.parquet"
        raise DataError(f"source={source}: must be a folder that holds {kinds}, and the same for test; or an .npz file.")
    arrays: dict[str, np.ndarray] = {}
    for split, (images, labels) in zip(("train", "test"), reader(folder, size), strict=True):
        labels = labels[:, 0] if labels.shape[1:] == (1,) else labels
        npz.checked_shape(f"source={source}", f"{split}_labels", labels.shape, labels.dtype)
        first = images.ndim == 4 and images.shape[1] != images.shape[2] == images.shape[3]  # torch's order of axes, refused below
        if size and not first and images.dtype == np.uint8 and images.ndim in (3, 4) and 0 not in images.shape:
            images = _resized(images, size)
        npz.checked_shape(f"source={source}", f"{split}_images", images.shape, images.dtype)
        if len(images) == len(labels) and (labels[1:] >= labels[:-1]).all():  # by class: a batch in the set's order would hold one or two
            order = np.random.RandomState(0).permutation(len(labels))
            images, labels = images[order], labels[order]
        arrays |= {f"{split}_images": images, f"{split}_labels": labels.astype(np.int64)}
    save(source, out, arrays)


def _readable(read: Callable[[Any], Any], path: Path | str, content: Any = None) -> Any:
    """`read` a file, or the `content` that `path` names. DataError for whatever its bytes make a library raise."""
    try:
        return read(regular_file(path) if content is None else content)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(f"source={path}: cannot be read ({reason}).") from error


def _held_out(folder: Path, pattern: str) -> list[Path]:
    """What `pattern`, with {} for the split, finds of the test set, sorted."""
    found = next((paths for split in HELD_OUT if (paths := sorted(folder.glob(pattern.format(split))))), None)
    if found is None:
        raise DataError(f"source={folder}: holds no {pattern.format('test')}, nor one of {', '.join(HELD_OUT[1:])}.")
    return found


# --------------------------------------------------------------------------------------------------------------- readers


def _npy(folder: Path, size: int | None) -> Iterator[Split]:
    """x_train.npy, y_train.npy, x_test.npy, y_test.npy."""
    for y in (folder / "y_train.npy", *_held_out(folder, "y_{}.npy")):
        read = lambda path: np.lib.format.open_memmap(path, mode="r")  # which takes no pickled objects, and nothing that is cut short
        images, labels = (_readable(read, path) for path in (y.with_name(f"x{y.name[1:]}"), y))
        enough_memory(f"source={y.parent}", images.nbytes)
        yield np.array(images), np.array(labels)


def _mat(folder: Path, size: int | None) -> Iterator[Split]:
    """SVHN's train_32x32.mat and test_32x32.mat: X (h, w, c, n), y (n, 1) from 1 to 10, which is the digit 0."""
    from scipy import io as matlab

    for path in (folder / "train_32x32.mat", *_held_out(folder, "{}_32x32.mat")):
        shapes = {name: shape for name, shape, _ in _readable(matlab.whosmat, path)}
        if {"X", "y"} - shapes.keys() or len(shapes["X"]) != 4:
            raise DataError(f"source={path}: must hold X (h, w, c, n) and y (n, 1), as SVHN's files do; it holds {shapes}.")
        enough_memory(f"source={path}", int(np.prod(shapes["X"], dtype=float)))
        values = _readable(lambda path: matlab.loadmat(path, variable_names=["X", "y"]), path)
        yield np.ascontiguousarray(values["X"].transpose(3, 0, 1, 2)), _readable(lambda y: y % 10, path, values["y"])


def _image_folder(folder: Path, size: int | None) -> Iterator[Split]:
    """train/CLASS/IMAGE and test/CLASS/IMAGE, as torchvision's ImageFolder reads them: classes are numbered by their names."""
    classes: list[str] = []
    splits: list[list[Encoded]] = []
    for split in (folder / "train", _held_out(folder, "{}/*/")[0].parent):
        names = sorted(path.name for path in split.iterdir() if path.is_dir() and not path.name.startswith("."))
        classes = classes or names
        if unknown := set(names) - set(classes):
            raise DataError(f"source={split}: class {min(unknown)} is not in train.")
        encoded: list[Encoded] = []
        for name in names:
            inside = glob.iglob(f"{glob.escape(str(split / name))}/**/*", recursive=True)  # follows links, leaves out what is hidden
            found = sorted(path for path in map(Path, inside) if path.suffix.lower() in ENDINGS)
            if not found and not splits:
                raise DataError(f"source={split / name}: holds no image ({', '.join(ENDINGS)}).")
            encoded += [(str(path), None, classes.index(name)) for path in found]
        splits.append(encoded)
    yield from _decoded(splits, size)


def _parquet(folder: Path, size: int | None) -> Iterator[Split]:
    """Hugging Face: train*.parquet and test*.parquet, with a column of images (their files' bytes) and a column of labels."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"source={folder}: parquet files need pyarrow; python -m pip install pyarrow") from error
    splits = []
    for paths in (sorted(folder.glob("**/train*.parquet")), _held_out(folder, "**/{}*.parquet")):
        encoded: list[Encoded] = []
        if len(places := sorted({str(path.parent) for path in paths})) > 1:
            raise DataError(f"source={folder}: holds several data sets, in {' and '.join(places)}; give the folder of one.")
        for path in paths:
            file = _readable(parquet.ParquetFile, path)
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            enough_memory(f"source={path}", sum(group.total_byte_size for group in groups))
            columns = {field.name: str(field.type) for field in file.schema_arrow}
            image = [name for name, kind in columns.items() if kind.startswith("struct<") and "bytes: " in kind]
            label = [name for name in ("label", "labels", "fine_label") if columns.get(name, "").lstrip("u").startswith("int")]
            if len(image) != 1 or not label:
                raise DataError(f"source={path}: must hold one column of images (bytes) and a column label; it holds {columns}.")
            table = _readable(file.read, path, [*image, *label[:1]])
            for shown, number in zip(*(table[name].to_pylist() for name in (image[0], label[0])), strict=True):
                if number is None or number < 0 or not shown or shown["bytes"] is None:
                    raise DataError(f"source={path}: image {len(encoded)} has no bytes, or no label.")
                encoded.append((f"{path}, image {len(encoded)}", shown["bytes"], number))
        splits.append(encoded)
    yield from _decoded(splits, size)


def _cifar(folder: Path, size: int | None) -> Iterator[Split]:
    name = {"cifar-10-batches-py": "cifar10", "cifar-100-python": "cifar100"}.get((folder := folder.resolve()).name)
    if name is None:
        raise DataError(f"source={folder}: torchvision's CIFAR must be in a folder of its name, cifar-10-batches-py or cifar-100-python.")
    for part in fetch_cifar(name, str(folder.parent), download=False):
        yield part.data, np.asarray(part.targets)


READERS: dict[str, Callable[[Path, int | None], Iterator[Split]]] = {
    "x_train.npy": _npy,
    "train_32x32.mat": _mat,
    "train/*/": _image_folder,
    "**/train*.parquet": _parquet,
    "data_batch_1": _cifar,
    "meta": _cifar,
}

# --------------------------------------------------------------------------------------------------------------- images


def _decoded(splits: Sequence[list[Encoded]], size: int | None) -> Iterator[Split]:
    """Decode files: to one channel if all are grey, else to three. Their sizes are looked at first, before any is decoded."""
    headers = [(name, *_opened(name, file, lambda image: (*image.size, image.mode))) for split in splits for name, file, _ in split]
    first = headers[0][1] if headers else 1
    for name, width, height, mode in headers:
        if mode.startswith(("I", "F")):
            raise DataError(f"source={name}: holds pixels of more than 8 bits; scale them to 0 to 255 first.")
        if size is None and (width, height) != (first, first):
            other = "no square" if (width, height) == headers[0][1:3] else f"and {headers[0][0]} of {first}x{headers[0][2]}"
            cure = "give size=PIXELS to make all images squares of that size"
            raise DataError(f"source={name}: is of {width}x{height} pixels, {other}; {cure}.")
    side = size or first
    mode = "L" if all(mode in ("1", "L") for *_, mode in headers) else "RGB"
    enough_memory("source=the images", len(headers) * side**2 * len(mode))
    for split in splits:
        images = np.empty((len(split), side, side, len(mode)), np.uint8)
        for place, (name, file, _) in enumerate(split):
            images[place] = _opened(name, file, lambda image: _square(image.convert(mode), side))
        yield images, np.array([label for *_, label in split], np.int64)


def _opened(name: str, content: bytes | None, use: Callable[[Any], Any]) -> Any:
    """`use` an image while its file is open. An image of more pixels than PIL thinks harmless is refused."""
    from PIL import Image

    def read(file: Any) -> Any:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning), Image.open(file, formats=FORMATS) as image:
            return use(image)

    return _readable(read, name, None if content is None else io.BytesIO(content))


def _square(image: Any, size: int) -> np.ndarray:
    """Pixels (size, size, c) of a PIL image, resized (bicubic, smoothed) where it has another size."""
    pixels = np.asarray(image if image.size == (size, size) else image.resize((size, size)))
    return pixels.reshape(size, size, -1)


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    """Images (n, h, w, c) or (n, h, w) -> (n, size, size, c)."""
    from PIL import Image

    images = images.reshape(*images.shape[:3], -1)
    enough_memory("source=the images", len(images) * size**2 * images.shape[-1])
    planes = ((_square(Image.fromarray(plane), size) for plane in np.moveaxis(image, -1, 0)) for image in images)
    return np.stack([np.concatenate(list(image), axis=-1) for image in planes])
