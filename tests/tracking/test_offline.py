"""Without credentials a run is logged offline; wandb's own reader, and `wandb sync`, find everything in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from real_commands import Commands
from wandb_server import Server

pytestmark = [pytest.mark.wandb_protocol, pytest.mark.slow]
TRAIN = ("optimizer=xsam", "optimizer.ascent_steps=2", "epochs=20", "seed=1")
Entries = list[dict[str, Any]]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Commands, int, str]:
    """A run interrupted, run again and measured, without credentials; the epochs of its first stretch, and the messages of its second."""
    commands = Commands(tmp_path_factory.mktemp("offline"))
    first = commands.interrupted(*TRAIN)
    done = commands.train(*TRAIN)
    assert done.returncode == 0, done.stderr
    measured = commands.run("evaluate_sharpness.py", "tracking=wandb", "threads=1")
    assert measured.returncode == 0, measured.stderr
    return commands, first, done.stderr


@pytest.fixture(scope="module")
def segments(interrupted: tuple[Commands, int, str]) -> list[Entries]:
    commands = interrupted[0]
    return [commands.inspect(segment) for segment in commands.segments()]


def of(entries: Entries, kind: str) -> Entries:
    return [entry[kind] for entry in entries if entry["type"] == kind]


def summary(entries: Entries) -> dict[str, Any]:
    return {key: value for part in of(entries, "summary") for key, value in part["update"].items()}


def test_without_credentials_one_line_says_offline(interrupted: tuple[Commands, int, str]) -> None:
    _, _, messages = interrupted
    (line,) = [line for line in messages.splitlines() if "W&B" in line or "wandb" in line]
    assert line.startswith("no W&B credentials (`wandb login` stores them); logging offline")


def test_the_run_is_what_it_is_called(interrupted: tuple[Commands, int, str], segments: list[Entries]) -> None:
    record = json.loads((interrupted[0].run_folder / "run.json").read_text())
    for entries, job_type in zip(segments, ("train", "train", "sharpness"), strict=True):
        (run,) = of(entries, "run")
        assert run["run_id"] == record["fingerprint"]
        assert run["display_name"] == "XSAM N=2 rho=0.05 seed=1"
        assert run["run_group"] == "digits, 128 training images WRN-10-1 tiwary2024"
        assert (run["job_type"], run["project"]) == (job_type, "sam")
        config = run["config"]["update"]
        top = {"method": "XSAM", "n": 2, "rho": 0.05, "alpha": None, "seed": 1, "series": "XSAM N=2 rho=0.05", "setting": record["setting"]}
        assert {key: config[key] for key in top} == top
        assert config["optimizer"]["ascent_steps"] == 2 and config["batch_size"] == 64 and config["protocol"]["name"] == "tiwary2024"


def test_every_epoch_is_logged_once_over_every_axis(interrupted: tuple[Commands, int, str], segments: list[Entries]) -> None:
    rows = [[row["item"] for row in of(entries, "history")] for entries in segments]
    first = interrupted[1]
    assert [[row["epoch"] for row in part] for part in rows] == [list(range(1, first + 1)), list(range(first + 1, 21)), []]
    header = (interrupted[0].run_folder / "metrics.csv").read_text().splitlines()[0].split(",")
    for row in rows[0] + rows[1]:
        assert {"epoch", "cost/grad_evals", "cost/wall_s", "test/accuracy", "train/loss", "ascent/eps_over_rho", "xsam/alpha"} <= set(row)
        assert row["_step"] == row["epoch"] and not any(name.startswith("method/") for name in row)
        assert len([name for name in row if not name.startswith("_")]) == len(header) - 1  # all but the list of probe losses
    metrics = of(segments[0], "metric")
    assert {metric.get("name") for metric in metrics} >= {"epoch", "cost/grad_evals", "cost/wall_s"}
    assert [metric["step_metric"] for metric in metrics if metric.get("glob_name") == "*"] == ["epoch"]


def test_results_are_explicit_summary_values(interrupted: tuple[Commands, int, str], segments: list[Entries]) -> None:
    record = json.loads((interrupted[0].run_folder / "run.json").read_text())
    (exit_code,) = of(segments[0], "exit")
    assert exit_code["exit_code"] == 1 and "final/test_accuracy" not in summary(segments[0])
    for entries in segments[1:]:
        values = summary(entries)
        for part in ("final", "last5", "best"):
            assert {key: values[f"{part}/{key}"] for key in record[part]} == record[part]
        assert values["status"] == "finished"
    assert "sharpness/gap" in summary(segments[2]) and "sharpness/gap" not in summary(segments[1])


def test_sync_makes_one_run_of_all_segments(interrupted: tuple[Commands, int, str], server: Server) -> None:
    commands = interrupted[0]
    synced = commands.run("wandb", "sync", "--yes", *map(str, commands.segments()), environment=server.environment)
    assert synced.returncode == 0, synced.stderr
    (run,) = server.runs.values()
    assert run.epochs == list(range(1, 21))
    assert {"final/test_accuracy", "best/epoch", "sharpness/gap"} <= set(run.summary)


def test_wandb_mode_decides_before_the_credentials(commands: Commands, server: Server) -> None:
    done = commands.train("epochs=1", environment=server.environment | {"WANDB_MODE": "offline"})
    assert done.returncode == 0 and not server.runs
    assert [Path(segment).name[:11] for segment in commands.segments()] == ["offline-run"]
