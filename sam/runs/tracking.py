"""Mirror a run to Weights & Biases. The run's own files are the record; training never dies of tracking, nor waits for it.

W&B lives in a separate process, which reads the files that training writes. Without credentials, or a server that answers in time, the
run is logged offline below its own folder, and `wandb sync` uploads it later. A server lost in mid-run costs at most `finish_timeout`.
Anything else switches tracking off. Each prints one line of warning.
"""

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from sam.core.files import number
from sam.optimizers.settings import METHODS, OptimizerConfig
from sam.runs import progress, records
from sam.runs.command import BASE
from sam.runs.identity import fingerprint, identity
from sam.runs.signals import SAVE_AND_LEAVE
from sam.schema import flat
from sam.settings import TrackingConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
LOOK_EVERY = 1.0  # seconds between looks at metrics.csv
LEAVING = 5.0  # seconds for W&B's end when a run was told to leave, or failed: SLURM kills after 30
OFFLINE = 10.0  # seconds for W&B to start, counted when a run has ended; and to log offline what no server took
OFFLINE_WORD = "offline: "  # and why
RETRY_AFTER = 600.0  # seconds without trying a server that did not answer: a sweep must not wait for it again at every run
# Keys that a run's series, or its labels in the default group, hold already: the method's own among them.
_SHARED = "|".join(f.name for f in dataclasses.fields(OptimizerConfig) if f.name not in ("method", "lr", "weight_decay"))
_LABELLED = r"dataset[.](name|train_size|label_noise|sample)|model[.](name|depth|width|norm|timm_name)"
_TOLD = re.compile(rf"(seed|epochs|{_LABELLED}|optimizer[.](?!({_SHARED})$).*)$")
_unreachable_until = 0.0
_told: set[str] = set()  # why W&B is offline, as far as this process or one before it in a sweep has said it
_say: Callable[[str], None] = lambda word: None  # to the process that trains, if this is another

# What a run is called in W&B, which groups metrics by what stands before the slash, and cannot sort or filter by names that hold brackets,
# commas or dots. Every row carries all axes, so that any curve can be drawn over epochs, over gradient evaluations or over seconds.
EPOCH, GRAD_EVALS, SECONDS = AXES = ("epoch", "cost/grad_evals", "cost/wall_s")

COLUMNS = {
    **{"epoch": EPOCH, "backwards": GRAD_EVALS, "seconds": SECONDS, "forwards": "cost/forwards", "train_seconds": "cost/train_s"},
    **{f"{split}_{kind}": f"{split}/{kind}" for split in ("train", "test", "val") for kind in ("loss", "accuracy")},
    **{name: f"train/{name}" for name in ("lr", "grad_norm", "decay_ratio")},
    **{name: f"ascent/{name}" for name in ("perturbed_loss", "eps_over_rho", "cos_g_eps")},
    **{"alpha": "xsam/alpha", "psi": "xsam/psi", "skipped": "train/skipped_steps"},
}
PLACE = ("project", "entity", "group", "tags", "notes")  # keys that say where a tracked run is found, and as what
VARIED = {"N": "ascent_steps", "rho": "rho", "alpha": "alpha"}  # None where the method reads none (SGD's rho; alpha, if it is searched)
SUMMARIES = ("final", "last5", "best")  # parts of run.json: "final/test_accuracy", "best/epoch", ...


def metric_name(column: str) -> str:
    """The metric of a column of metrics.csv; a column of a method of one's own becomes "method/<column>"."""
    return COLUMNS.get(column) or f"method/{column}"


def sharpness_name(measure: str) -> str:
    """sharpness[rho=0.05,bn=eval] becomes sharpness/rho_0_05_bn_eval, gap becomes sharpness/gap."""
    return "sharpness/" + re.sub(r"[^A-Za-z0-9]+", "_", measure.removeprefix("sharpness[").removeprefix("sharpness_")).strip("_")


