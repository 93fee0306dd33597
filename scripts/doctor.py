"""What of this installation works, what does not, and the command that cures it.

    python scripts/doctor.py                    # one line per thing; exit status 1 if `make demo` cannot work
    python scripts/doctor.py root=/data/images  # look for CIFAR there instead of in ./datasets

`ok`: fine. `note`: missing or different, and needed by some runs only. `BAD`: needed by every run.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

PYTHON = (3, 11)
OPTIONAL = ("torchvision", "wandb", "timm")  # the demo runs without them
ONE_LINE_EACH = ("torch", "torchvision", "hydra-core", "omegaconf", "wandb", "timm")
INSTALL = f"{sys.executable} -m pip install -r {ROOT / 'requirements.txt'}"
OLDEST_DRIVER = 580  # of CUDA 13, which torch's registry build brings
CIFAR = {
    "cifar10": ("cifar-10-batches-py", (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta")),
    "cifar100": ("cifar-100-python", ("train", "test", "meta")),
}
SLURM = ("sbatch", "squeue", "scancel", "sinfo", "sacct")
LOW, EMPTY = 5e9, 2e8  # bytes of free disk: a few large checkpoints; the demo


@dataclass(frozen=True)
class Finding:
    """state: ok | note | BAD; cure: a command, or empty."""

    state: str
    text: str
    cure: str = ""


def python() -> Finding:
    found = f"python {platform.python_version()}"
    wanted = ".".join(map(str, PYTHON))
    if sys.version_info < PYTHON:
        return Finding("BAD", f"{found}: {wanted} or newer is needed", f"make setup PYTHON=python{wanted}")
    return Finding("ok", f"{found} ({sys.executable})")


def requirements() -> list[tuple[str, str, str]]:
    """(package, == or >=, version) of every line of requirements.txt."""
    return re.findall(r"^([\w-]+)(==|>=)([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)


def packages() -> Iterator[Finding]:
    """A line for each package whose version matters most, and one for the rest."""
    fine = []
    for name, relation, wanted in requirements():
        finding = _package(name, relation, wanted)
        if name in ONE_LINE_EACH or finding.state != "ok":
            yield finding
        else:
            fine.append(finding.text.split(" (")[0])
    if fine:
        yield Finding("ok", ", ".join(fine))


def _package(name: str, relation: str, wanted: str) -> Finding:
    pin = f"pinned {wanted}" if relation == "==" else f"{wanted} or newer"
    missing = "note" if name in OPTIONAL else "BAD"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(missing, f"{name} is not installed ({pin})", INSTALL)
    have, want = _numbers(found), _numbers(wanted)
    if have == want or (relation == ">=" and have > want):
        return Finding("ok", f"{name} {found} ({pin})")
    return Finding("note", f"{name} {found}, but {pin}: not the tested set", INSTALL)


def _numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cpu as (2, 13, 0): the build is another matter."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0]))


def torch() -> Finding:
    """torch itself, the GPU and its driver."""
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken installation raises OSError, RuntimeError, AttributeError, ...
        return Finding("BAD", f"torch cannot be imported ({_first_line(error)})", f"{INSTALL} --force-reinstall")
    driver = _driver()
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
        return Finding("ok", f"GPU: {names}, driver {driver or 'unknown'}, CUDA {torch.version.cuda or torch.version.hip}")
    if driver is None:
        return Finding("ok", "GPU: none found; runs use the CPU")
    pair = " ".join(f"{name}=={version}" for name, _, version in requirements() if name in ("torch", "torchvision"))
    if torch.version.cuda is None:
        cure = f"{sys.executable} -m pip install --force-reinstall {pair}"
        return Finding("note", f"GPU: driver {driver} is there, but this torch ({torch.__version__}) is built for the CPU", cure)
    if _numbers(driver) < (OLDEST_DRIVER,):
        cure = f"install driver {OLDEST_DRIVER} or newer, or {pair} built for an older CUDA"
        return Finding("note", f"GPU: driver {driver} is too old for CUDA {torch.version.cuda}", cure)
    return Finding(
        "note", f"GPU: driver {driver} is there, but torch sees no GPU", "nvidia-smi; echo CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES"
    )


def _driver() -> str | None:
    """The NVIDIA driver's version; None without one."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def torchvision() -> Finding:
    """Whether it can be imported beside this torch: needed to download CIFAR, for AutoAugment and by timm."""
    try:
        importlib.import_module("data.torchvision_guard").ensure()
        importlib.import_module("torchvision")
    except Exception as error:  # RuntimeError for a pair that does not fit, ImportError for a missing one
        return Finding("note", f"torchvision cannot be imported ({_first_line(error)})", f"{INSTALL} --force-reinstall")
    return Finding("ok", "torchvision can be imported beside this torch")


def cifar(root: str) -> Iterator[Finding]:
    """Whether the files are there (prepare_data.py checks their MD5 sums)."""
    for name, (folder, files) in CIFAR.items():
        place = Path(root).expanduser().resolve() / folder
        if all((place / file).is_file() for file in files):
            yield Finding("ok", f"{name} in {place}")
        else:
            cure = f"{sys.executable} {ROOT / 'scripts' / 'prepare_data.py'} dataset={name} root={root}"
            yield Finding("note", f"{name} is not in {place}; a run with it will download it", cure)


def tracking() -> Finding:
    """What `tracking=wandb` would do here."""
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        wandb = importlib.import_module("wandb")
        credentials = wandb.login(prompt=False, verify=False)
    except Exception as error:  # the same rule as in training: no problem of tracking is a problem of a run
        return Finding("note", f"W&B cannot be used ({_first_line(error)})", INSTALL)
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return Finding("ok", f"W&B: WANDB_MODE={mode}, {'with' if credentials else 'without'} credentials")
    if credentials:
        return Finding("ok", "W&B: credentials found; tracking=wandb logs online")
    return Finding("note", "W&B: no credentials; tracking=wandb logs offline", f"{sys.executable} -m wandb login")


def slurm() -> Finding:
    missing = [command for command in SLURM if shutil.which(command) is None]
    if not missing:
        return Finding("ok", f"SLURM: {', '.join(SLURM)}")
    if len(missing) == len(SLURM):
        return Finding("ok", "SLURM: not on this machine; runs start here")
    return Finding("note", f"SLURM: {', '.join(missing)} not on the PATH", "apt-get install slurm-client")


def disk() -> Finding:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    if not os.access(here, os.W_OK):
        return Finding("BAD", f"{here}: nothing can be written here", f"cd {ROOT}")
    text = f"disk: {free / 1e9:.1f} GB free in {here}"
    if free < LOW:
        return Finding("BAD" if free < EMPTY else "note", text, f"du -xh --max-depth=2 {here} | sort -h | tail")
    return Finding("ok", text)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    root = "datasets"
    for argument in arguments:
        if not argument.startswith("root=") or argument == "root=":
            print(f"error: {argument}: unknown argument; known here: root=FOLDER.", file=sys.stderr)
            return 2
        root = argument.removeprefix("root=")
    findings = [python(), *packages(), torch(), torchvision(), *cifar(root), tracking(), slurm(), disk()]
    for finding in findings:
        print(f"{finding.state:<5} {finding.text}" + (f"\n      -> {finding.cure}" if finding.cure else ""))
    bad = sum(finding.state == "BAD" for finding in findings)
    print(f"\n`make demo` {f'cannot work: cure what is BAD ({bad})' if bad else 'should work'}.")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
