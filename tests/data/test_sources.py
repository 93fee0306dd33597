"""CIFAR through torchvision (tiny stand-ins with their own MD5 sums), its absence, and what an import costs."""

import hashlib
import importlib.util
import pickle
import subprocess
import sys
import urllib.error
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from data import DataError, load, torchvision_guard
from data.sources import CIFAR_STATISTICS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def datasets() -> ModuleType:
    torchvision_guard.ensure()
    from torchvision import datasets

    return datasets


@pytest.fixture
def no_network(datasets: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        print("chatter")
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)


def tiny_cifar(source: Any, labels_key: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Write files of torchvision's layout with five images each, and give the class their MD5 sums."""
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    generator = np.random.RandomState(0)
    sums, images = {}, []
    for name, _ in source.train_list + source.test_list:
        images.append(generator.randint(0, 256, (5, 3072)).astype(np.uint8))
        content = pickle.dumps({"data": images[-1], labels_key: [0, 1, 2, 3, 9]})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    content = pickle.dumps({source.meta["key"]: ["a", "b"]})
    (folder / source.meta["filename"]).write_bytes(content)
    monkeypatch.setattr(source, "train_list", [[name, sums[name]] for name, _ in source.train_list])
    monkeypatch.setattr(source, "test_list", [[name, sums[name]] for name, _ in source.test_list])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": hashlib.md5(content).hexdigest()})
    return {"train": np.concatenate(images[:-1]), "test": images[-1]}


@pytest.mark.parametrize(("name", "labels_key", "files"), [("cifar10", "labels", 5), ("cifar100", "fine_labels", 1)])
def test_cifar_files_are_read(
    name: str, labels_key: str, files: int, datasets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    source = getattr(datasets, name.upper())
    written = tiny_cifar(source, labels_key, tmp_path, monkeypatch)
    data = load(name=name, root=str(tmp_path))  # intact files need no download
    np.testing.assert_array_equal(data.train_images.reshape(-1, 3072), written["train"])
    np.testing.assert_array_equal(data.test_images.reshape(-1, 3072), written["test"])
    assert data.train_labels.tolist() == [0, 1, 2, 3, 9] * files and data.classes == {"cifar10": 10, "cifar100": 100}[name]
    for found, known in zip((data.mean, data.std), CIFAR_STATISTICS[name], strict=True):  # as from a file
        assert found.tolist() == pytest.approx(known)
    assert [note.startswith(f"{name.upper().replace('R1', 'R-1')}, every image exact") for note in data.notes] == [True]
    first = next((tmp_path / source.base_folder).glob("*1" if name == "cifar10" else "train"))
    first.write_bytes(first.read_bytes() + b"x")
    with pytest.raises(DataError) as caught:
        load(name=name, root=str(tmp_path), download=False)
    assert f"({first.name} damaged (MD5 differs); dataset.download=false)" in str(caught.value)
    (tmp_path / source.base_folder / source.meta["filename"]).unlink()
    with pytest.raises(DataError, match=rf"{source.meta['filename']} missing; {first.name} damaged"):
        load(name=name, root=str(tmp_path), download=False)


@pytest.mark.parametrize("download", [False, True])
def test_missing_cifar_is_one_sentence(download: bool, tmp_path: Path, no_network: None, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        load(name="cifar100", root=str(tmp_path), download=download)
    message = str(caught.value)
    assert f"{tmp_path / 'cifar-100-python'} must hold train, test, meta" in message
    assert ("the download failed: Name or service not known" if download else "dataset.download=false") in message
    assert f"python scripts/prepare_data.py dataset=cifar100 root={tmp_path}" in message and "dataset.path=FILE.npz" in message
    assert "\n" not in message and capfd.readouterr() == ("", "")
    with pytest.raises(DataError, match=r"cifar-10-batches-py must hold data_batch_1, .*, test_batch, batches.meta"):
        load(name="cifar10", root=str(tmp_path), download=download)


def prepare_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_data", ROOT / "scripts" / "prepare_data.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prepare_data(
    datasets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    main = prepare_data().main
    assert main(["dataset=cifar100", f"root={tmp_path}"]) == 1
    assert "the download failed" in capsys.readouterr().err
    tiny_cifar(datasets.CIFAR100, "fine_labels", tmp_path, monkeypatch)
    assert main(["dataset=cifar100", f"root={tmp_path}"]) == 0
    output = capsys.readouterr().out
    assert f"5 training and 5 test images in {tmp_path / 'cifar-100-python'}" in output and "dataset.path=" in output
    assert main(["dataset=mnist"]) == 2
    assert capsys.readouterr().err == "error: dataset=mnist: must be one of all, cifar10, cifar100.\n"


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_describe_imports_no_torch(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        train_images=np.zeros((9, 4, 4), np.uint8),
        train_labels=np.arange(9) % 2,
        test_images=np.zeros((9, 4, 4), np.uint8),
        test_labels=np.arange(9) % 2,
    )
    heavy = "[m for m in ('torch', 'torchvision', 'sklearn', 'numpy') if m in sys.modules]"
    code = f"import sys, data; data.describe(name='cifar10'); data.check_augmentation(32, 3, cutout=16); print({heavy})\n"
    code += f"data.describe(name='arrays', path={str(tmp_path / 'a.npz')!r}); print({heavy})"
    assert python(code).split("\n")[:2] == ["[]", "['numpy']"]


@pytest.mark.slow
def test_torchvision_can_be_imported_after_the_guard() -> None:
    guard = "from data.torchvision_guard import ensure; ensure(); ensure(); "
    code = "import torchvision.datasets, torchvision.transforms.v2; ensure(); print(torchvision.datasets.CIFAR10.__name__)"
    assert python(guard + code) == "CIFAR10\n"


def fetch(place: tuple[str, str]) -> list[str]:
    """In a process of its own: a fake archive, counted when it is asked for, and then slowly unpacked. What a reader saw meanwhile."""
    import shutil
    import time

    from data.sources import fetch_cifar

    root, origin = place
    torchvision_guard.ensure()
    from torchvision import datasets
    from torchvision.datasets import cifar

    source = datasets.CIFAR100
    files = {name: hashlib.md5((Path(origin) / source.base_folder / name).read_bytes()).hexdigest() for name in ("train", "test", "meta")}
    source.train_list, source.test_list = [["train", files["train"]]], [["test", files["test"]]]
    source.meta = source.meta | {"md5": files["meta"]}

    def unpack(url: str, folder: Path, to: str, filename: str, md5: str) -> None:
        with (Path(root) / "asked").open("a") as file:
            file.write("x")
        target = Path(to) / source.base_folder
        target.mkdir()
        for name in files:
            shutil.copy(Path(origin) / source.base_folder / name, target / name)
            time.sleep(0.2)
            assert not (Path(root) / source.base_folder).exists() or (Path(root) / source.base_folder / "old").exists()

    cifar.download_and_extract_archive = unpack
    train, test = fetch_cifar("cifar100", root, download=True)
    return [str(len(train)), str(len(test))]


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_start_at_once_unpack_once(
    damaged: bool, datasets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One downloads, the others wait; nobody ever sees half a folder; a damaged one is replaced whole."""
    tiny_cifar(datasets.CIFAR100, "fine_labels", tmp_path / "origin", monkeypatch)
    root = tmp_path / "datasets"
    root.mkdir()
    if damaged:
        (root / "cifar-100-python").mkdir()
        (root / "cifar-100-python" / "old").write_bytes(b"half of it")
    code = "import json, sys; sys.path.insert(0, 'tests/data'); import test_sources; print(test_sources.fetch(sys.argv[1:3]))"
    line = [sys.executable, "-c", code, str(root), str(tmp_path / "origin")]
    started = [subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [process.communicate(timeout=120) for process in started]
    assert [out for out, _ in ended] == ["['5', '5']\n"] * 3, ended
    assert (root / "asked").read_text() == "x"
    assert {path.name for path in root.iterdir()} == {"asked", "cifar-100-python"}
    assert {path.name for path in (root / "cifar-100-python").iterdir()} == {"train", "test", "meta"}