def series(optimizer: OptimizerConfig) -> str:
    """What seeds are averaged over, as a legend shows it: "SAM N=3 rho=0.05", "SAM N=1 rho=0.05 uniform"."""
    shown = [f"{name}={value:g}" for name, key in VARIED.items() if (value := getattr(optimizer, key, None)) is not None]
    drawn = [optimizer.radius] if getattr(optimizer, "radius", "fixed") != "fixed" else []
    told = {f.name for f in dataclasses.fields(OptimizerConfig)} - {"weight_decay"} | {"radius", *VARIED.values()}
    plain = OptimizerConfig.of(method=optimizer.method)
    others = [key for key in optimizer.used_keys if key not in told and getattr(optimizer, key) != getattr(plain, key)]
    return " ".join([METHODS[optimizer.method].label, *shown, *drawn, *(f"{key}={getattr(optimizer, key)}" for key in others)])


def top_level(optimizer: OptimizerConfig) -> dict[str, Any]:
    """The keys to group and filter by, at the top of a run's config (the seed is there already)."""
    varied = {name.lower(): getattr(optimizer, key, None) for name, key in VARIED.items()}
    return {"method": METHODS[optimizer.method].label, "series": series(optimizer), **varied}


class WandbTracker:
    """Mirror rows and results; the first failure switches it off with one warning. Only rows of metrics.csv after the last epoch that the
    server, or offline the files of earlier sessions, have are logged: a continued run or a server lost for a while leaves no gaps."""

    def __init__(self, config: TrainConfig, record: dict[str, Any], folder: Path, job_type: str = "train") -> None:
        self.broken = False
        self._run: Any = None
        self._folder = folder
        self._epoch = 0  # the last one mirrored
        self._guard(lambda: self._start(config, record, job_type))

    def follow(self) -> None:
        if self._run is not None:
            self._guard(self._mirror)

    def finish(self, record: dict[str, Any]) -> None:
        """The run has ended, or is about to be continued by another process: as its record says."""
        if self._run is not None:
            self._guard(lambda: self._finish(record))
        self._run = None

    def _guard(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # any failure of the mirror; the record is on disk
            if isinstance(error, TimeoutError):
                _avoid_server()
            self.broken = True
            hint = f" `wandb sync --include-online {self._folder}/wandb/*run-*` sends what is missing." if self._run is not None else ""
            self._run = None
            print(f"warning: tracking stopped ({_reason(error)}); the run goes on.{hint}", file=sys.stderr)

    def _start(self, config: TrainConfig, record: dict[str, Any], job_type: str) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # this module says what there is to say, in one line
        import wandb

        tracking, commit, images = config.tracking, record["environment"].get("commit"), record["data"]["fingerprint"]
        provenance = {"setting": record["setting"], "commit": commit, "data_fingerprint": images}  # to find runs by, at the top of a config
        alike = f"{config.dataset.label} {config.model.label} {config.protocol.name} {config.epochs} epochs lr {config.optimizer.lr:g}"
        own, usual, every = flat(record["identity"]), flat(identity(BASE)), flat(record["config"])
        for key in dict.fromkeys([*own, *usual]):  # nor may the mean over seeds mix what else differs
            if own.get(key) != usual.get(key) and not _TOLD.match(key):
                alike += f" {key.rpartition('.')[2]}={own.get(key, every.get(key))}"
        alike = alike if len(alike) <= 128 else f"{alike[:111]} {fingerprint({'group': alike})}"  # what W&B takes
        options: dict[str, Any] = {
            "project": tracking.project,
            "entity": tracking.entity,
            "id": run_id(record, self._folder),
            "name": f"{series(config.optimizer)[:110]} seed={config.seed}"[:128],
            "group": tracking.group or alike,  # everything but method, radius and seed
            "tags": tracking.tags or None,
            "notes": tracking.notes,
            "job_type": job_type,
            "resume": None if config.force else "allow",  # a run redone replaces what the server has
            "dir": str(self._folder),
            "config": record["config"] | top_level(config.optimizer) | provenance,
            "settings": wandb.Settings(
                init_timeout=tracking.init_timeout,
                finish_timeout=tracking.finish_timeout,
                finish_timeout_raises=True,
                reinit="create_new",  # or a run after a broken one would be written into it
                console="off",
            ),
        }
        if "WANDB_SWEEP_ID" in os.environ:  # an agent's run has a place and a name already
            options |= {"project": None, "entity": None, "id": None}
        mode: Any = self._mode(wandb, tracking.mode)
        if mode == "online":
            try:
                self._run = wandb.init(mode=mode, **options)
                self._epoch = int(self._run.summary.get(EPOCH) or 0)
            except (wandb.errors.CommError, wandb.errors.UsageError) as error:
                _avoid_server()
                wandb.teardown()  # the attempt that failed still holds the run's id
                mode = self._offline(f"warning: no W&B server ({_reason(error)})")
        if self._run is None:
            self._epoch = 0 if config.force else recorded_epoch(self._folder)
            self._run = wandb.init(mode=mode, **options)
        for axis in AXES:
            self._run.define_metric(axis)
        self._run.define_metric("*", step_metric=EPOCH)

    def _mode(self, wandb: Any, mode: str) -> str:
        """`auto`: W&B's own variable decides first, then whether there are credentials. Never ask for a key."""
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or "online"
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            return self._offline("no W&B credentials (`wandb login` stores them)")
        if mode == "online" and time.monotonic() < _unreachable_until:
            return self._offline("the W&B server did not answer a while ago")
        return mode

    def _offline(self, why: str) -> str:
        if why not in _told:
            _told.add(why)
            _say(f"{OFFLINE_WORD}{why}")
            print(f"{why}; logging offline, and the last line says how to upload it.", file=sys.stderr)
        return "offline"

    def _mirror(self) -> None:
        """Log the rows of metrics.csv that the mirror lacks."""
        for row in records.read_metrics(self._folder)[self._epoch :]:
            epoch = int(row["epoch"])
            self._run.log({metric_name(column): value for column, value in row.items()} | {EPOCH: epoch}, step=epoch, commit=True)
            self._epoch = epoch

    def _finish(self, record: Mapping[str, Any]) -> None:
        self._mirror()
        done = records.is_done(record)
        if done:
            self._summarize(record)
        elif record["status"] == records.PREEMPTED:
            self._run.mark_preempting()
        self._run.finish(exit_code=int(not done))
        for file in self._folder.glob("wandb/offline-run-*/*.wandb") if self._run.settings.mode == "online" else ():
            Path(f"{file}.synced").touch()  # the server has its rows by now, and an older summary must not replace the newer

    def _summarize(self, record: Mapping[str, Any]) -> None:
        """Results and measures; a number that run.json holds as "nan" or "inf" is a number again, a word stays one."""
        values = {f"{part}/{key}": value for part in SUMMARIES for key, value in record[part].items()}
        values |= {sharpness_name(key): value for key, value in record.get("sharpness", {}).items()}
        known = {name: value if number(value) is None else number(value) for name, value in values.items() if value is not None}
        self._run.summary.update({"status": record["status"]} | known)


class Apart:
    """A `WandbTracker` in a separate process, for which nobody waits: it reads the run's files itself, and `finish` takes seconds."""

    def __init__(self, config: TrainConfig, record: dict[str, Any], folder: Path, job_type: str = "train") -> None:
        self.broken = False
        self._given, self._timeout = (config, record, folder, job_type), config.tracking.finish_timeout
        self._begin()

    def finish(self, record: dict[str, Any]) -> None:
        said = self._end(record, self._timeout if records.is_done(record) else min(self._timeout, LEAVING))
        _told.update(word.removeprefix(OFFLINE_WORD) for word in said if word.startswith(OFFLINE_WORD))
        if "unreachable" in said or "started" not in said:
            _avoid_server()
        if "started" not in said and record["status"] != records.PREEMPTED:  # which the run's next process sees to
            self._begin()
            said = self._end(record, OFFLINE)
        self.broken = "done" not in said

    def _begin(self) -> None:
        self._line, theirs = Pipe()
        call = f"from sam.runs.tracking import serve; serve({theirs.fileno()})"
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {call}"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=[theirs.fileno()], start_new_session=True)
        self._began = time.monotonic()
        theirs.close()
        with suppress(OSError):  # it is gone already
            self._line.send((sys.argv, progress.shared is not None, _unreachable_until, _told, self._given))

    def _end(self, record: dict[str, Any], seconds: float) -> set[str]:
        """Wait `seconds` for the process to end, then kill it (at once if it still waits for a server); returns the words it sent."""
        said: set[str] = set()
        end, starting = time.monotonic() + seconds + 2, self._began + OFFLINE  # it counts the seconds itself
        try:
            with suppress(EOFError, OSError):  # it has ended
                self._line.send(record)
                while self._line.poll(0.02) or time.monotonic() < (end if said else min(end, starting)):
                    if self._line.poll():
                        said.add(self._line.recv())
        finally:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)  # W&B's own process, too
            self._process.wait()
        return said


