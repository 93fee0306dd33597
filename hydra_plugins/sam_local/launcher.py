"""A sweep on this machine, several runs at a time: small networks leave most of a machine idle.

    python train.py -m experiment=demo hydra/launcher=local hydra.launcher.processes=4

Each process trains one run after the other; the progress is one for all. A run that fails keeps no other from running, and the sweep then
ends with exit code 1. On a GPU the processes share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """`hydra/launcher=local`. processes: runs at the same time."""

    def __init__(self, processes: int = 2) -> None:
        self.processes = processes

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from sam.runs import sweep
        from sam.runs.distributed import launched
        from sam.runs.run import run
        from sam.runs.workers import run_all
        from sam.text import printable

        if self.config.hydra.job.name != "train":
            sweep.refuse("hydra/launcher=local: trains only; use hydra/launcher=slurm or basic for other commands.")
        if self.processes < 1:
            sweep.refuse(f"hydra.launcher.processes={self.processes}: must be a whole number >= 1.")
        if launched().size > 1:
            sweep.refuse(
                f"hydra/launcher=local: {launched().size} processes were started for each run, by torchrun or srun, and this one "
                "would start runs beside each other in every one of them; leave it out, or start one process."
            )
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)  # Hydra writes its own record of the sweep there
        plans = [sweep.checked(overrides, self.config) for overrides in job_overrides]
        chosen = sweep.unfinished(plans)
        problems = zip(chosen, run_all(run, [plans[i] for i in chosen], self.processes), strict=True)
        # Of an error of ours the whole traceback.
        return sweep.results(job_overrides, {i: ": " + "\n".join(map(printable, text.splitlines())) for i, text in problems if text})


@dataclass
class LocalConf:
    _target_: str = f"{__name__}.{LocalLauncher.__name__}"
    processes: int = 2


ConfigStore.instance().store(group="hydra/launcher", name="sam_local", node=LocalConf(), provider="sam_local")
