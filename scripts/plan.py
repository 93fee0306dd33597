"""How many seeds and epochs fit into a number of hours, and which difference that many would detect; prints the command of that grid.

    python scripts/plan.py experiment=rho_sweep hours=8                          # the other arguments are those of `train.py -m`
    python scripts/plan.py experiment=demo hours=0.5 processes=2 spread=0.6      # a guess: standard deviation of paired differences
    python scripts/plan.py experiment=demo hours=0.5 runs=runs/demo              # the spread of finished runs
    python scripts/plan.py experiment=table2 hours=100 rates=rates.json out=grid.txt

hours      for training; measuring comes on top (0.5 minutes for a small network, more for an eigenvalue of a large one)
processes  runs at a time on this machine, each counted as fast as one alone: give it a core and threads=1, or a GPU (1)
spread     standard deviation of a method's test accuracy minus the baseline's, paired by seed, in points
runs       a folder of finished runs to take the spread from: that of every setting minus SGD's (else the first setting's), pooled
rates      a JSON file of the seconds that a pass took: read where it knows a setting on this hardware, and added to where it does not
steps      timed of each setting, after two that are not (8)
tests      comparisons that Holm corrects; the first must pass 5% divided by them (the settings, less the baseline)
out        file for the points of the grid, one command line each, as scripts/slurm_array.sh reads it

Every distinct setting is timed for a few steps; a run is its passes at that rate, a third of a pass for each forward beside them and for
each batch evaluated. A detected difference is the smallest true one that the strictest test of Holm's finds with a power of 80%. Runs
that are finished already are not subtracted.
"""

import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from arguments import parse, script

from sam.config import ConfigError
from sam.core.files import write_atomic
from sam.registry import plugin_arguments
from sam.runs import identity, sweep
from sam.runs.progress import Progress, progress_for
from sam.settings import TrainConfig
from sam.tables.statistics import paired_difference, smallest_detectable
from sam.text import counted, printable
from sam.training import cost

WARM = 2  # steps before the clock counts: the first allocates, and searches
ENOUGH = 5  # seeds that a plan should have before it is given more epochs
LEVEL, POWER = 0.05, 0.8
SHARES = (0.5, 0.25)  # of the planned epochs, from large to small, planned beside all of them


class _Timed(Exception):
    """Enough steps were timed."""


def rate_key(config: TrainConfig) -> str:
    """What decides how long a pass takes: the identity without seed and epochs."""
    return identity.fingerprint({key: value for key, value in identity.identity(config).items() if key not in ("seed", "epochs")})


def seconds_per_pass(config: TrainConfig, steps: int, progress: Progress) -> float:
    """Train a few steps in memory, and return the seconds of a forward and backward over one batch. Evaluations and an epoch's first step
    (in which XSAM searches) do not count."""
    import torch

    import data
    from sam.core.device import number_format, pick_device
    from sam.schema import to_dict
    from sam.training.loop import Trainer

    device = pick_device(config.device)
    with number_format(config.precision, config.threads):
        trainer = Trainer(config, data.load(**to_dict(config.dataset), seed=config.seed), device)
        seen, seconds, passes, began, before = 0, 0.0, 0.0, 0.0, 0.0

        def after_step() -> None:
            nonlocal seen, seconds, passes, began, before
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            now, done = time.perf_counter(), trainer.optimizer.backwards
            seen += 1
            if seen > WARM and (trainer.step > 1 or trainer.steps_per_epoch == 1):
                seconds, passes = seconds + now - began, passes + done - before
            began, before = now, done
            progress.advance(1)
            if seen >= WARM + steps and passes:
                raise _Timed

        with suppress(_Timed):
            while True:
                began = time.perf_counter()
                trainer.run_epoch(lambda _: None, after_step)
    return seconds / passes


