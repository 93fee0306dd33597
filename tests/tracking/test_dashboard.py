"""The workspace: printed without login and network, saved on the stand-in server. (That its names exist is checked on a real run.)"""

import json
from pathlib import Path
from typing import Any

import pytest
from real_commands import Commands
from wandb_server import Server

DASHBOARD = "scripts/dashboard.py"


def panels(view: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    sections = view["section"]["panelBankConfig"]["sections"]
    return [(panel["viewType"], panel["config"]) for section in sections for panel in section["panels"]]


def test_it_is_printed_without_login_and_network(commands: Commands) -> None:
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = commands.run(DASHBOARD, "project=p", "group=digits WRN-10-1 demo", "dry_run=true", environment=nowhere)
    assert done.returncode == 0 and not done.stderr
    view = json.loads(done.stdout)
    assert view["project"] == "p"
    found = panels(view["spec"])
    lines = [config for kind, config in found if kind == "Run History Line Plot"]
    axes = [(config["xAxis"], config["metrics"]) for config in lines]
    assert {(x, *y) for x, y in axes} >= {
        ("epoch", "test/accuracy"),
        ("epoch", "xsam/alpha"),
        ("cost/grad_evals", "test/accuracy"),
        ("cost/wall_s", "test/accuracy"),
    }
    bars = [config for kind, config in found if kind == "Bar Chart"]
    assert [config["metrics"] for config in bars] == [["final/test_accuracy"]]
    for config in lines + bars:  # over seeds: the mean and a band, one line a method
        assert (config["groupBy"], config["groupAgg"], config["groupArea"]) == ("series.value", "mean", "stddev")
        assert config["limit"] >= 100
    scatters = [(config["xAxis"], config["yAxis"]) for kind, config in found if kind == "Scatter Plot"]
    assert scatters == [
        ("config:rho.value", "summary:final/test_accuracy"),
        ("summary:sharpness/rho_0_05_bn_eval_batch_all", "summary:sharpness/gap"),
    ]
    (runs,) = view["spec"]["section"]["runSets"]
    (only,) = runs["filters"]["filters"]
    assert (only["key"]["name"], only["op"], only["value"]) == ("group", "=", "digits WRN-10-1 demo")


@pytest.mark.wandb_protocol
def test_it_is_saved_as_printed(commands: Commands, server: Server) -> None:
    done = commands.run(DASHBOARD, "project=p", "name=Ours", environment=server.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("saved: http://127.0.0.1:") and "/local/p?nw=" in done.stdout  # the entity of the credentials
    (view,) = server.views
    assert (view["displayName"], view["projectName"], view["entityName"]) == ("Ours", "p", "local")
    printed = json.loads(commands.run(DASHBOARD, "project=p", "name=Ours", "dry_run=true").stdout)
    assert panels(json.loads(view["spec"])) == panels(printed["spec"])


def test_missing_credentials_are_one_sentence(commands: Commands) -> None:
    done = commands.run(DASHBOARD, "project=p")
    sentence = "error: no W&B credentials; `wandb login` stores them"
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith(sentence), done.stderr


def test_a_missing_package_is_named(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb_workspaces.py").write_text("raise ModuleNotFoundError('No module named wandb_workspaces')\n")
    done = commands.run(DASHBOARD, "dry_run=true", environment={"PYTHONPATH": str(tmp_path / "fake")})
    assert done.returncode == 1 and "`pip install wandb-workspaces` cures it" in done.stderr
