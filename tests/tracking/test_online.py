"""Online against the stand-in server: one run per configuration, whole and without duplicates, whatever happened on the way."""

import json
import signal
import time
from pathlib import Path

import pytest
from real_commands import Commands
from wandb_server import Server, silent

pytestmark = pytest.mark.wandb_protocol


def test_a_continued_run_and_its_measures_are_one_run(commands: Commands, server: Server) -> None:
    train = ("epochs=20", "tracking.entity=local", "tracking.project=mine", "seed=3")
    commands.interrupted(*train, environment=server.environment)
    fingerprint = json.loads((commands.run_folder / "run.json").read_text())["fingerprint"]
    run = server.runs[fingerprint]
    assert run.epochs[:2] == [1, 2] and len(run.epochs) < 20 and run.exit_code == 1

    done = commands.train(*train, environment=server.environment)  # from the beginning again
    assert done.returncode == 0 and done.stderr.count("warning: no checkpoint") <= 1 and "tracking" not in done.stderr
    assert list(server.runs) == [fingerprint] and set(run.job_types) == {"train"} and run.exit_code == 0
    assert run.epochs == list(range(1, 21))
    record = json.loads((commands.run_folder / "run.json").read_text())
    assert run.summary["final/test_accuracy"] == record["final"]["test_accuracy"]

    del run.history[5:]  # as if the server had been away for the rest
    run.summary = {"epoch": 5}
    measured = commands.run("evaluate_sharpness.py", "tracking=wandb", "threads=1", environment=server.environment)
    assert measured.returncode == 0, measured.stderr
    assert list(server.runs) == [fingerprint] and run.job_types[-1] == "sharpness"
    assert run.fields["project"] == "mine"  # where the run was tracked
    assert run.epochs == list(range(1, 21))
    assert run.config["seed"] == 3 and run.config["method"] == "SAM"
    rows = json.loads((commands.run_folder / "sharpness.json").read_text())["rows"]
    values = {name: value for row in rows.values() for name, value in row["values"].items()}
    names = {name for name in run.summary if name.startswith("sharpness/")}
    # Two more gaps, the best accuracy, accuracy and loss of the last five epochs; length and angle of the perturbations, in the last
    # epoch and in all.
    assert len(names) == len([value for value in values.values() if value is not None]) + 9
    assert run.summary["sharpness/gap"] == values["gap"]
    assert run.summary["sharpness/rho_0_05_bn_eval_batch_all"] == values["sharpness[rho=0.05,bn=eval,batch=all]"]
    assert run.summary["final/test_accuracy"] == record["final"]["test_accuracy"]
    assert not any(set(key) & set("[]=,.") for key in run.summary)


def test_a_server_lost_in_mid_run_costs_the_finish_timeout(commands: Commands, server: Server) -> None:
    process = commands.start_training("epochs=150", "eval_interval=150", "tracking.finish_timeout=4", environment=server.environment)
    commands.wait_for_epochs(1)
    process.send_signal(signal.SIGSTOP)  # until W&B, which has a process of its own, has caught up: however slow its start
    began = time.monotonic()
    while not any(run.epochs for run in server.runs.values()):
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    server.stop()
    assert process.poll() is None and len(commands.metrics()) < 150
    process.send_signal(signal.SIGCONT)
    commands.wait_for_epochs(150)
    began = time.monotonic()
    done = commands.end(process)
    assert time.monotonic() - began < 4 + 30  # bounded at all (W&B's own default waits for ever); the machine may be busy
    assert done.returncode == 0 and "finished, test accuracy" in done.stdout
    assert done.stderr.count("warning") == 1 and "`wandb sync --include-online" in done.stderr
    assert json.loads((commands.run_folder / "run.json").read_text())["status"] == "finished"

    with Server() as later:  # what was not sent is there for `wandb sync`
        synced = commands.run("wandb", "sync", "--yes", "--include-online", *map(str, commands.segments()), environment=later.environment)
        assert synced.returncode == 0, synced.stderr
        (run,) = later.runs.values()
        assert run.epochs == list(range(1, 151)) and "final/test_accuracy" in run.summary


def test_a_server_that_never_answers_is_waited_for_once(commands: Commands) -> None:
    with silent() as environment:
        began = time.monotonic()
        done = commands.train("seed=0,1", "tracking.init_timeout=5", "-m", environment=environment)
        assert time.monotonic() - began < 60
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: no W&B server") == 1
    assert done.stderr.count("the W&B server did not answer a while ago; logging offline") == 1
    assert "tracking stopped" not in done.stderr
    for segment in commands.folder.glob("runs/*/wandb/offline-run-*"):
        assert epochs_in(commands, segment) == [1, 2]


def test_without_a_network_the_run_goes_on_offline(commands: Commands, server: Server) -> None:
    server.stop()  # connections are refused
    done = commands.train("tracking.init_timeout=3", environment=server.environment)
    assert done.returncode == 0 and done.stderr.count("warning") == 1
    assert done.stderr.startswith("warning: no W&B server (CommError: ") and "logging offline" in done.stderr
    (segment,) = commands.run_folder.glob("wandb/offline-run-*")
    assert epochs_in(commands, segment) == [1, 2]


def epochs_in(commands: Commands, segment: Path) -> list[int]:
    return [entry["history"]["item"]["epoch"] for entry in commands.inspect(segment) if entry["type"] == "history"]


def test_what_was_trained_offline_and_measured_online_needs_no_upload(commands: Commands, server: Server) -> None:
    """An older session uploaded after the newer one would replace its summary."""
    trained = commands.train()  # without credentials
    (line,) = [line for line in trained.stdout.splitlines() if "wandb sync" in line]
    arguments = ("tracking=wandb", "threads=1", "sharpness.notions=[gap]")
    measured = commands.run("evaluate_sharpness.py", *arguments, environment=server.environment)
    assert measured.returncode == 0 and "wandb sync" not in measured.stderr
    commands.shell(line.removeprefix("W&B was offline: "), environment=server.environment)
    (run,) = server.runs.values()
    assert run.epochs == [1, 2] and "sharpness/gap" in run.summary
