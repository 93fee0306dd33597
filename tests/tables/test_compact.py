"""The compact form of a block, what it says was found, and which cells are its best."""

from dataclasses import replace

import made_up
import numpy as np
import pytest
from test_table_tests import load, planted, runs_of

from sam.optimizers.settings import OptimizerConfig
from sam.schema import from_dict
from sam.tables.cells import Block
from sam.tables.columns import direction, interval_scale
from sam.tables.compact import compact, widths
from sam.tables.settings import TableConfig
from sam.tables.table import build


def texts(block: Block) -> list[tuple[str, ...]]:
    return [tuple(cell.text for cell in row) for row in block.rows]


def best(block: Block, column: str) -> list[str]:
    return [row[block.labels - 1].text for row in block.rows if any(c.best for c in row if c.column == column)]


def test_compact_cells() -> None:
    block = compact(planted())
    assert block.header == ("Optimizer", "Accuracy (%)", "difference from SGD", "Sharpness ×10³ (ρ 0.05)", "L(w)")
    assert texts(block) == [
        ("SGD", "96.02 ± 0.17", "baseline", "1.01 ± 0.11", "0.1000 (all equal)"),
        ("Rand-SAM", "96.02 ± 0.18", "0.00 (p 0.88)", "1.91 ± 0.09", "0.1000 (all equal)"),
        ("SAM", "96.82 ± 0.18", "+0.80 (p 3e-6)", "3.00 ± 0.07", "0.1000 (all equal)"),
        ("XSAM", "96.16 ± 0.42", "+0.14 (p 0.88)", "4.04 ± 0.08", "0.1000 (all equal)"),
    ]
    assert block.notes == (
        "Mean ± standard deviation over seeds, n = 5; p of the paired t test, Holm-corrected; bold: best, or not told apart from it.",
    )
    assert sum(widths(block)) + 2 * (len(block.header) - 1) <= 80
    assert compact(planted(), 200).header[-1] == "Gap ×10³"  # with more room the next column comes back


def test_finding_is_one_sentence() -> None:
    found = (
        "SAM is above SGD by 0.80 points [0.76, 0.85] (Holm p 3e-6, n 5); Rand-SAM (p 0.88) and XSAM (p 0.88) are not told apart from SGD."
    )
    assert planted().finding == found
    accuracy = {"SGD": np.array([90.0, 91.0, 92.0]), "SAM": np.array([80.0, 81.1, 82.2])}
    (block,) = build(load("table3"), runs_of(accuracy), [])
    # differences -10, -9.9, -9.8: mean -9.9, sd 0.1, half width 4.302653 * 0.1 / sqrt(3) = 0.2484
    assert block.finding == "SAM is below SGD by 9.90 points [9.65, 10.15] (Holm p 3e-5, n 3)."
    (block,) = build(load("table3"), runs_of({label: values[:1] for label, values in accuracy.items()}), [])
    assert block.finding == "Accuracy (%): best is SGD (90.00, n 1); nothing was tested."


def test_number_of_seeds_and_lost_runs_are_said_once_a_row() -> None:
    (block,) = build(made_up.load("table3"), made_up.runs(), made_up.RHOS)
    assert texts(compact(block, 76)) == [
        ("SGD", "92.0 ± 1.0 (n=3)", "baseline", "21.3 ± 2.5"),
        ("SAM (rho 0.05)", "95.25 ± 0.35 (1/3 diverged)", "+3.75 (p 0.085)", "13.13 ± 0.88"),
        ("SAM (rho 0.2)", "96.80 (n=1)", "+5.80 (n=1)", "9.25"),
        ("XSAM", "96.12 ± 0.18", "+4.62 (p 0.085)", "10.94 ± 0.44"),
    ]
    assert "n = 2 where not said otherwise" in compact(block).notes[0] and compact(block).notes[0].endswith("not run: Rand-SAM.")


def test_published_values_keep_their_mark_and_lose_their_id() -> None:
    label, *_ = planted().rows[0]
    value = next(cell for cell in planted().rows[0] if cell.kind == "value")
    cell = replace(value, kind="published", summary=None, parts=("97.3 ± 0.1", "(std, n = 5; s01, secondary source)"))
    block = Block("t", "t", 1, ("Optimizer", "Accuracy (%)", "published"), ((label, value, cell),))
    assert texts(compact(block))[0][-1] == "97.3 ± 0.1 (secondary source)"


def test_best_is_with_what_the_paired_interval_does_not_tell_apart() -> None:
    seeds = np.array([90.0, 94.0, 98.0, 92.0])
    noise = np.array([0.1, -0.1, 0.05, -0.05])
    accuracy = {"SGD": seeds - 1 - noise, "Rand-SAM": seeds + 0.02 + noise, "SAM": seeds, "XSAM": seeds[:1] - 3}
    (block,) = build(load("table3"), runs_of(accuracy), [0.05])
    # seeds spread by points, and pairing still sees that SGD is one point below; XSAM's single run lies below all but is within no range
    assert best(block, "Accuracy (%)") == ["Rand-SAM", "SAM"]
    assert best(block, "Sharpness ×10³ (ρ 0.05)") == best(block, "L(w)") == []
    assert len(best(block, "Gap ×10³")) == 4  # all equal


def test_best_is_what_is_better_where_seeds_are_missing() -> None:
    """SAM's mean over five seeds is highest; on the three that XSAM has, XSAM is above it."""
    accuracy = {"SAM": np.array([90.0, 90.5, 91.0, 95.0, 95.5]), "XSAM": np.array([91.0, 91.6, 92.1])}
    (block,) = build(load("table3"), runs_of(accuracy), [0.05])
    assert best(block, "Accuracy (%)") == ["SAM", "XSAM"]