def serve(handle: int) -> None:
    """Body of an `Apart`'s process; `handle`: file descriptor of its connection to the training process."""
    global _unreachable_until, _told, _say
    line = Connection(handle)
    _say = line.send
    for signum in SAVE_AND_LEAVE:  # a job's processes all get them; training says when it is over
        signal.signal(signum, signal.SIG_IGN)
    sys.argv, of_several, _unreachable_until, _told, given = line.recv()
    for variable in ("WANDB_SWEEP_ID", "WANDB_RUN_ID") if of_several else ():  # none of them can be the one that a W&B agent wants
        os.environ.pop(variable, None)
    tracker, record = WandbTracker(*given), {"status": records.FAILED}
    line.send("started")
    with suppress(EOFError):  # training was killed
        while not line.poll(LOOK_EVERY):
            tracker.follow()
        record = line.recv()
    tracker.finish(record)
    line.send("broken" if tracker.broken else "done")


def run_id(record: dict[str, Any], folder: Path) -> str:
    """The run's id at W&B: the one first given (maybe by a sweep's agent), which W&B's folders hold; else the fingerprint."""
    started = sorted(path.name.removeprefix("offline-").split("-", 2) for path in folder.glob("wandb/*run-*-*"))
    return started[-1][2] if started else str(record["fingerprint"])


