"""A signal ends a run at any time, wherever it comes, and the same command ends as if there had been none."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import data
from sam.runs import checkpoint, identity, records, session
from sam.runs.run import run
from sam.runs.signals import Interrupts, Preempted, watching
from sam.settings import TrainConfig
from sam.sharpness.dataset_loss import DatasetLoss
from sam.training import loop
from sam.training.objective import Objective

ROOT = Path(__file__).resolve().parents[2]


class Quiet:
    """In place of W&B's mirror."""

    def __init__(self, *run: Any) -> None: ...
    def finish(self, record: dict[str, Any]) -> None: ...


PLACES: dict[str, tuple[Any, str]] = {
    "the data load": (data, "load"),
    "the model builds": (loop, "build_model"),
    "an old checkpoint is read": (checkpoint, "load_newest"),
    "tracking starts": (Quiet, "__init__"),
    "a step": (Objective, "closure"),
    "evaluation": (DatasetLoss, "value"),
    "metrics are written": (records, "write_metrics"),
    "a checkpoint is written": (checkpoint, "save"),
    "the record is written": (records, "write_run"),
    "tracking ends": (Quiet, "finish"),
}
UNDISTURBED: list[dict[str, Any]] = []


def without_times(config: TrainConfig) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if not key.endswith("seconds")}
        for row in records.read_metrics(identity.run_folder(config))
    ]


@pytest.mark.parametrize(("call", "name"), [(1, "SIGTERM"), (2, "SIGUSR1")])
@pytest.mark.parametrize("place", PLACES)
def test_it_leaves_and_the_same_command_ends_the_same(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, place: str, call: int, name: str
) -> None:
    """The signal comes as the n-th call of something begins; what counts as done afterwards must have been whole."""
    owner, attribute = PLACES[place]
    original, calls = getattr(owner, attribute), []

    def signalled(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), getattr(signal, name))
        return original(*arguments, **options)

    monkeypatch.setattr(session.tracking, "Apart", Quiet)
    config = tiny(epochs=2, checkpoint_interval=2, model={"dropout": 0.2}, tracking={"backend": "wandb"})
    with monkeypatch.context() as patched:
        patched.setattr(owner, attribute, signalled)
        if call == 1 or place in ("a step", "evaluation"):
            with pytest.raises(Preempted) as caught:
                run(config)
            assert caught.value.code == 75
        else:  # some things happen less often
            try:
                run(config)
            except Preempted:
                assert len(calls) >= call
    record = records.read_run(identity.run_folder(config))
    if place == "evaluation":  # no step was lost
        assert record is not None and record["status"] == "preempted" and record["epochs"] == call - 1
    assert run(config)["status"] == "finished"
    if not UNDISTURBED:
        undisturbed = tiny(runs="undisturbed", epochs=2, checkpoint_interval=2, model={"dropout": 0.2})
        run(undisturbed)
        UNDISTURBED.extend(without_times(undisturbed))
    assert without_times(config) == UNDISTURBED


def test_steps_that_were_done_are_not_done_again(tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal in the midst of evaluation saves the epoch before it: what is left of it is the evaluation."""
    config = tiny(epochs=1, checkpoint_interval=5)
    value = DatasetLoss.value
    with monkeypatch.context() as patched:
        patched.setattr(DatasetLoss, "value", lambda self: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Preempted) as caught:
            run(config)
    assert caught.value.code == 130
    monkeypatch.setattr(DatasetLoss, "value", value)
    steps: list[None] = []
    monkeypatch.setattr(session.Session, "_after_step", lambda self: steps.append(None))
    assert run(config)["status"] == "finished" and not steps


def test_what_waits_is_told_at_the_end_and_a_library_cannot_keep_it() -> None:
    with pytest.raises(Preempted), watching() as interrupts:
        interrupts.waits = True
        os.kill(os.getpid(), signal.SIGTERM)  # after a run's last step: no further run of a sweep may begin
    with pytest.raises(Preempted), watching():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise ImportError("half a module") from error
    with pytest.raises(ValueError), watching():
        raise ValueError("no signal came")
    assert Interrupts().signum is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_was_started_to_ignore_ctrl_c_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts its background jobs
    with watching() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.signum is None
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    with pytest.raises(Preempted), watching():
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watching() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_does_not_wait_for_the_step() -> None:
    with pytest.raises(KeyboardInterrupt), watching() as interrupts:
        interrupts.waits = True
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.signum == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def handles(pid: int, number: int) -> bool:
    """True once the process has a handler of its own for the signal."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines())
    return bool(int(status["SigCgt"], 16) >> number - 1 & 1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks in /proc whether the command has begun")
@pytest.mark.parametrize("seconds", [0.0, 1.5])
def test_a_command_that_only_begins_leaves_with_the_code_that_requeues(tmp_path: Path, seconds: float) -> None:
    line = ["train.py", "dataset=digits", "model=wrn_10_1", "epochs=4000", "threads=1", f"runs_dir={tmp_path}"]
    process = subprocess.Popen([sys.executable, *line], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not handles(process.pid, signal.SIGTERM) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75 and "stopped by SIGTERM" in err and "Traceback" not in err
