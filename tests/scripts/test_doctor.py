"""The doctor: what it finds here, and what it says of an installation broken on purpose."""

import os
import subprocess
import sys
from pathlib import Path

DOCTOR = Path(__file__).resolve().parents[2] / "scripts" / "doctor.py"


def doctor(folder: Path, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    """(exit status, lines), run in `folder` without this machine's W&B settings; what lies in `folder`/fake is found first."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    clean |= {"HOME": str(folder), "PATH": str(folder / "fake"), "PYTHONPATH": str(folder / "fake"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(DOCTOR), *arguments]
    done = subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=300)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def fake(folder: Path, name: str, content: str) -> None:
    path = folder / "fake" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)


def cure_of(lines: list[str], start: str) -> str:
    """The line below the one that starts so."""
    (index,) = [k for k, line in enumerate(lines) if line.startswith(start)]
    return lines[index + 1]


def test_a_sound_installation(tmp_path: Path) -> None:
    for file in ("cifar-10-batches-py/data_batch_1", "cifar-100-python/meta"):
        (tmp_path / "images" / file).parent.mkdir(parents=True)
        (tmp_path / "images" / file).touch()
    code, lines = doctor(tmp_path, "root=images", WANDB_API_KEY="local-" + "a" * 40)
    assert code == 0 and lines[-1] == "`make demo` should work." and len(lines) <= 26  # one screen
    for start in (
        "ok    torch 2.13.0",
        "ok    numpy ",
        "ok    cifar100 in images",
        "ok    W&B: credentials found",
        "ok    Python 3",
        "ok    disk: ",
    ):
        assert any(line.startswith(start) for line in lines), (start, lines)
    assert cure_of(lines, "note  cifar10 is not in images").endswith(f"{DOCTOR.parent / 'prepare_data.py'} dataset=cifar10 root=images")
    assert any(line.startswith("ok    training: digits-wrn-10-1-sam") and "finished, test accuracy" in line for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".cache") == ["images"]  # nothing is left behind


# Packages whose metadata are hidden, as if they had never been installed; and one of another version.
HIDDEN = """
from importlib import metadata
find = metadata.distributions
class Old: version = "4.0"
def distributions(**context):
    hidden = {"scipy": [], "timm": [], "tqdm": [Old]}
    return hidden[context["name"]] if context.get("name") in hidden else find(**context)
metadata.distributions = distributions
"""


def test_what_is_missing_is_bad_or_a_note_with_its_cure(tmp_path: Path) -> None:
    fake(tmp_path, "sitecustomize.py", HIDDEN)
    fake(tmp_path, "torchvision/version.py", "")
    fake(tmp_path, "torchvision/__init__.py", "raise RuntimeError('operator torchvision::nms does not exist')")
    fake(tmp_path, "wandb.py", "raise ImportError('no wandb')")
    fake(tmp_path, "sklearn.py", "raise ImportError('no sklearn')")
    fake(tmp_path, "nvidia-smi", "")
    code, lines = doctor(tmp_path)
    for start, cure in (
        ("BAD   scipy is not installed (tested: >=1.11)", "pip install -r"),
        ("note  timm is not installed (tested: ==", "pip install -r"),
        ("note  tqdm 4.0 (tested: >=4.66)", "pip install -r"),
        ("note  images: RuntimeError: operator torchvision::nms does not exist", "pip install -r"),
        ("note  tracking: ImportError: no wandb", "pip install -r"),
        ("BAD   training: ", "pip install -r"),  # it has been tried
        ("note  GPU: torch 2.13.0", "nvidia-smi"),
    ):
        assert cure in cure_of(lines, start)
    assert code == 1 and lines[-1] == "`make demo` cannot work: cure what is BAD."


def test_a_torch_that_cannot_be_imported_is_bad(tmp_path: Path) -> None:
    fake(tmp_path, "torch.py", "raise OSError('libtorch_cpu.so: no such file')")
    code, lines = doctor(tmp_path)
    assert code == 1 and "pip install -r" in cure_of(lines, "BAD   training: OSError: libtorch_cpu.so: no such file")
