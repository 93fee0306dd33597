"""Measure every finished run below a folder, and print the tables.

    python evaluate_sharpness.py runs_dir=runs/demo                                # every table
    python evaluate_sharpness.py runs_dir=runs/demo table=table2                   # one of them
    python evaluate_sharpness.py runs_dir=runs/demo 'sharpness.rho=[0.05,0.5]'     # sharpness at two radii

Rows are stored beside their run and reused if nothing changed. Tables are also written, as Markdown, CSV, LaTeX and report.html, with a
figure, below `runs_dir`/tables. Exit code 1: some run could not be measured; it is named, and everything else is there.
"""

import shutil
import sys

import hydra
from omegaconf import DictConfig

from sam.config import EvaluateConfig
from sam.training.hydra_schema import register, resolve

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(composed: DictConfig) -> None:
    try:
        config = resolve(EvaluateConfig, composed)
        from sam.evaluation.evaluate import evaluate  # torch is imported only now: --help and --cfg stay quick
        from sam.results import render

        evaluation = evaluate(config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("interrupted: the rows measured so far are kept beside their runs.", file=sys.stderr)
        raise SystemExit(130) from None
    print(render.terminal(evaluation.blocks, width=max(100, shutil.get_terminal_size((140, 40)).columns)))
    print("Written: " + ", ".join(map(str, evaluation.files)))
    for problem in evaluation.problems:
        print(f"warning: {problem}", file=sys.stderr)
    if evaluation.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
