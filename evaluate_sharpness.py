"""Measure every finished run below a folder, and print the tables; or measure one checkpoint, anybody's.

    python evaluate_sharpness.py runs_dir=runs/demo                                # every table
    python evaluate_sharpness.py runs_dir=runs/demo 'sharpness.rho=[0.05,0.5]'     # sharpness at two radii
    python evaluate_sharpness.py checkpoint=weights.pt model=resnet18 dataset=cifar10 'sharpness.notions=[all]'
    python evaluate_sharpness.py checkpoint=weights.safetensors model=timm model.timm_name=resnet18 dataset=cifar100
    python evaluate_sharpness.py runs_dir=runs/table2 parts=8 part=3               # measure an eighth of the runs, without tables

Rows are stored beside their run and reused if nothing changed. The terminal shows the tables in their compact form; all statistics are
written as Markdown, CSV, LaTeX (NAME.tex for a column of a paper, NAME_full.tex for its appendix), figures and report.html, below
`runs_dir`/tables. Exit code 1: some run could not be measured; it is named, and everything else is there.
The parts are for several processes at once (-m 'part=range(8)' with hydra/launcher=slurm: a SLURM array); the tables come after them,
from the plain command.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

import data
from sam.evaluation.settings import EvaluateConfig
from sam.runs.hydra_schema import resolve, start
from sam.runs.signals import Preempted, watching
from sam.text import counted, printable, sentence


def measure(config: EvaluateConfig) -> Sequence[str]:
    """Do what is asked and print it; returns the problems. Raises ValueError: one sentence for the user."""
    if config.out is not None or (config.checkpoint is None and os.path.isdir(config.runs_dir)):  # before hours of measuring, not after
        data.usable_folder(config.out or os.path.join(config.runs_dir, "tables"), "out")
    if config.checkpoint is not None:  # torch is imported only in these branches: --help and --cfg stay quick
        from sam.evaluation.foreign import evaluate_checkpoint
        from sam.sharpness.api import Measurements

        one = evaluate_checkpoint(config)
        print("\n".join(map(printable, [*str(Measurements(one.found)).splitlines(), *one.notes, f"Written: {one.file}"])))
        return ()
    if config.part is not None:
        from sam.evaluation.evaluate import measure_part

        summary, problems = measure_part(config)
        print(summary)
        return problems
    from sam.evaluation.evaluate import evaluate
    from sam.tables import render

    width = max(80, shutil.get_terminal_size().columns)
    evaluation = evaluate(config, lambda blocks: print(render.terminal(blocks, width=width), flush=True))
    if evaluation.commands:
        final = next(file for file in evaluation.files if file.name == "final_runs.sh")
        print(f"Final runs with the picked values, on all training images: bash {printable(shlex.quote(str(final)))}")
    if evaluation.hidden and config.tables:
        print(f"{counted(len(evaluation.hidden), 'run')} in none of these tables; table=sweep shows every run.")
    if evaluation.runs and not any(run.is_finished for run in evaluation.runs):
        print("No run finished: all diverged, and no table of a sweep has a row.")
    report = next(file for file in evaluation.files if file.name == "report.html")
    print(printable(f"Open: {report}"))
    print(printable(f"All statistics: {report.parent} (NAME.md, NAME.csv, NAME_full.tex; for a paper NAME.tex)"))
    return evaluation.problems


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(composed: DictConfig) -> None:
    try:
        with watching():
            problems = measure(resolve(EvaluateConfig, composed))
    except ValueError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from error
    except Preempted:
        print("interrupted: the rows measured so far are kept beside their runs.", file=sys.stderr)
        raise
    for problem in problems:
        print(f"warning: {sentence(problem)}", file=sys.stderr)
    if problems and HydraConfig.get().mode == RunMode.RUN:
        raise SystemExit(1)
    if problems:  # the other parts of a sweep go on
        raise ValueError(f"{counted(len(problems), 'run')} could not be measured")


if __name__ == "__main__":
    start(main)