def mirror_sharpness(tracking: TrackingConfig, runs: Iterable[tuple[Path, dict[str, Any], Mapping[str, float | None]]]) -> None:
    """Write the measures of finished runs (folder, record, measures) into their runs' summaries, as `sharpness/...`. A run that was tracked
    is joined where it was tracked; `tracking` says where any other goes. The first failure ends it."""
    mirrored = []
    for folder, record, measures in runs if tracking.backend == "wandb" else ():
        config, own = records.run_config(record), tracking
        if config.tracking.backend == "wandb":
            own = dataclasses.replace(tracking, **{key: getattr(config.tracking, key) for key in PLACE})
        tracker = Apart(dataclasses.replace(config, tracking=own, force=False), record, folder, job_type="sharpness")
        tracker.finish(record | {"sharpness": measures})
        mirrored.append(folder)
        if tracker.broken:
            break
    if command := sync_command(mirrored):
        print(f"W&B was offline: {command}", file=sys.stderr)


def sync_command(folders: Iterable[Path]) -> str | None:
    """The one command that uploads what was logged offline below these runs' folders; None if nothing is left to upload."""
    waiting = [f for f in folders if any(not Path(f"{file}.synced").exists() for file in f.glob("wandb/offline-run-*/*.wandb"))]
    several = len(waiting) > 1
    places = dict.fromkeys(f"{shlex.quote(str(f.parent))}/*" if several else shlex.quote(str(f)) for f in waiting)
    return " ".join(["wandb sync", *(f"{place}/wandb/offline-run-*" for place in places)]) if waiting else None


def recorded_epoch(folder: Path) -> int:
    """The last epoch in the newest W&B file of this run that holds any; 0 if there is none, or if it cannot be read."""
    files = folder.glob("wandb/*run-*/run-*.wandb")
    for file in sorted(files, key=lambda path: path.parent.name.removeprefix("offline-"), reverse=True):  # the name holds the time
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        try:
            entries = map(json.loads, subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines())
            rows = [entry["history"]["item"] for entry in entries if entry["type"] == "history"]
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
            return 0
        if epochs := [int(row[EPOCH]) for row in rows if EPOCH in row]:
            return max(epochs)
    return 0


def _avoid_server() -> None:
    global _unreachable_until
    _unreachable_until = time.monotonic() + RETRY_AFTER
    _say("unreachable")


def _reason(error: Exception) -> str:
    return " ".join([f"{type(error).__name__}:", *str(error).split()])[:200].rstrip(":")
