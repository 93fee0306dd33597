"""The doctor: what it finds here, and what it says of an installation broken on purpose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCTOR = Path(__file__).resolve().parents[2] / "scripts" / "doctor.py"


def doctor(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it in `folder`, without this machine's W&B settings and programs; modules and programs in `folder`/fake are found first."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    clean |= {"HOME": str(folder), "PATH": str(folder / "fake"), "PYTHONPATH": str(folder / "fake"), **environment}
    command = [sys.executable, str(DOCTOR), *arguments]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=120)


def fake(folder: Path, name: str, content: str) -> None:
    """A module, or a program that prints `content`."""
    path = folder / "fake" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if name.endswith(".py") else f"#!/bin/sh\necho '{content}'\n")
    path.chmod(0o755)


def test_a_sound_installation(tmp_path: Path) -> None:
    for name, files in (("cifar-10-batches-py", ("data_batch_1", "test_batch")), ("cifar-100-python", ("train", "test", "meta"))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "images" / name / file).touch()
    done = doctor(tmp_path, "root=images", WANDB_API_KEY="local-" + "a" * 40)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("`make demo` should work.\n") and not done.stderr
    assert len(done.stdout.splitlines()) <= 24  # one screen
    for line in (
        "ok    torch 2.13.0",
        "ok    torchvision can be imported beside this torch",
        "note  cifar10 is not in",  # four of its files are missing
        f"-> {sys.executable} {DOCTOR.parent / 'prepare_data.py'} dataset=cifar10 root=images",
        f"ok    cifar100 in {tmp_path / 'images'}",
        "ok    W&B: credentials found",
        "ok    SLURM: not on this machine",
    ):
        assert line in done.stdout, (line, done.stdout)


def test_what_only_some_runs_need_is_a_note_with_its_cure(tmp_path: Path) -> None:
    fake(tmp_path, "torchvision/version.py", "")
    fake(tmp_path, "torchvision/__init__.py", "raise RuntimeError('operator torchvision::nms does not exist')")
    fake(tmp_path, "wandb.py", "raise ImportError('no wandb')")
    fake(tmp_path, "sbatch", "")
    fake(tmp_path, "nvidia-smi", "535.54.03")
    done = doctor(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    for wrong, cure in (
        ("note  torchvision cannot be imported (RuntimeError: operator torchvision::nms does not exist)", "pip install -r"),
        ("note  W&B cannot be used (ImportError: no wandb)", "pip install -r"),
        ("note  SLURM: squeue, scancel, sinfo, sacct not on the PATH", "apt-get install slurm-client"),
        ("note  GPU: driver 535.54.03 is", "torch==2.13.0 torchvision==0.28.0"),
    ):
        (index,) = [k for k, line in enumerate(lines) if line.startswith(wrong)]
        assert cure in lines[index + 1]
    assert "W&B: no credentials" not in done.stdout


# A package whose metadata is hidden, as if it had never been installed.
WITHOUT_SCIPY = """
from importlib import metadata
find = metadata.version
def version(name):
    if name == "scipy":
        raise metadata.PackageNotFoundError(name)
    return find(name)
metadata.version = version
"""


@pytest.mark.parametrize(
    ("module", "content", "sentence"),
    [
        ("torch.py", "raise OSError('libtorch_cpu.so: no such file')", "BAD   torch cannot be imported (OSError: libtorch_cpu.so"),
        ("sitecustomize.py", WITHOUT_SCIPY, "BAD   scipy is not installed (1.11 or newer)"),
    ],
    ids=["torch", "scipy"],
)
def test_what_every_run_needs_is_bad(tmp_path: Path, module: str, content: str, sentence: str) -> None:
    fake(tmp_path, module, content)
    done = doctor(tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (index,) = [k for k, line in enumerate(lines) if line.startswith(sentence)]
    assert "pip install -r" in lines[index + 1]
    assert "cannot work: cure what is BAD (1)" in done.stdout


def test_an_unknown_argument_is_refused(tmp_path: Path) -> None:
    done = doctor(tmp_path, "roots=images")
    assert done.returncode == 2 and done.stderr == "error: roots=images: unknown argument; known here: root=FOLDER.\n"
