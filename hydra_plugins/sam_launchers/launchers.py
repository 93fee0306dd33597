"""Launchers of sweeps: several runs at a time on this machine, or one SLURM job array. Hydra finds plugins only below `hydra_plugins`, a
namespace package: no __init__.py may lie beside this folder. docs/sweeps.md and docs/cluster.md show their use.
"""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf, SlurmQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[2]
REQUEUE_ME = 75  # exit code of a run that saved its state and wants to be started again
QUEUE_EVERY = 15.0  # seconds between two looks at the queue

Overrides = Sequence[str]


class LocalLauncher(Launcher):
    """`hydra/launcher=local`: `processes` workers, each training one run after the other (on a GPU they share it). A run that fails
    keeps no other from running, and the sweep then ends with exit code 1."""

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
        plans = list(sweep.compose(job_overrides, self.config))
        chosen = sweep.unfinished(plans)
        problems = zip(chosen, run_all(run, [plans[i] for i in chosen], self.processes), strict=True)
        # Of an error of ours the whole traceback.
        return sweep.results(job_overrides, {i: ": " + "\n".join(map(printable, text.splitlines())) for i, text in problems if text})


class SamSlurmLauncher(SlurmLauncher):
    """`hydra/launcher=slurm`: one SLURM job array, through submitit. Its keys are those of `SlurmQueueConf`, and `wait`. Beyond
    hydra-submitit-launcher: a run that fails is FAILED for SLURM too, with its traceback in its own log; the others are still collected;
    what is finished is not submitted; tasks find this repository; a run that saved and left (exit code 75) is requeued."""

    def __init__(self, wait: bool = True, **params: Any) -> None:
        super().__init__(**params)
        self.wait = wait

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """One run. Raises what the run raised: only then does submitit end the task with an exit code other than 0."""
        from submitit import JobEnvironment

        from sam.registry import load_plugins

        load_plugins()
        preempted = getattr(signal, "SIG" + JobEnvironment.USR_SIG)
        requeue = signal.getsignal(preempted)  # submitit's handler; a run puts its own in its place
        try:
            outcome = super().__call__(*args, **kwargs)
        except SystemExit as leaving:
            if leaving.code == REQUEUE_ME and callable(requeue):
                state = _queue("--jobs", JobEnvironment().job_id, "--format=%T")
                if state in (["RUNNING"], None):  # scancel says SIGTERM too; a run that saved because of it must not come back
                    requeue(preempted, None)  # stores the task for its next start, requeues the job and leaves
            if leaving.code in (REQUEUE_ME, -1):  # -1: submitit's own way out of a task that it has requeued
                raise
            raise RuntimeError(f"the run left with exit code {leaving.code}") from leaving
        _ = outcome.return_value  # raises if it failed
        return outcome

    def launch(self, job_overrides: Sequence[Overrides], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit what is unfinished as one array, and (unless `wait` is false) collect it. Hydra ends with exit code 1 if a run failed."""
        from submitit.core.utils import FailedSubmissionError

        from sam.runs import sweep
        from sam.text import sentence

        assert self.config is not None
        delay, limit = self.params["signal_delay_s"], 60 * self.params["timeout_min"]
        if delay >= limit:
            sweep.refuse(
                f"hydra.launcher.signal_delay_s={delay}: must be shorter than the time limit, hydra.launcher.timeout_min="
                f"{self.params['timeout_min']} ({limit} s), or every run would be told to leave as soon as it starts.",
                undone="submitted",
            )
        chosen = list(range(len(job_overrides)))
        if self.config.hydra.job.name == "train":  # what is unfinished, each identity once
            chosen = sweep.unfinished(list(sweep.compose(job_overrides, self.config)))
        if not chosen:
            print("every run is finished already: nothing was submitted")
            return sweep.results(job_overrides, {})
        try:
            jobs = self._submit([job_overrides[i] for i in chosen], initial_job_idx)
        except FailedSubmissionError as error:
            sweep.refuse(f"sbatch refused the sweep: {error}", undone="submitted")
        array = jobs[0].job_id.split("_")[0]
        logs = Path(str(self.params["submitit_folder"])).parent
        print(f"submitted job {array}: {len(jobs)} of {len(job_overrides)} runs; logs below {logs}/{array}*", flush=True)
        failures = {}
        if self.wait:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # train.py's own would leave without a word on the jobs
            try:
                failures = _collect(jobs)
            except KeyboardInterrupt:
                print(f"no longer waiting; the submitted runs go on (scancel {array} would end them)", file=sys.stderr)
                raise SystemExit(130) from None
        named = {i: job for i, job in zip(chosen, jobs, strict=True) if job.job_id in failures}  # the traceback stands in the run's log
        how = {i: f" (job {job.job_id}): {sentence(failures[job.job_id])}; log: {job.paths.stdout}" for i, job in named.items()}
        results = sweep.results(job_overrides, how)
        if failures:
            print(f"{len(failures)} of {len(jobs)} runs failed; the same command runs them again, and only them.", file=sys.stderr)
        return results

    def _submit(self, points: Sequence[Overrides], first_index: int) -> list[Any]:
        import submitit

        assert self.config is not None
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        params = dict(self.params)
        folder, most = params.pop("submitit_folder"), params.pop("max_num_timeout")
        executor = submitit.AutoExecutor(cluster="slurm", folder=folder, slurm_max_num_timeout=most)
        # A task starts with the launching folder on its path, where neither this package nor sam need be.
        params["setup"] = [f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}", *(params["setup"] or [])]
        shared = BaseQueueConf.__dataclass_fields__
        executor.update_parameters(**{key if key in shared else f"slurm_{key}": value for key, value in params.items()})
        numbers, same = range(first_index, first_index + len(points)), len(points) * [Singleton.get_state()]
        names = [f"job_id_for_{number}" for number in numbers]
        return list(executor.map_array(self, map(list, points), len(points) * ["hydra.sweep.dir"], numbers, names, same))


def _queue(*options: str) -> list[str] | None:
    """Lines that squeue prints about this user's jobs; None if it could not tell."""
    listed = subprocess.run(["squeue", "--noheader", "--array", *options], capture_output=True, text=True)
    return listed.stdout.split() if listed.returncode == 0 else None


def _collect(jobs: Sequence[Any]) -> dict[str, str]:
    """Wait for every job; returns the error of each that failed, by job id. A job is over when its result lies there, or when it has left
    the queue without one. The queue is asked, not the accounting, which many clusters lack."""
    failures: dict[str, str] = {}
    waiting, missing = {job.job_id: job for job in jobs}, set[str]()
    next_look = time.monotonic() + QUEUE_EVERY
    while waiting:
        for name in [name for name, job in waiting.items() if job.paths.result_pickle.exists()]:
            if error := waiting.pop(name).exception():  # which quotes a traceback, whose last line names the exception
                failures[name] = str(error).split("----------------------")[:2][-1].strip().splitlines()[-1]
        if time.monotonic() >= next_look:
            queued = _queue("--me", "--format=%i")
            gone = set() if queued is None else set(waiting) - set(queued)
            for name in gone & missing:  # twice in a row: a result needs a moment to be seen on a shared disk
                failures[name] = "left the queue without a result (cancelled or killed)"
                del waiting[name]
            missing, next_look = gone, time.monotonic() + QUEUE_EVERY
        time.sleep(1)
    return failures


@dataclass
class LocalConf:
    _target_: str = f"{__name__}.{LocalLauncher.__name__}"
    processes: int = 2


@dataclass
class SamSlurmConf(SlurmQueueConf):
    _target_: str = f"{__name__}.{SamSlurmLauncher.__name__}"
    wait: bool = True


for name, node in (("sam_local", LocalConf()), ("sam_slurm", SamSlurmConf())):
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider=name)
