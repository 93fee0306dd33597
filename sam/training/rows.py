"""An epoch's row of metrics, and summaries of a run's rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sam.core.files import number

Row = dict[str, Any]


def reached(values: Mapping[str, Any]) -> tuple[str, float, float]:
    """(set, accuracy in percent, loss) of a row or a record's `final`: of the test, else validation, else training set."""
    for split, name in (("test", "test"), ("val", "validation"), ("train", "training")):
        accuracy, loss = (number(values.get(f"{split}_{kind}")) for kind in ("accuracy", "loss"))
        if accuracy is not None and loss is not None:
            return name, accuracy, loss
    return "training", math.nan, math.nan


def headline(row: Row, epochs: int) -> str:
    measured_on, accuracy, _ = reached(row)
    return f"{measured_on} {accuracy:.2f}%, train loss {row['train_loss']:.3f}, epoch {row['epoch']}/{epochs}"


def summary(rows: Sequence[Row], interval: int = 1) -> dict[str, Any]:
    """final (last epoch), last5 (mean of the last five), best (the best evaluated epoch of the validation set, else of the test set, with
    the `interval` of evaluation). A number that was not measured is None, and so is a mean that lacks one."""
    splits = [split for split in ("test", "val") if f"{split}_accuracy" in rows[-1]]
    names = [f"{split}_{kind}" for split in splits for kind in ("loss", "accuracy")]
    last = {name: [row[name] for row in rows[-5:]] for name in names}
    judge = "val" if "val" in splits else "test"
    best = max((row for row in rows if row[f"{judge}_accuracy"] is not None), key=lambda row: row[f"{judge}_accuracy"], default={})
    return {
        "final": {name: rows[-1][name] for name in (*names, "train_loss", "train_accuracy", "perturbed_loss")},
        "last5": {name: None if None in values else sum(values) / len(values) for name, values in last.items()},
        "best": {"selected_on": judge, "interval": interval, "epoch": best.get("epoch"), **{name: best.get(name) for name in names}},
    }
