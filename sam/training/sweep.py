"""A sweep before it starts: every point composed and checked, what will run, what is finished, and what it costs."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, flag_override
from omegaconf.errors import OmegaConfBaseException

from sam.config import TrainConfig
from sam.training.distributed import launched, with_replicas
from sam.training.hydra_schema import register, resolve

CONF = Path(__file__).resolve().parents[2] / "conf"
LONGEST_LIST = 60  # points printed one by one
PENDING = ("to run", "to continue", "damaged")


def grid(overrides: Iterable[str]) -> list[list[str]]:
    """Hydra's sweep syntax as the list of its points, each a list of plain overrides, in Hydra's order."""
    axes = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        if override.is_sweep_override():
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            axes.append([override.input_line or f"{key}={override.get_value_element_as_str()}"])
    return [list(point) for point in itertools.product(*axes)]


def sweep_overrides(config: DictConfig) -> list[str]:
    """What defines a sweep: the experiment's `hydra.sweeper.params` and the command line."""
    params = config.hydra.sweeper.params or {}
    return [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)


def drop_overridden_params(config: DictConfig) -> None:
    """Take the parameters that the command line sets out of the experiment's grid: Hydra would run the product of both."""
    given = {override.get_key_element() for override in OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))}
    with flag_override(config, ["readonly", "struct"], False):
        for key in [str(key) for key in config.hydra.sweeper.params or {} if str(key) in given]:
            del config.hydra.sweeper.params[key]


def compose(point: Sequence[str]) -> TrainConfig:
    """One point as a checked configuration. Raises Hydra's, OmegaConf's or our own error."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    config = resolve(TrainConfig, hydra.compose_config("train", list(point), run_mode=RunMode.RUN, with_log_configuration=False))
    return with_replicas(config) if launched().size > 1 else config


_checked: dict[tuple[str, ...], TrainConfig] = {}


def checked(point: Sequence[str]) -> TrainConfig:
    """`compose`, or what the preflight of this sweep has composed already: a large sweep spends minutes on it."""
    return _checked.get(tuple(point)) or compose(point)


def planned(arguments: Sequence[str]) -> list[tuple[list[str], TrainConfig]]:
    """What `train.py -m ARGUMENTS` would run, point by point: (plain overrides, checked configuration). For scripts, outside Hydra's main.

    Raises Hydra's, OmegaConf's or our own error.
    """
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        whole = hydra.compose_config("train", list(arguments), run_mode=RunMode.MULTIRUN, with_log_configuration=False)
        drop_overridden_params(whole)
        return [(point, compose(point)) for point in grid(sweep_overrides(whole))]


def check(plans: Sequence[TrainConfig]) -> None:
    """Raise the ValueError that any of these runs would raise at its start because of its settings or its data's description."""
    from sam.training import cost

    for config in plans:
        cost.check(config)


def unfinished(plans: Sequence[TrainConfig]) -> list[int]:
    """Positions of the runs that are still to be done: neither finished nor a second point with the same identity."""
    from sam.results import identity

    seen: set[str] = set()
    chosen = []
    for position, config in enumerate(plans):
        key = identity.run_fingerprint(config)
        if key not in seen and _status(identity.run_folder(config), config.force) in PENDING:
            chosen.append(position)
        seen.add(key)
    return chosen


class Preflight(Callback):
    """Hydra calls this around a sweep; errors leave through SystemExit, because Hydra turns exceptions of a callback into warnings."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        drop_overridden_params(config)
        points = grid(sweep_overrides(config))
        try:
            plans = [compose(point) for point in points]
            _checked.clear()
            _checked.update({tuple(point): plan for point, plan in zip(points, plans, strict=True)})
            here = config.hydra.launcher._target_.endswith(("BasicLauncher", "LocalLauncher"))
            pending = _print_plan([with_replicas(plan) for plan in plans] if here else plans, here=here)
        except (ValueError, HydraException, OmegaConfBaseException) as error:
            print(f"error: {error}\nNothing was run.", file=sys.stderr)
            raise SystemExit(2) from error
        if here and not pending:  # a finished sweep need not compose every point once more to find that out
            raise SystemExit(0)
        from sam.training import progress

        progress.share(progress.Progress(pending, "sweep", quiet=launched().rank > 0))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from sam.training import progress

        progress.share(None)


def _print_plan(plans: Sequence[TrainConfig], *, here: bool) -> float:
    """Check every point, print the table, and return the backward passes that are still to be run. `here`: on this machine."""
    from sam.results import identity
    from sam.training import cost

    lines, seen = [], set()
    totals = {"forwards": 0, "backwards": 0, "pending": 0}
    for config in plans:
        expected = cost.cost(config, cost.check(config))
        folder, key = identity.run_folder(config), identity.run_fingerprint(config)
        status = "same as above" if key in seen else _status(folder, config.force)
        if status in PENDING:
            totals["pending"] += 1
            totals["forwards"] += expected.forwards
            totals["backwards"] += expected.backwards
        seen.add(key)
        lines.append(f"  {identity.run_name(config):<58} {status:<14} {expected.forwards:>10,} {expected.backwards:>10,}")
    if here and totals["pending"]:
        from sam.core.device import pick_device  # imports torch: not before everything cheaper is known to be right

        for device in dict.fromkeys(config.device for config in plans):
            pick_device(device)
    if launched().rank:  # the first of several processes says it
        return float(totals["backwards"])
    print(f"  {'run':<58} {'status':<14} {'forwards':>10} {'backwards':>10}")
    shown = lines if len(lines) <= LONGEST_LIST else [*lines[:LONGEST_LIST], f"  ... and {len(lines) - LONGEST_LIST} more"]
    print("\n".join(shown))
    print(
        f"{len(plans)} runs, {totals['pending']} to do: {totals['forwards']:,} forwards and {totals['backwards']:,} backwards "
        "(each over one batch).",
        flush=True,
    )
    return float(totals["backwards"])


def _status(folder: Path, force: bool) -> str:
    from sam.results import records

    if force:
        return "to run"
    try:
        record = records.read_run(folder)
    except records.DamagedError:
        return "damaged"  # the run will say how; the others go on
    if record is not None and records.is_done(record):
        return str(record["status"])
    return "to continue" if records.can_continue(folder) else "to run"
