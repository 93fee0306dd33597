"""Train one configuration, or a sweep of them.

    python train.py                                           # our reading of the paper's run: WRN-28-10, CIFAR-10, SAM, rho 0.05
    python train.py dataset=digits model=wrn_10_1 epochs=2    # a minute on a laptop
    python train.py -m optimizer=sgd,sam,rand_sam,xsam 'seed=range(3)' dataset=cifar100
    python train.py -m experiment=table2                      # the whole grid of a table; also table3, demo
    torchrun --nproc-per-node=4 train.py                      # one run on four GPUs

A run is its configuration: the same command again continues an unfinished run and skips a finished one. A run's folder below `runs_dir`
holds run.json, metrics.csv and checkpoint.pt; `evaluate_sharpness.py` measures them and makes the tables.
"""

import shlex
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sam.runs.distributed import launched
from sam.runs.hydra_schema import resolve, start
from sam.runs.signals import Preempted, leave_at_once
from sam.settings import TrainConfig
from sam.text import sentence
from sam.training.rows import reached


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> None:
    info, replicated = HydraConfig.get(), launched().size > 1
    single = info.mode == RunMode.RUN
    if single and info.sweeper.params:  # an experiment's grid: without -m, Hydra would run one of its points and say nothing
        command = shlex.join(["python", "train.py", "-m", *sys.argv[1:]])
        print(f"error: experiment={info.runtime.choices['experiment']} is a grid of runs; start it with: {command}", file=sys.stderr)
        raise SystemExit(2)
    try:
        config = resolve(TrainConfig, composed)
        from sam.runs import ending

        if single:
            ending.begin([config], given=info.overrides.task)
        from sam.runs.run import run  # torch is imported only now: --help and --cfg stay quick

        record = run(config)
    except Preempted as stop:
        if not stop.told:
            print(f"{stop}.", file=sys.stderr)
        raise
    except ValueError as error:  # bad settings, bad data, a checkpoint that does not fit: one sentence
        print(f"error: {sentence(error)}", file=sys.stderr)
        if single or replicated:
            raise SystemExit(2) from error
        raise
    except KeyboardInterrupt:
        print("interrupted: what was recorded is kept; the same command continues from the last checkpoint.", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception:
        if not replicated:
            raise
        traceback.print_exc()  # Hydra would go on to a sweep's next run; the others notice that this process is gone
        raise SystemExit(1) from None
    if single and not launched().rank:
        measured_on, accuracy, loss = reached(record["final"])
        outcome = f"diverged in epoch {record['diverged_epoch']}" if record["status"] == "diverged" else "finished"
        print(f"{record['name']}: {outcome}, {measured_on} accuracy {accuracy:.2f}%, {measured_on} loss {loss:.4f}")


if __name__ == "__main__":
    if launched().size == 1:  # a process that waits for others in torch's code would not hear
        leave_at_once()
    start(main)
