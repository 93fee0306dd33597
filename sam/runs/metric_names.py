"""What a run, the columns of metrics.csv, the results in run.json and the measures are called in Weights & Biases.

W&B groups metrics by what stands before the slash, and cannot sort or filter by names that hold brackets, commas or dots.
"""

import re
from typing import Any

from sam.optimizers.settings import METHODS, OptimizerConfig

# Every row carries all of them, so that any curve can be drawn over epochs, over gradient evaluations or over seconds.
EPOCH, GRAD_EVALS, SECONDS = AXES = ("epoch", "cost/grad_evals", "cost/wall_s")

COLUMNS = {
    "epoch": EPOCH,
    "lr": "train/lr",
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "grad_norm": "train/grad_norm",
    "decay_ratio": "train/decay_ratio",
    "skipped": "train/skipped_steps",
    "perturbed_loss": "ascent/perturbed_loss",
    "eps_over_rho": "ascent/eps_over_rho",
    "cos_g_eps": "ascent/cos_g_eps",
    "alpha": "xsam/alpha",
    "psi": "xsam/psi",
    "test_loss": "test/loss",
    "test_accuracy": "test/accuracy",
    "val_loss": "val/loss",
    "val_accuracy": "val/accuracy",
    "forwards": "cost/forwards",
    "backwards": GRAD_EVALS,
    "train_seconds": "cost/train_s",
    "seconds": SECONDS,
}
SUMMARIES = ("final", "last5", "best")  # parts of run.json: "final/test_accuracy", "best/epoch", ...


def metric_name(column: str) -> str:
    """The metric of a column of metrics.csv; a column of a method of one's own becomes "method/<column>"."""
    return COLUMNS.get(column) or f"method/{column}"


def sharpness_name(measure: str) -> str:
    """The summary value of a measure: sharpness[rho=0.05,bn=eval,batch=all] becomes sharpness/rho_0_05_bn_eval_batch_all, gap becomes
    sharpness/gap. (1e-05 becomes 1e_05.)"""
    return "sharpness/" + re.sub(r"[^A-Za-z0-9]+", "_", measure.removeprefix("sharpness[").removeprefix("sharpness_")).strip("_")


def _varied(optimizer: OptimizerConfig) -> dict[str, float | None]:
    """n, rho and alpha, or None where the method does not read them (SGD's rho; XSAM's alpha when it is searched)."""
    return {name: getattr(optimizer, key, None) for name, key in {"n": "ascent_steps", "rho": "rho", "alpha": "alpha"}.items()}


def series(optimizer: OptimizerConfig) -> str:
    """What seeds are averaged over, as a legend shows it: "SAM N=3 rho=0.05", "SAM N=1 rho=0.05 uniform"."""
    n, rho, alpha = _varied(optimizer).values()
    shown = (("N", n), ("rho", rho), ("alpha", alpha))
    drawn = [optimizer.radius] if getattr(optimizer, "radius", "fixed") != "fixed" else []
    return " ".join([METHODS[optimizer.method].label, *(f"{key}={value:g}" for key, value in shown if value is not None), *drawn])


def top_level(optimizer: OptimizerConfig) -> dict[str, Any]:
    """The keys to group and filter by, at the top of a run's config (the seed is there already)."""
    return {"method": METHODS[optimizer.method].label, "series": series(optimizer), **_varied(optimizer)}
