"""`pip install .` and `pip install -e .`, without a network, from a copy of the tree, used from an empty folder."""

import shutil
import site
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("conf", "data", "hydra_plugins", "models", "sam", "README.md", "pyproject.toml", "train.py")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
OFFLINE = ("install", "--no-deps", "--no-build-isolation", "--no-index")

pytestmark = [
    pytest.mark.slow,
    # By their metadata: looking for pip's module would turn off setuptools' distutils in this process, which torch.compile needs.
    pytest.mark.skipif(not {"pip", "setuptools"} <= set(metadata.packages_distributions()), reason="building needs pip and setuptools"),
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / "clone").mkdir(exist_ok=True)
        copy(ROOT / name, tmp_path / "clone" / name)
    (tmp_path / "empty").mkdir()
    return tmp_path / "clone"


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter of a new environment, which sees the packages of this one."""
    venv.create(tmp_path / "venv")
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "outer.pth").write_text("\n".join(site.getsitepackages()))
    return str(tmp_path / "venv/bin/python")


def output(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_library_is_sam_alone_with_its_files(clone: Path, python: str) -> None:
    output(*PIP, "--python", python, *OFFLINE, str(clone), folder=clone)
    code = "import torch, sam.optimizers.sam as o; from sam.sharpness import evaluate; model = torch.nn.Linear(4, 3); "
    code += "o.SAM(torch.optim.SGD(model.parameters(), lr=0.1)).step(lambda: (model.weight**2).sum().backward() or torch.zeros(())); "
    code += "x, y = torch.randn(20, 4), torch.arange(20) % 3; print(len(evaluate(model, (x, y), notions=['all'])) > 50, o.__file__)"
    measured, path = output(python, "-c", code, folder=clone.parent / "empty").split()
    installed = Path(path).parents[2]
    assert measured == "True" and "site-packages" in path
    assert (installed / "sam/report/page.css").is_file() and (installed / "sam/tables/paper_values.csv").is_file()
    assert not (installed / "data").exists() and not (installed / "models").exists()


def test_an_editable_install_trains_from_any_folder(clone: Path, python: str) -> None:
    output(*PIP, "--python", python, *OFFLINE, "-e", str(clone), folder=clone)
    code = "import sam.training.loop, sam.runs.run, models, data; print(data.__file__)"
    assert output(python, "-c", code, folder=clone.parent / "empty").strip() == str(clone / "data/__init__.py")
    composed = output(python, str(clone / "train.py"), "--cfg", "job", "optimizer=xsam", folder=clone.parent / "empty")
    assert "method: xsam" in composed