def rates(plans: Sequence[TrainConfig], path: str | None, steps: int) -> dict[str, float]:
    """Seconds of a pass by `rate_key`, from the file where it knows them, else timed now and added to it. Raises ConfigError."""
    from sam.core.device import pick_device
    from sam.runs.session import environment

    where = environment(pick_device(plans[0].device))["device"] + f", {plans[0].threads or 'all'} threads"
    known: dict[str, dict[str, float]] = {}
    if path is not None and Path(path).exists():
        try:
            known = {on: {key: float(rate) for key, rate in of.items()} for on, of in json.loads(Path(path).read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ConfigError(f"rates={path}: must be a JSON file that this script wrote ({type(error).__name__}).") from error
    found = known.setdefault(where, {})
    wanted = {key: config for config in plans if (key := rate_key(config)) not in found}
    with progress_for(len(wanted) * (WARM + steps), "timing", quiet=not wanted) as progress:
        for config in wanted.values():
            progress.note(identity.run_name(config, shown=True))
            found[rate_key(config)] = seconds_per_pass(config, steps, progress)
            if path is not None:
                write_atomic(Path(path), json.dumps(known, indent=1) + "\n")
    return found


def seconds_of(config: TrainConfig, per_pass: float) -> float:
    about = cost.check(config)
    spent = cost.cost(config, about)
    images = {"test": about.test_size, "val": about.val_size}
    evaluated = sum(images[split] for epoch in range(1, config.epochs + 1) for split in config.evaluated_after(epoch))
    return per_pass * (spent.backwards + (spent.forwards - spent.backwards + evaluated / config.batch_size) / 3)


def spread_of(runs_dir: str) -> float:
    """Standard deviation, in points, of a setting's test accuracy minus the baseline's, pooled over settings. Raises ConfigError."""
    from sam.evaluation.evaluate import stored_runs
    from sam.evaluation.settings import EvaluateConfig
    from sam.tables.conditions import conditions, grouped

    squares, free = 0.0, 0
    for condition in conditions(stored_runs(EvaluateConfig(runs_dir=runs_dir), [])):
        settings = grouped((run for run in condition.runs if run.is_finished), lambda run: run.setting)
        values = [{run.config.seed: run.measures.get("test_accuracy") for run in runs} for runs in settings.values()]
        plain = [runs[0].config.optimizer.method == "sgd" for runs in settings.values()]
        base = values.pop(plain.index(True) if True in plain else 0) if values else {}
        for difference in (paired_difference(own, base) for own in values):
            if difference.std is not None:
                squares, free = squares + (difference.n - 1) * difference.std**2, free + difference.n - 1
    if not squares:
        raise ConfigError(f"runs={runs_dir}: holds no two settings with two finished seeds in common that vary; give spread=... instead.")
    return math.sqrt(squares / free)


def without(given: Sequence[str], *keys: str) -> list[str]:
    return [word for word in given if word.partition("=")[0] not in keys]


@script
def main(arguments: list[str]) -> int:
    keys = {"hours": float, "processes": 1, "spread": float, "runs": str, "rates": str, "steps": 8, "tests": int, "out": str}
    own, overrides = parse(keys, arguments, hydra=True)
    planned_points = sweep.planned([*without(overrides, "seed"), "seed=0"])
    points = {identity.setting(config): (point, config) for point, config in reversed(planned_points)}
    lines, one = map(list, zip(*reversed(points.values()), strict=True))
    if own["hours"] is None:
        raise ConfigError("hours: is missing; how long may the grid train, for example hours=8.")
    if own["spread"] and own["runs"]:
        raise ConfigError(f"spread={own['spread']:g}, runs={own['runs']}: are two answers to one question; give one of them.")
    spread = spread_of(own["runs"]) if own["runs"] else own["spread"]
    budget, tests = own["hours"] * 3600 * own["processes"], own["tests"] or max(1, len(one) - 1)
    cuts = {1.0: one}
    for share in SHARES if len({config.epochs for config in one}) == 1 else ():
        with suppress(ConfigError):  # no epoch, fewer than those of the warm-up, or a kept checkpoint's is beyond
            cuts[share] = [replace(config, epochs=round(config.epochs * share)) for config in one]
    found = rates(one, own["rates"], own["steps"])

    common = set.intersection(*map(set, lines))
    print(f"  {'setting':<58} {'ms a pass':>10} {'minutes a run':>14}")
    for line, config in list(zip(lines, one, strict=True))[: sweep.LONGEST_LIST]:
        rate, own_words = found[rate_key(config)], [word for word in line if len(one) > 1 and word not in common]
        name = printable(" ".join(own_words)) or identity.run_name(config, shown=True)
        print(f"  {name:<58} {1000 * rate:>10.3g} {seconds_of(config, rate) / 60:>14.3g}")
    print(f"{counted(len(one), 'setting')}, {own['hours']:g} hours, {counted(own['processes'], 'run')} at a time:\n")

    seeds, unit = dict[float, int](), "points" if spread else "standard deviations of a paired difference"
    print(f"  {'epochs':>10} {'hours a seed':>13} {'seeds that fit':>15}   smallest difference detected, {unit}")
    for share, cut in cuts.items():
        seconds = sum(seconds_of(config, found[rate_key(config)]) for config in cut)
        n = seeds[share] = math.floor(budget / seconds + 1e-9)
        least = smallest_detectable(spread or 1.0, n, LEVEL / tests, POWER)
        epochs = ", ".join(map(str, sorted({config.epochs for config in cut})))
        print(f"  {epochs:>10} {seconds / 3600 / own['processes']:>13.3g} {n:>15}   {'none' if least is None else f'{least:.3g}'}")
    source = f"from {own['runs']}" if own["runs"] else "given"
    told = f"spread {spread:.3g} points, {source}" if spread else "spread unknown: give spread= or runs="
    print(f"\nPower 80%, level 5% over {counted(tests, 'test')} (Holm's strictest); {told}.")

    # The largest share of the epochs that leaves enough seeds, else the one with most.
    chosen = next((share for share, n in seeds.items() if n >= ENOUGH), max(seeds, key=seeds.__getitem__))
    if not seeds[chosen]:
        print(f"Not one seed fits into hours={own['hours']:g}.", file=sys.stderr)
        return 1
    shorter = [f"epochs={cuts[chosen][0].epochs}"] if chosen < 1 else []
    beside = ["hydra/launcher=local", f"hydra.launcher.processes={own['processes']}"] if own["processes"] > 1 else []
    grid = [*without(overrides, "seed", *(["epochs"] if shorter else [])), *shorter, f"seed=range({seeds[chosen]})"]
    other = any(w.startswith("hydra/launcher=") and w != "hydra/launcher=local" for w in grid)
    print(shlex.join(["python", "train.py", "-m", *plugin_arguments(), *grid, *([] if other else beside)]))
    if own["out"]:
        each = [[*without(line, "seed", "epochs" if shorter else "seed"), *shorter] for line in lines]
        runs = [shlex.join([*line, f"seed={seed}"]) for seed in range(seeds[chosen]) for line in each]
        write_atomic(Path(own["out"]), "\n".join(runs) + "\n")
        print(f"Written: {own['out']}, {counted(len(runs), 'line')}.", file=sys.stderr)
    return 0
