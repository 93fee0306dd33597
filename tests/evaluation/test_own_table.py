"""A table of one's own: a yaml file and no code, with whatever notions were measured, on whatever subset."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TABLE = """# @package tables.mine
title: My own
row_header: Method
rows:
  - {label: SGD, match: {method: sgd}}
  - {label: SAM, match: {METHOD: sam}}
  - {label: SAM on fewer, match: {METHOD: sam, epochs: 1, dataset.train_size: 64}}
columns:
  - {key: top, header: "Top ({subset})", measure: "eigenvalue[k=1,subset={subset}]"}
  - {key: random, header: "Random (at {rho}, {subset})", measure: "average[rho={rho},subset={subset}]", digits: 9, each_rho: true}
  - {key: max, header: "Max (at {rho}, {subset})", measure: "maximum[rho={rho},subset={subset}]", each_rho: true, optional: true}
"""


def test_own_table(swept: Any, commands: Callable[[Sequence[Sequence[str]]], list[Any]], tmp_path: Path) -> None:
    runs, conf = tmp_path / "runs", tmp_path / "conf"
    shutil.copytree(swept.runs, runs, ignore=shutil.ignore_patterns("*rand-sam*", "*xsam*", "*-s1-*"))
    (conf / "table").mkdir(parents=True)
    (conf / "table" / "mine.yaml").write_text(TABLE.replace("METHOD", "method"))
    (conf / "table" / "wrong.yaml").write_text(TABLE.replace("METHOD", "metod").replace("mine", "wrong"))
    line = ["evaluate_sharpness.py", f"--config-dir={conf}", f"runs_dir={runs}", "threads=1", "device=cpu", "sharpness.rho=[0.1,0.5]"]
    cheap = ["sharpness.hessian.subset=48", "sharpness.hessian.steps=6", "sharpness.hessian.probes=3", "sharpness.average.draws=2"]
    costly = ["sharpness.notions=[gap,average,hessian]", "sharpness.m=64", *cheap]
    before = {path: path.read_bytes() for path in runs.glob("*/sharpness.json")}
    by_hand = [runs / "tables" / name for name in ("sweep.tex", "sweep.md", "claims.csv", "claims_full.tex", "final_runs.sh")]
    for path in by_hand:
        path.write_text("by hand")
    wrong, own, everything, plain = commands(
        [[*line, *costly, "table=wrong"], [*line, *costly, "table=mine"], [*line, *costly], [*line, "sharpness.m=64"]]
    )
    assert wrong.refused("metod") and len(before) == 2
    assert own.code == 0, own.err
    rows = list(csv.DictReader((runs / "tables" / "mine.csv").read_text().splitlines()))
    sgd = {row["column"]: float(row["mean"]) for row in rows if row["row"] == "SGD" and row["mean"]}
    stored = json.loads(next(runs.glob("*-sgd-*/sharpness.json")).read_text())["rows"].values()
    values = {name: value for row in stored for name, value in row["values"].items()}
    assert sgd == {
        "Top (48)": values["eigenvalue[k=1,subset=48]"],
        "Random (at 0.1, all)": values["average[rho=0.1]"],
        "Random (at 0.5, all)": values["average[rho=0.5]"],
    }
    assert everything.code == 0 and "Notions of sharpness" in everything.out and "L^Asc" in everything.out, everything.err
    assert plain.code == 0 and "Notions of sharpness" not in plain.out
    assert not list((runs / "tables").glob("notions.*")), "tables of an earlier call would be taken for this one's"
    assert "Notions of sharpness" not in (runs / "tables" / "report.html").read_text()
    assert {path.read_text() for path in by_hand} == {"by hand"}, "a table's name does not make a file one of ours"
