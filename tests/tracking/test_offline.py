"""Without credentials a run is logged offline; wandb's own reader, and `wandb sync`, find everything in it."""

import json
from subprocess import CompletedProcess
from typing import Any

import pytest
from real_commands import Commands
from wandb_server import Server

from sam.runs.tracking import sync_command

pytestmark = pytest.mark.wandb_protocol
TRAIN = ("optimizer=xsam", "optimizer.ascent_steps=2", "epochs=20", "seed=1")
Entries = list[dict[str, Any]]


def test_a_run_interrupted_finished_and_measured_offline(commands: Commands, server: Server) -> None:
    """One test for the whole story, since its commands take the time: what is said, what is on disk, what a later sync sends."""
    commands.interrupted(*TRAIN)
    done = commands.train(*TRAIN)
    assert done.returncode == 0, done.stderr
    measured = commands.run("evaluate_sharpness.py", "tracking=wandb", "threads=1")
    assert measured.returncode == 0, measured.stderr
    record = json.loads((commands.run_folder / "run.json").read_text())
    segments = [commands.inspect(segment) for segment in commands.segments()]

    one_line_says_offline(done.stderr)
    it_is_what_it_is_called(segments, record)
    every_epoch_is_logged_once_over_every_axis(segments)
    every_column_has_a_name(segments, (commands.run_folder / "metrics.csv").read_text().splitlines()[0].split(","))
    results_are_explicit_summary_values(segments, record)
    sync_makes_one_run_of_all_segments(commands, server, done)
    the_dashboard_asks_for_what_is_written(commands, segments)


def of(entries: Entries, kind: str) -> Entries:
    return [entry[kind] for entry in entries if entry["type"] == kind]


def history(entries: Entries) -> Entries:
    return [row["item"] for row in of(entries, "history")]


def summary(entries: Entries) -> dict[str, Any]:
    return {key: value for part in of(entries, "summary") for key, value in part["update"].items()}


def one_line_says_offline(messages: str) -> None:
    (line,) = [line for line in messages.splitlines() if "W&B" in line or "wandb" in line]
    assert line.startswith("no W&B credentials (`wandb login` stores them); logging offline")


def it_is_what_it_is_called(segments: list[Entries], record: dict[str, Any]) -> None:
    for entries, job_type in zip(segments, ("train", "train", "sharpness"), strict=True):
        (run,) = of(entries, "run")
        assert run["run_id"] == record["fingerprint"]
        assert run["display_name"] == "XSAM N=2 rho=0.05 seed=1"
        assert (
            run["run_group"] == "digits, 128 training images WRN-10-1 tiwary2024 20 epochs lr 0.1 batch_size=64 crop_padding=0 flip=False"
        )
        assert (run["job_type"], run["project"]) == (job_type, "sam")
        config = run["config"]["update"]
        top = {"method": "XSAM", "n": 2, "rho": 0.05, "alpha": None, "seed": 1, "series": "XSAM N=2 rho=0.05", "setting": record["setting"]}
        assert {key: config[key] for key in top} == top
        assert config["optimizer"]["ascent_steps"] == 2 and config["batch_size"] == 64 and config["protocol"]["name"] == "tiwary2024"


def every_epoch_is_logged_once_over_every_axis(segments: list[Entries]) -> None:
    epochs = [[row["epoch"] for row in history(entries)] for entries in segments]
    assert len(epochs[0]) >= 2 and len(epochs[1]) >= 2 and epochs[2] == []
    assert epochs[0] + epochs[1] == list(range(1, 21))
    for row in history(segments[0]) + history(segments[1]):
        assert {"epoch", "cost/grad_evals", "cost/wall_s", "test/accuracy"} <= set(row) and row["_step"] == row["epoch"]
    metrics = of(segments[0], "metric")
    assert {metric.get("name") for metric in metrics} >= {"epoch", "cost/grad_evals", "cost/wall_s"}
    assert [metric["step_metric"] for metric in metrics if metric.get("glob_name") == "*"] == ["epoch"]


def every_column_has_a_name(segments: list[Entries], columns: list[str]) -> None:
    row = history(segments[1])[-1]
    names = {name for name in row if not name.startswith("_")}
    assert len(names) == len(columns) - 1  # all but the list of probe losses
    assert {"train/loss", "ascent/eps_over_rho", "xsam/alpha"} <= names and not any(name.startswith("method/") for name in names)


def results_are_explicit_summary_values(segments: list[Entries], record: dict[str, Any]) -> None:
    assert of(segments[0], "exit")[0]["exit_code"] == 1 and "final/test_accuracy" not in summary(segments[0])
    for entries in segments[1:]:
        values = summary(entries)
        for part in ("final", "last5", "best"):
            assert {key: values[f"{part}/{key}"] for key in record[part]} == record[part]
        assert values["status"] == "finished"
    assert "sharpness/gap" in summary(segments[2]) and "sharpness/gap" not in summary(segments[1])


def sync_makes_one_run_of_all_segments(commands: Commands, server: Server, done: CompletedProcess[str]) -> None:
    """By the command that training printed last."""
    (line,) = [line for line in done.stdout.splitlines() if "wandb sync" in line]
    synced = commands.shell(line.removeprefix("W&B was offline: "), environment=server.environment)
    assert synced.returncode == 0, synced.stderr
    assert sync_command([commands.run_folder]) is None
    (run,) = server.runs.values()
    assert run.epochs == list(range(1, 21))
    assert {"final/test_accuracy", "best/epoch", "sharpness/gap"} <= set(run.summary)


def the_dashboard_asks_for_what_is_written(commands: Commands, segments: list[Entries]) -> None:
    """Every name in the workspace's panels is one that this run (XSAM, measured: it writes all there is) holds."""
    dashboard = json.loads(commands.run("scripts/dashboard.py", "dry_run=true").stdout)
    sections = dashboard["spec"]["section"]["panelBankConfig"]["sections"]
    configs = [panel["config"] for section in sections for panel in section["panels"]]
    assert len(configs) == 8
    logged = {name for row in history(segments[1]) for name in row}
    known = summary(segments[2])
    settings = of(segments[2], "run")[0]["config"]["update"]
    for config in configs:
        names = [config.get("xAxis"), config.get("yAxis"), config.get("groupBy"), *config.get("metrics", [])]
        for name in filter(None, names):
            if name.startswith("summary:"):
                assert name.removeprefix("summary:") in known
            elif name.endswith(".value"):
                assert name.removeprefix("config:").removesuffix(".value") in settings
            else:
                assert name in logged or name in known, name
