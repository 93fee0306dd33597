"""What is proved about SAM near minimisers (Wen, Ma & Li 2023), shown: on toys, and on small networks of which all is known exactly.

    python scripts/theory.py experiment=wen_toy
    python scripts/theory.py experiment=wen_network inputs=gaussian samples=8 out=runs/theory/gaussian   # any plain key of conf/theory
    python scripts/theory.py experiment=wen_network part=0.01 starts=2 out=/tmp/short                    # a hundredth of the steps
    python scripts/theory.py experiment=xsam_direction                                  # trains, measures and draws
    python scripts/theory.py experiment=rounding epochs=1 'sharpness.rho=[0.02]'        # words of train.py, of evaluate_sharpness.py

out      folder of CSV files and figures (runs/theory/EXPERIMENT)
workers  processes (2)

The documents conf/theory/EXPERIMENT.yaml say what is claimed, what it costs, and what would confirm or refute it. docs/theory.md explains.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from arguments import ROOT, parse, script

import data
from sam.core.files import write_atomic
from sam.report.drawing import files
from sam.runs.progress import Progress
from sam.schema import from_dict
from sam.text import csv_text
from sam.theory import figures, limits, network, toys
from sam.theory.settings import NetworkConfig, TheoryConfig

EXPERIMENTS: dict[str, Any] = {"wen_toy": TheoryConfig, "wen_network": NetworkConfig}
TRAINED = {"xsam_direction": ("kept=true",), "rounding": ()}  # experiment of train.py -> words for evaluate_sharpness.py
Rows = Sequence[Mapping[str, Any]]


def trained(name: str, words: Sequence[str]) -> int:
    """Train an experiment and measure it; the exit code of what failed, or 0."""
    measuring = [word for word in words if word.startswith("sharpness.")]
    folder = next((word for word in words if word.startswith("runs_dir=")), f"runs_dir=runs/{name}")
    train = ["train.py", "-m", f"experiment={name}", *(word for word in words if word not in measuring)]
    steps = (train, ["evaluate_sharpness.py", folder, f"notions={name}", *TRAINED[name], *measuring])
    return next((code for step in steps if (code := subprocess.call([sys.executable, str(ROOT / step[0]), *step[1:]]))), 0)


def work(config: Any, job: str, seed: int) -> list[Any]:
    """One job, on one thread: the walk of an arm, or a table."""
    torch.set_num_threads(1)
    if job not in config.arms:
        return toys.cycles() if job == "cycles" else limits.table()
    return network.branch(config, job, seed) if isinstance(config, NetworkConfig) else toys.toy_trajectory(config, job)


def done(config: Any, workers: int) -> dict[tuple[str, int], list[Any]]:
    """All jobs by (name, starting point), `workers` at a time."""
    starts = range(config.starts) if isinstance(config, NetworkConfig) else [0]
    tables = ["limits", "cycles"] * (not isinstance(config, NetworkConfig))
    jobs = sorted(((name, seed) for name in (*config.arms, *tables) for seed in starts), key=lambda job: job[0] not in config.arms)
    progress, found = Progress(len(jobs), "theory"), {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:  # it starts no process until it is used
        results = (map if workers == 1 else pool.map)(partial(work, config), *zip(*jobs, strict=True))
        for job, rows in zip(jobs, results, strict=True):
            found[job] = rows
            progress.advance(1)
    return found


@script
def main(arguments: list[str]) -> int:
    given, _ = parse({"experiment": (*EXPERIMENTS, *TRAINED)}, [a for a in arguments if a.startswith("experiment=")])
    name = given["experiment"]
    if name in TRAINED:
        return trained(name, [a for a in arguments if not a.startswith("experiment=")])
    document = yaml.safe_load((ROOT / "conf" / "theory" / f"{name}.yaml").read_text(encoding="utf-8"))
    keys = {key: value for key, value in document.items() if key != "arms"} | {"part": 1.0, "out": f"runs/theory/{name}", "workers": 2}
    values, _ = parse({"experiment": tuple(EXPERIMENTS), **keys}, arguments)
    out, workers, _ = (values.pop(key) for key in ("out", "workers", "experiment"))
    config = from_dict(EXPERIMENTS[name], document | values)
    data.usable_folder(out, "out")
    folder = Path(out)
    found = done(config, workers)
    tables: dict[str, Rows] = {job: rows for (job, _), rows in found.items() if job not in config.arms}
    walks = {job: rows for job, rows in found.items() if job[0] in config.arms}
    tables["trajectories"] = [{"arm": arm, "start": seed, **row} for (arm, seed), rows in walks.items() for row in rows]
    panels = figures.of_network(config, walks) if isinstance(config, NetworkConfig) else figures.of_toy(walks)
    if isinstance(config, NetworkConfig):
        tables |= {"effects": figures.effects(walks), "contrasts": figures.contrasts(walks)}
    write = lambda file, content: write_atomic(folder / file, content)
    for table, rows in tables.items():
        write(f"{table}.csv", csv_text(rows))
    for file, content in files(panels, folder):
        write(file, content) if content is not None else (folder / file).unlink()
    ends = [{"arm": arm, "start": seed, **rows[-1]} for (arm, seed), rows in walks.items()]
    for row in tables.get("contrasts") or ends:
        print(*(f"{key} {value:.4g}  " if isinstance(value, float) else f"{value}  " for key, value in row.items()), sep="")
    print(f"Written: {folder}")
    return 0
