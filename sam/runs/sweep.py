"""Plan a sweep before it starts: compose and check every point; list what will run, what is finished, and what it costs."""

import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam.config import ConfigError
from sam.registry import names_plugins, plugin_arguments
from sam.runs import ending, identity, progress, records
from sam.runs.distributed import launched, with_replicas
from sam.runs.hydra_schema import check_size, in_our_words, register, resolve
from sam.settings import TrainConfig
from sam.text import counted, sentence
from sam.training import cost

ROOT = Path(__file__).resolve().parents[2]
LONGEST_LIST = 60  # points printed one by one
OPTIONS = {f"config_{part}": f"--config-{part}" for part in ("path", "name", "dir")}  # Hydra's, which change what is composed
PENDING = ("to run", "to continue", "damaged")


def points(sweep: DictConfig, loader: ConfigLoader | None = None) -> list[list[str]]:
    """The points of a composed sweep, each a list of overrides, as Hydra's sweeper will launch them. ConfigError for another sweeper."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf  # now: Hydra's search for plugins reloads it

    sweeper = sweep.hydra.sweeper
    if sweeper._target_ != BasicSweeperConf._target_:
        raise ConfigError(f"hydra/sweeper={sweeper._target_}: may choose its points as it goes, which no plan can check; use basic.")
    if sweeper.max_batch_size is not None and sweeper.max_batch_size < 1:
        raise ConfigError(f"hydra.sweeper.max_batch_size={sweeper.max_batch_size}: must be a whole number >= 1, or null.")
    if sweep.hydra.job.chdir:
        raise ConfigError("hydra.job.chdir=true: each run would look for runs_dir and dataset.path elsewhere; must be false.")
    parser = OverridesParser.create(loader or GlobalHydra.instance().config_loader())  # glob() asks the loader for a group's options
    task: Any = OmegaConf.to_container(sweep.hydra.overrides.task)  # a reference such as ${seed} is one of the point
    given = [*(f"{key}={values}" for key, values in (sweeper.params or {}).items()), *task]
    check_size(given)
    overrides = parser.parse_overrides(given)
    if empty := [one.input_line for one in overrides if isinstance(one.value(), Glob) and not list(one.sweep_iterator())]:
        raise ConfigError(f"{empty[0]}: fits no option; --help lists those of every group.")
    (every,) = BasicSweeper.split_arguments(overrides, None)  # one batch
    return every


def compose(points: Sequence[Sequence[str]], sweep: DictConfig, loader: ConfigLoader | None = None) -> Iterator[TrainConfig]:
    """Compose and check the points of a composed sweep; those that differ in the seed alone once, as Hydra takes 0.1 s for each. Raises its
    error, OmegaConf's or our own."""
    loader, known = loader or GlobalHydra.instance().config_loader(), dict[tuple[str, ...], DictConfig]()
    for point in points:
        seeds = [word for word in point if re.match(r"[+~]*seed\b", word)]
        rest = tuple(word for word in point if word not in seeds)
        if len(seeds) == 1 and re.fullmatch("seed=[0-9]+", seeds[0]):
            composed = known[rest] = known.get(rest) or loader.load_sweep_config(sweep, list(point))
            OmegaConf.update(composed, "seed", int(seeds[0].removeprefix("seed=")))  # what refers to it follows
        else:
            composed = loader.load_sweep_config(sweep, list(point))
        if composed.hydra.sweeper.params != sweep.hydra.sweeper.params:
            raise ConfigError(f"{' '.join(point)}: holds a grid of its own, which a sweep would not run; start it alone, with -m.")
        yield resolve(TrainConfig, composed)


