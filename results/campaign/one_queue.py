"""Train the runs of several sweeps in one queue, seed by seed, the costliest first, so that a machine with many cores, or a GPU that they
share, never waits for a sweep's last run. A line of standard input holds the arguments of one `train.py -m`; what is finished is skipped.

    PROCESSES=15 bash results/campaign/campaign.sh stage3      # is the one that calls it
    CUDA_GRAPHS=1 PROCESSES=15 bash results/campaign/campaign.sh stage3     # every step of a run is one launch
"""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sam.runs import progress, sweep
from sam.runs.run import run
from sam.runs.workers import run_all
from sam.settings import TrainConfig


def run_graphed(config: TrainConfig) -> None:
    """`run` with the steps of `cuda_graph=true`: the digits of eager steps, so that the run keeps the identity of one without that key."""
    from sam.training import graphs, loop

    def steps_for(config: TrainConfig, *parts: Any) -> graphs.Steps:
        return graphs.steps_for(replace(config, cuda_graph=True), *parts)

    loop.steps_for = steps_for  # type: ignore[assignment]  # takes the same arguments
    run(config)


def main(processes: int) -> int:
    plans = [config for line in sys.stdin if line.strip() for _, config in sweep.planned(shlex.split(line))]
    costs = sweep.check(plans)
    todo = sorted(sweep.unfinished(plans), key=lambda i: (plans[i].seed, -costs[i].backwards))
    print(f"{len(plans)} runs, {len(todo)} to do", flush=True)
    progress.share(progress.Progress(sum(costs[i].backwards for i in todo), "queue"))
    train = run_graphed if os.environ.get("CUDA_GRAPHS") else run
    problems = [text for text in run_all(train, [plans[i] for i in todo], processes) if text]
    progress.end_sweep(whole=not problems)
    print("\n".join(problems), file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
