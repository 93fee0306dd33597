"""What of this installation works, what does not, and the command that cures it.

    python scripts/doctor.py root=/data/images    # where to look for CIFAR (datasets); exit status 1 if `make demo` cannot work

`ok`: fine. `note`: missing or different, and needed by some runs only. `BAD`: needed by every run.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module, metadata

from arguments import ROOT, parse, script

INSTALL = shlex.join([sys.executable, "-m", "pip", "install", "-r", str(ROOT / "requirements.txt")])
OPTIONAL = ("torchvision", "wandb", "timm", "safetensors")  # the demo runs without them
TINY = "dataset=digits model=wrn_10_1 dataset.train_size=64 batch_size=32 epochs=1 threads=1 device=cpu"


def packages(root: str) -> Iterator[tuple[str, ...]]:
    for name, relation, wanted in re.findall(r"^([\w-]+)(==|>=)([\d.]+)", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE):
        found = next((package.version for package in metadata.distributions(name=name)), "")
        have, want = (tuple(map(int, re.findall(r"\d+", text.split("+")[0]))) for text in (found, wanted))  # 2.13.0+cpu is 2.13.0
        fits = have == want or (relation == ">=" and have > want)
        state = "ok" if fits else "note" if found or name in OPTIONAL else "BAD"
        yield state, f"{name} {found or 'is not installed'} (tested: {relation}{wanted})", *(() if fits else (INSTALL,))


def images(root: str) -> Iterator[tuple[str, ...]]:
    import_module("data.torchvision_guard").ensure()
    yield "ok", f"torchvision {import_module('torchvision').__version__} can be imported beside this torch"
    for name, last in (("cifar10", "cifar-10-batches-py/test_batch"), ("cifar100", "cifar-100-python/meta")):
        cure = shlex.join([sys.executable, str(ROOT / "scripts" / "prepare_data.py"), f"dataset={name}", f"root={root}"])  # checks MD5 sums
        yield ("ok", f"{name} in {root}") if os.path.isfile(f"{root}/{last}") else ("note", f"{name} is not in {root}", cure)


def tracking(root: str) -> Iterator[tuple[str, ...]]:
    os.environ.setdefault("WANDB_SILENT", "true")
    known = import_module("wandb").login(prompt=False, verify=False)  # looks for credentials, costs no network
    yield ("ok", "W&B: credentials found") if known else ("note", "W&B: none; tracking=wandb logs offline", "wandb login")


def training(root: str) -> Iterator[tuple[str, ...]]:
    torch = import_module("torch")
    bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    cpu = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, bf16 {'supported' if bf16 else 'emulated and slow'}"
    yield "ok", f"Python {sys.version.split()[0]} in {sys.prefix}; CPU: {cpu}"
    for k in range(torch.cuda.device_count()):
        yield "ok", f"GPU: {torch.cuda.get_device_name(k)}, CUDA {torch.version.cuda}, bf16 {torch.cuda.is_bf16_supported(False)}"
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        yield "note", f"GPU: torch {torch.__version__} sees none, though nvidia-smi is here", "nvidia-smi; echo $CUDA_VISIBLE_DEVICES"
    yield "ok", f"disk: {shutil.disk_usage('.').free / 1e9:.1f} GB free in {os.getcwd()}"
    with tempfile.TemporaryDirectory(dir=".") as folder:
        done = subprocess.run([sys.executable, ROOT / "train.py", *TINY.split(), f"runs_dir={folder}"], capture_output=True, text=True)
    told = f"training: {done.stderr.strip().splitlines()[-1] if done.returncode else done.stdout.splitlines()[0]}"
    yield ("BAD", told, INSTALL) if done.returncode else ("ok", told)


@script
def main(arguments: list[str]) -> int:
    own, _ = parse({"root": "datasets"}, arguments)
    states = []
    for check, needed in ((packages, "BAD"), (images, "note"), (tracking, "note"), (training, "BAD")):
        try:
            rows = list(check(own["root"]))
        except Exception as error:  # a broken installation raises OSError, RuntimeError, AttributeError, ...
            rows = [(needed, f"{check.__name__}: {type(error).__name__}: {' '.join(str(error).split())[:200]}", INSTALL)]
        for state, text, *cure in rows:
            print(f"{state:<5} {text.strip()}", *cure, sep="\n      -> ")
            states.append(state)
    print("\n`make demo`", "cannot work: cure what is BAD." if "BAD" in states else "should work.")
    return int("BAD" in states)