def opened(arguments: Sequence[str], name: str) -> tuple[Hydra, str, list[str], list[str]]:
    """Open the configuration of `NAME.py ARGUMENTS` for scripts: (Hydra, name of the configuration, overrides, options that chose it)."""

    def refuse(message: str) -> NoReturn:
        allowed = ", ".join(f"{option}=..." for option in OPTIONS.values())
        raise ConfigError(f"{message}: known here are a script's own keys and --help, {allowed}, --multirun, and the keys of train.py -m.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given = vars(parser.parse_args(list(arguments)))
    if other := [option for option, value in given.items() if value and option not in (*OPTIONS, "overrides", "multirun")]:
        refuse(f"unknown argument --{other[0].replace('_', '-')}")
    search = create_automatic_config_search_path(str(ROOT / "train.py"), None, given["config_path"] or "conf")
    if given["config_dir"] is not None:
        if not os.path.isdir(given["config_dir"]):
            raise ConfigError(f"--config-dir={given['config_dir']}: there is no such folder.")
        search.prepend("command-line", f"file://{os.path.abspath(given['config_dir'])}", SearchPathQuery(provider="schema"))
    register(arguments)
    version.setbase("1.3")
    options = [f"{option}={given[key]}" for key, option in OPTIONS.items() if given[key] is not None]
    overrides = [*plugin_arguments(), *(word for word in given["overrides"] if not names_plugins(word))]
    return Hydra(name, ConfigLoaderImpl(search)), given["config_name"] or name, overrides, options


def planned(arguments: Sequence[str]) -> list[tuple[list[str], TrainConfig]]:
    """The runs of `train.py -m ARGUMENTS`, point by point: (arguments of train.py for it alone, checked configuration). For scripts."""
    hydra, name, overrides, options = opened(arguments, "train")
    loader = hydra.config_loader
    sweep = hydra.compose_config(name, overrides, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    many = ("hydra.mode", "hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher")
    alone = [*options, *(line for line in sweep.hydra.overrides.hydra if not line.startswith(many))]
    # Of one point, the experiment's grid goes: train.py refuses to run it without -m.
    rest = ["hydra.sweeper.params=null"] if sweep.hydra.sweeper.params else []
    lines = points(sweep, loader)
    return [([*alone, *point, *rest], config) for point, config in zip(lines, compose(lines, sweep, loader), strict=True)]


def check(plans: Sequence[TrainConfig]) -> list[cost.Cost]:
    """The cost of each run. Raises what a run would raise at its start; ConfigError if two different runs would share a folder."""
    owners: dict[str, str] = {}
    costs: list[cost.Cost] = []
    for config in plans:
        if config.run_dir is not None:
            key = identity.run_fingerprint(config)
            if owners.setdefault(os.path.realpath(config.run_dir), key) != key:
                raise ConfigError(f"run_dir={config.run_dir}: is one folder for several runs; leave it out, or give each run its own.")
        costs.append(cost.cost(config, cost.check(config)))
        records.check_folder(config)
    return costs


def unfinished(plans: Sequence[TrainConfig]) -> list[int]:
    """Positions of the runs still to be done: neither finished nor a second point with the same identity and folder."""
    return [position for position, status in enumerate(_statuses(plans)) if status in PENDING]


class Preflight(Callback):
    """Hydra's callback around a sweep. Every failure leaves through SystemExit: Hydra would warn of another exception, and train."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        try:
            here = config.hydra.launcher._target_.endswith(("BasicLauncher", "LocalLauncher"))  # runs are done on this machine
            str(config.hydra.sweep.dir)  # resolved first, as Hydra does: a ${now:} in it is then the same in the points
            composed = compose(points(config), config)
            plans = list(map(with_replicas, composed) if here else composed)
            statuses, pending = _print_plan(plans, here=here)
            waits, given = config.hydra.launcher.get("wait", True), config.hydra.overrides.task
            ending.begin(plans, statuses.count(records.FINISHED), waits=waits, given=given)
        except (ValueError, HydraException, OmegaConfBaseException) as error:
            refuse(in_our_words(error))
        except Exception as error:
            traceback.print_exc()
            refuse(f"the sweep could not be planned ({type(error).__name__})", 1)
        if here and not pending:  # a finished sweep need not compose every point once more to find that out
            raise SystemExit(0)
        one_by_one = config.hydra.launcher._target_.endswith("BasicLauncher")  # side by side, a start-up is nobody's waiting
        tasks = sum(status in PENDING for status in statuses) if one_by_one else 1
        progress.share(progress.Progress(pending, "sweep", tasks=tasks, quiet=launched().rank > 0))


def refuse(error: object, code: int = 2, *, undone: str = "run") -> NoReturn:
    print(f"error: {sentence(error)}\nNothing was {undone}.", file=sys.stderr)
    ending._under_way = None  # there is no end to tell of
    raise SystemExit(code)


def results(points: Sequence[Sequence[str]], failed: Mapping[int, str]) -> list[JobReturn]:
    """What a launcher returns: one result a point, in order; `failed` says of a position how it failed. Hydra raises the first failure."""
    returned = [JobReturn(overrides=list(point), status=JobStatus.COMPLETED) for point in points]
    for position, how in failed.items():
        print(f"failed: {sentence(' '.join(points[position]))}{how}", file=sys.stderr)
        returned[position].status, returned[position].return_value = JobStatus.FAILED, SystemExit(1)
    return returned


def _print_plan(plans: Sequence[TrainConfig], *, here: bool) -> tuple[list[str], float]:
    """Check every point, print the table, and return each run's status and the backward passes still to be run. `here`: on this machine."""
    costs, statuses = check(plans), _statuses(plans)
    pending = [run for run, status in zip(costs, statuses, strict=True) if status in PENDING]
    backwards = sum(run.backwards for run in pending)
    if here and pending:
        from sam.core.device import pick_device  # imports torch: not before everything cheaper is known to be right

        for device in dict.fromkeys(config.device for config in plans):
            pick_device(device)
    if launched().rank:  # the first of several processes says it
        return statuses, float(backwards)
    print(f"  {'run':<58} {'status':<14} {'forwards':>10} {'backwards':>10}")
    for config, run, status in list(zip(plans, costs, statuses, strict=True))[:LONGEST_LIST]:
        print(f"  {identity.run_name(config, shown=True):<58} {status:<14} {run.forwards:>10,} {run.backwards:>10,}")
    if len(plans) > LONGEST_LIST:
        print(f"  ... and {len(plans) - LONGEST_LIST} more")
    passes = f"{counted(sum(run.forwards for run in pending), 'forward')} and {counted(backwards, 'backward')}"
    print(f"{counted(len(plans), 'run')}, {len(pending)} to do: {passes} (each over one batch).", flush=True)
    folders = {identity.run_folder(config) for config in plans}
    new = [config for config, status in zip(plans, statuses, strict=True) if status == "to run"]
    if other := next(filter(None, (records.another(config, folders) for config in new[: records.MOST_SIBLINGS])), None):
        print(other, flush=True)
    return statuses, float(backwards)


def _statuses(plans: Sequence[TrainConfig]) -> list[str]:
    """Of each run: one of PENDING; finished or diverged; or same as above, with the same identity and folder."""
    seen: set[tuple[str, Path]] = set()
    statuses = []
    for config in plans:
        key = identity.run_fingerprint(config), identity.run_folder(config)
        statuses.append("same as above" if key in seen else _status(config, key[1]))
        seen.add(key)
    return statuses


def _status(config: TrainConfig, folder: Path) -> str:
    try:
        record = records.existing(config)
    except ConfigError:
        return "damaged"  # the run will say how; the others go on
    if config.force and not records.force_began(config, record):
        return "to run"
    if records.is_done(record):
        return str(record["status"])
    return "to continue" if records.can_continue(folder) else "to run"