@pytest.mark.parametrize(
    ("measure", "better", "scale"),
    [
        ("test_accuracy", 1, "logit"),
        ("test_accuracy[bn=recalibrated]", 1, "logit"),
        ("last5_val_loss", -1, "log"),
        ("train_accuracy", 0, "logit"),
        ("train_loss", 0, "log"),
        ("gap", -1, ""),
        ("gap_running", -1, ""),
        ("error_gap", -1, ""),
        ("sharpness[rho=0.05,bn=eval,batch=all]", 0, "log"),
        ("second_order[rho=0.05]", 0, "log"),
        ("eigenvalue[k=1]", 0, "log"),
        ("eigenvalue_min", 0, ""),
        ("lambda1_over_loss[subset=512]", 0, "log"),
        ("cos_gradient_top", 0, "logit"),
        ("interior_ball[rho=0.05]", 0, "logit"),
        ("direction_low[rho=0.05]", 0, "logit"),
        ("interior_ball_length[rho=0.05]", 0, ""),
        ("n_step_cosine[rho=0.05,n=3,rule=split]", 0, ""),
        ("my_plugin_notion", 0, ""),
    ],
)
def test_what_a_measures_name_says(measure: str, better: int, scale: str) -> None:
    assert (direction(measure), interval_scale(measure)) == (better, scale)


def test_a_radius_that_two_methods_share_is_no_reason_to_hide_either() -> None:
    runs = [made_up.run(OptimizerConfig.of(rho=rho), seed, 95 + seed) for rho in (0.05, 0.1) for seed in range(3)]
    (block,) = build(made_up.load("table3"), runs, [0.05])
    assert [row[0].text for row in compact(block).rows] == ["SAM (rho 0.05)", "SAM (rho 0.1)"]


def test_a_difference_over_fewer_seeds_says_so_and_a_sweeps_bold_is_the_best_mean_alone() -> None:
    optimizers = [OptimizerConfig.of(method="sgd"), OptimizerConfig.of()]
    rows = [made_up.run(o, seed, 90.0 + i + seed * (1 + i / 10)) for i, o in enumerate(optimizers) for seed in range(4 if i else 3)]
    block = compact(build(load("table3"), rows, [0.05])[0])
    assert any("(n=3, p " in cell for row in texts(block) for cell in row), texts(block)
    swept = replace(planted(), table="Sweep")
    assert "bold: the best mean" in compact(swept).notes[0] and "not told apart" not in compact(swept).notes[0]


def test_what_was_found_is_of_the_first_column() -> None:
    """A network at chance has the smallest gap, and stands before the best."""
    gaps = {"gap": {"SGD": np.array([1e-4]), "SAM": np.array([0.2])}}
    (block,) = build(load("table3"), runs_of({"SGD": np.array([10.0]), "SAM": np.array([95.0])}, gaps), [])
    assert block.finding == "Accuracy (%): best is SAM (95.00, n 1); nothing was tested."


def test_the_survivor_of_diverged_runs_is_not_the_best() -> None:
    runs = runs_of({"SGD": np.array([90.0, 90.1, 90.2]), "SAM": np.array([95.0, 95.0, 95.0])})
    gone = lambda r: r.config.optimizer.method == "sam" and r.config.seed > 0
    lost = [replace(r, status="diverged", diverged_epoch=1) if gone(r) else r for r in runs]
    (block,) = build(load("table3"), lost, [])
    assert best(block, "Accuracy (%)") == []  # one row is left, and none is bold


def test_rows_outside_of_the_family_are_said_to_be_uncorrected() -> None:
    runs = runs_of({"SGD": np.array([90.0, 91.0, 92.0]), "SAM": np.array([93.0, 94.1, 95.2])})
    own = [replace(r, config=replace(r.config, optimizer=OptimizerConfig.of(method="vasso")), setting="vasso") for r in runs[3:]]
    (block,) = build(load("table3"), [*runs, *own], [], own)
    assert "Holm-corrected; 1 row in no row of the layout: p uncorrected, part of no test" in compact(block, 200).notes[0]


@pytest.mark.parametrize("scale", [1, 100])
def test_the_interval_of_a_share_stays_between_0_and_1(scale: float) -> None:
    """|cos| 0.2, 0.7, 0.4: on its own scale the interval would reach from -0.2 to 1.1."""
    measure = "cos_gradient_top"
    raw = {"title": "T", "row_header": "M", "rows": [{"label": "SAM", "match": {"method": "sam"}}]}
    table = from_dict(TableConfig, {**raw, "columns": [{"key": "cos", "header": "cos", "measure": measure, "scale": scale}]})
    runs = [made_up.run(OptimizerConfig.of(), seed, 90.0) for seed in range(3)]
    runs = [replace(run, measures={**run.measures, measure: cos}) for run, cos in zip(runs, (0.2, 0.7, 0.4), strict=True)]
    summary = build(table, runs, [0.05])[0].rows[0][1].summary
    assert summary is not None and summary.ci_low is not None and summary.ci_high is not None
    assert 0 < summary.ci_low < 0.2 * scale < 0.7 * scale < summary.ci_high < scale


def test_the_best_gap_is_the_smallest() -> None:
    accuracy = {"SGD": np.array([90.0, 91.0, 92.0]), "SAM": np.array([93.0, 94.1, 95.2])}
    gaps = {label: 1 - values / 100 for label, values in accuracy.items()}
    (block,) = build(load("table3"), runs_of(accuracy, {"gap": gaps}), [])
    assert best(block, "Gap ×10³") == best(block, "Accuracy (%)") == ["SAM"]
