"""A Weights & Biases workspace that compares SGD, SAM (N steps), Rand-SAM and XSAM.

    python scripts/dashboard.py project=sam entity=me                  # save it there, as a new view
    python scripts/dashboard.py project=sam dry_run=true               # print its JSON; no login, no network
    python scripts/dashboard.py project=sam entity=me name="Table 2" group="CIFAR-10 WRN-28-10 tiwary2024 200 epochs lr 0.1"

Curves are means over seeds with a band of one standard deviation, one curve a setting of a method (`series` in a run's config).
A mean makes sense within one data set, model and protocol only: where a project holds several, `group` picks one (a run's group in W&B).
The entity is W&B's user or team; without it, that of the credentials. Needs `pip install wandb-workspaces`.
"""

import functools
import os
import sys
from typing import Any

from arguments import parse, script

from sam.runs.tracking import EPOCH, GRAD_EVALS, SECONDS, metric_name, sharpness_name
from sam.settings import TrackingConfig
from sam.text import sentence

ACCURACY = metric_name("test_accuracy")
FINAL = "final/test_accuracy"
SHARPNESS = sharpness_name("sharpness[rho=0.05,bn=eval,batch=all]")  # Eq. 4 of Tiwary & Aananth 2024, at its radius
GAP = sharpness_name("gap")
MOST_RUNS = 500  # a panel shows ten runs unless told otherwise: fewer than one table's


def workspace(project: str, entity: str, name: str, group: str) -> Any:
    """The workspace as an object of wandb-workspaces. Costs no network."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as ws

    seeds: dict[str, Any] = {"groupby": panels.Config("series"), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    seeds["max_runs_to_show"] = MOST_RUNS
    final, sharpness, gap = map(panels.SummaryMetric, (FINAL, SHARPNESS, GAP))
    scatter: Any = functools.partial(panels.ScatterPlot, legend_template="${config:series}")
    curve = lambda title, y, x=EPOCH, x_title="epoch": panels.LinePlot(title=title, x=x, y=[y], title_x=x_title, **seeds)
    sections = {
        "Results": [
            panels.BarPlot(title="Final test accuracy (%)", metrics=[FINAL], max_bars_to_show=50, **seeds),
            scatter(title="Final test accuracy (%) over rho", x=panels.Config("rho"), y=final, log_x=True),
            scatter(title="Generalization gap over sharpness at rho 0.05", x=sharpness, y=gap, regression=True),
        ],
        "Over epochs": [
            curve("Test accuracy (%)", ACCURACY),
            curve("Training loss at w", metric_name("train_loss")),
            curve("XSAM's alpha", metric_name("alpha")),
        ],
        "At equal cost": [
            curve("Test accuracy (%) over gradient evaluations", ACCURACY, GRAD_EVALS, "gradient evaluations"),
            curve("Test accuracy (%) over seconds", ACCURACY, SECONDS, "seconds"),
        ],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=list(members), is_open=True) for title, members in sections.items()],
        settings=ws.WorkspaceSettings(x_axis=EPOCH, max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(filters=[ws.Metric("Group") == group] if group else ""),
    )


KEYS = {"project": TrackingConfig.project, "entity": "", "name": "SGD, SAM, Rand-SAM, XSAM", "group": "", "dry_run": False}


@script
def main(arguments: list[str]) -> int:
    """Exit status: 0; 1 if W&B cannot do it, after one sentence; 2 for wrong arguments."""
    options, _ = parse(KEYS, arguments)
    try:
        if options.pop("dry_run"):
            view = workspace(**options | {"entity": options["entity"] or "entity"})._to_model()
            print(view.model_dump_json(by_alias=True, exclude_none=True, indent=1))
            return 0
        os.environ.setdefault("WANDB_SILENT", "true")  # the address is all there is to say
        import wandb

        if not wandb.login(prompt=False, verify=False):
            raise ValueError("no W&B credentials; `wandb login` stores them, dry_run=true needs none.")
        options["entity"] = options["entity"] or wandb.Api().default_entity or ""
        print(f"saved: {workspace(**options).save().url}")
        return 0
    except Exception as error:  # no package, no credentials, no server: W&B has a class for each
        cure = "; `pip install wandb-workspaces` cures it." if isinstance(error, ImportError) else ""
        print(f"error: {sentence(error) or type(error).__name__}{cure}", file=sys.stderr)
        return 1
