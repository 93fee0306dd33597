"""List the runs of a sweep that are still to be done, and print the command that submits them to SLURM.

    python scripts/grid.py experiment=table2                          # the arguments of `train.py -m`
    python scripts/grid.py experiment=table2 throttle=8 max_array=500
    python scripts/grid.py optimizer=sgd,sam 'seed=range(5)' dataset=cifar100 runs_per_task=4
    python scripts/grid.py experiment=table2 replicas=2               # two GPUs for each run
    python scripts/grid.py experiment=table2 sbatch="--partition=gpu --time=8:00:00"   # options of sbatch, as on its command line
    python scripts/grid.py experiment=table2 | bash                   # submit at once
    python scripts/grid.py evaluate runs_dir=runs/table2 parts=8      # the arguments of evaluate_sharpness.py: its runs in eight shares

throttle       tasks of one list that may run at the same time (all)
max_array      tasks in one array, the site's MaxArraySize at most (1000); a longer list is cut into grid-0.txt, grid-1.txt, ...
runs_per_task  runs side by side on one GPU (1)
sbatch         options for the printed command; they win over those of slurm_array.sh

Every point is checked first. Finished runs are left out, and runs with one identity appear once: after a failure the same command lists
what is missing. A list's folder is named by its content, because queued tasks read it by line number, and no later list may take its
place. `evaluate` lists shares of runs, one a task; the tables are made afterwards by `python evaluate_sharpness.py` as usual.
"""

import hashlib
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arguments import ROOT, parse, script
from hydra.types import RunMode

from sam.config import ConfigError
from sam.evaluation.settings import EvaluateConfig
from sam.runs import sweep
from sam.runs.hydra_schema import resolve

OWN = ("--array", "--chdir", "--output", "--wrap", "-a", "-D", "-o", "-")  # set by the printed command itself; the last ends all options


def sbatch_options(text: str) -> list[str]:
    """The words of sbatch=..., split as a shell would. ConfigError for what would not arrive at sbatch as an option."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"sbatch={text}: cannot be taken apart ({error}); quote as in a shell.") from error
    if not text.isprintable():
        raise ConfigError(f"sbatch={text}: must be one line.")
    for before, word in itertools.pairwise(["--x=", *words]):
        if not word.startswith("-") and (before[:1] != "-" or "=" in before):  # sbatch would take it for the script
            raise ConfigError(f"sbatch={text}: {word} is no option, nor the value of one; for example --partition=gpu --time=8:00:00.")
        if word[:2].rstrip("-") in OWN or word.partition("=")[0] in (*OWN, "--"):
            raise ConfigError(f"sbatch={text}: {word} is not to be set here; grid.py sets {', '.join(OWN[:3])} itself.")
    return words


def write(lines: Sequence[str], folder: Path, per_list: int) -> list[tuple[Path, int]]:
    """Write the lists below `folder`, in a folder named by a hash of their content; returns (file, number of lines) of each."""
    own = (folder / hashlib.sha256("\n".join([str(per_list), *lines]).encode()).hexdigest()[:8]).resolve()
    own.mkdir(parents=True, exist_ok=True)
    chunks = [lines[start : start + per_list] for start in range(0, len(lines), per_list)]
    lists = {own / f"grid-{number}.txt": chunk for number, chunk in enumerate(chunks)}
    for path, chunk in lists.items():
        path.write_text("\n".join(chunk) + "\n", encoding="utf-8")
    return [(path, len(chunk)) for path, chunk in lists.items()]


def command(path: Path, length: int, own: dict[str, Any], replicas: int, program: str | None) -> str:
    """The command that submits a list. The tasks run where the sweep was composed, so that relative paths in it keep their meaning."""
    per_task, tasks = own["runs_per_task"], -(-length // own["runs_per_task"])
    throttle = f"%{own['throttle']}" if own["throttle"] else ""
    words = [f"PROGRAM={program}"] * bool(program) + [f"RUNS_PER_TASK={per_task}"] * (per_task > 1)
    words += ["sbatch", f"--array=0-{tasks - 1}{throttle}"]
    words += ["--nodes=1", f"--ntasks={replicas}", f"--gpus-per-node={replicas}"] if replicas > 1 else []
    words += [*own["sbatch"], f"--chdir={Path.cwd()}", f"--output={path.parent}/%A_%a.out"]
    return shlex.join([*words, str(ROOT / "scripts" / "slurm_array.sh"), str(path)])


@script
def main(arguments: list[str]) -> int:
    own, overrides = parse({"throttle": int, "max_array": 1000, "runs_per_task": 1, "sbatch": ""}, arguments, hydra=True)
    program, what, replicas = None, "runs", 1
    own["sbatch"] = sbatch_options(own["sbatch"])  # before anything is written
    if "evaluate" in overrides:
        from sam.evaluation.evaluate import finished  # imports torch

        program, what = "evaluate_sharpness.py", "shares"
        hydra, name, given, options = sweep.opened([word for word in overrides if word != "evaluate"], "evaluate")
        config = resolve(EvaluateConfig, hydra.config_loader.load_configuration(name, [*given, "part=0"], RunMode.RUN))
        finished(config, [])  # or there is nothing to submit
        points = [[*options, *given, f"part={part}"] for part in range(config.parts)]
        lines, runs_dir = list(map(shlex.join, points)), config.runs_dir
    else:
        points, plans = map(list, zip(*sweep.planned(overrides), strict=True))
        sweep.check(plans)
        lines, runs_dir = [shlex.join(points[i]) for i in sweep.unfinished(plans)], plans[0].runs_dir
        replicas, *other = sorted({plan.replicas or 1 for plan in plans})
        if other:
            raise ConfigError(f"replicas={','.join(map(str, [replicas, *other]))}: an array starts as many processes for each of its runs.")
    if replicas > 1 and own["runs_per_task"] > 1:
        raise ConfigError(f"replicas={replicas}, runs_per_task={own['runs_per_task']}: several GPUs for a run, or several runs on a GPU.")
    # Comments and commands, so that the output can be piped to a shell.
    print(f"# {len(points)} {what}, {len(lines)} to do" + ("" if lines else ": nothing to submit"))
    for path, length in write(lines, Path(runs_dir) / ".slurm", own["max_array"] * own["runs_per_task"]) if lines else []:
        print(f"# {path}: {length} {what}")
        print(command(path, length, own, replicas, program))
    return 0
