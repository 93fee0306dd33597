"""The statistics of whole tables, from runs to print: a planted effect is found, and nothing is found where there is nothing."""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy import stats

from data.settings import DatasetConfig
from models.settings import ModelConfig
from sam.optimizers.settings import OptimizerConfig
from sam.schema import from_dict
from sam.settings import ProtocolConfig, TrainConfig
from sam.tables import render
from sam.tables.cells import Block, Cell
from sam.tables.conditions import RunRow
from sam.tables.latex import latex_full
from sam.tables.settings import TableConfig
from sam.tables.table import build

CONF = Path(__file__).parents[2] / "conf" / "table"
SHARP = "sharpness[rho=0.05,bn=eval,batch=all]"
DEMO = TrainConfig(dataset=DatasetConfig(name="digits"), model=ModelConfig.of(depth=10, width=1), protocol=ProtocolConfig("demo"))
NAMES = {"SGD": "sgd", "Rand-SAM": "rand_sam", "SAM": "sam", "XSAM": "xsam"}


def load(name: str) -> TableConfig:
    return from_dict(TableConfig, OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")))  # type: ignore[arg-type]


def runs_of(accuracy: Mapping[str, np.ndarray], measures: Mapping[str, Mapping[str, np.ndarray]] | None = None) -> list[RunRow]:
    """One run per method (a label of Table 3) and seed; `measures` maps another measure to its values by method and seed."""
    rows = []
    for label, values in accuracy.items():
        optimizer = OptimizerConfig.of(method=NAMES[label])
        for seed, value in enumerate(values):
            config = replace(DEMO, optimizer=optimizer, seed=seed)
            more = {name: float(by_method[label][seed]) for name, by_method in (measures or {}).items()}
            found = {"test_accuracy": float(value), SHARP: 0.005, "train_loss": 0.1, "gap": 0.2} | more
            rows.append(RunRow(config, label, "finished", None, found, (), f"runs/{label}-{seed}", "f", "d", ()))
    return rows


def differences(block: Block, column: str = "Accuracy") -> dict[str, Cell]:
    cells = {row[block.labels - 1].text: c for row in block.rows for c in row if c.kind == "difference" and c.column.startswith(column)}
    return {label: cell for label, cell in cells.items() if cell.comparison is not None}


def planted() -> Block:
    """SAM 0.8 above SGD, XSAM equal in the mean with a spread that hides 0.3, Rand-SAM equal within 0.2; five seeds."""
    rng = np.random.default_rng(0)
    sgd = rng.normal(96, 0.4, 5)
    steps = np.array([-0.04, 0.03, 0.0, 0.05, -0.02])
    accuracy = {"SGD": sgd, "Rand-SAM": sgd + steps, "SAM": sgd + 0.8 + steps, "XSAM": sgd + 0.1 + 10 * steps}
    sharp = {label: np.full(5, 0.001 * i) + 1e-4 * rng.normal(size=5) for i, label in enumerate(accuracy, 1)}
    gap = {label: 0.5 - 20 * v + 1e-3 * rng.normal(size=5) for label, v in sharp.items()}
    (block,) = build(load("table3"), runs_of(accuracy, {SHARP: sharp, "gap": gap}), [0.05])
    return block


def test_planted_effect_is_in_the_numbers() -> None:
    cells = differences(planted())
    assert {label: cell.comparison.significant for label, cell in cells.items()} == {"Rand-SAM": False, "SAM": True, "XSAM": False}  # type: ignore[union-attr]
    p = {label: cell.paired.p for label, cell in cells.items()}  # type: ignore[union-attr]
    assert cells["SAM"].comparison.p_holm == pytest.approx(3 * p["SAM"])  # type: ignore[union-attr, operator]
    assert cells["SAM"].comparison.tests == 3 and cells["SAM"].comparison.level == pytest.approx(0.05 / 3)  # type: ignore[union-attr]
    same = cells["Rand-SAM"].comparison.equivalence  # type: ignore[union-attr]
    assert same is not None and same.shown and same.margin == 0.2
    assert cells["SAM"].comparison.equivalence is None  # type: ignore[union-attr]  # its row makes no such claim
    sharpness = differences(planted(), "Sharpness")["SAM"].comparison
    assert sharpness is not None and not sharpness.primary and sharpness.p_holm is None and sharpness.level == 0.05


FORMATS: dict[str, Callable[[list[Block]], str]] = {
    "markdown": lambda b: render.markdown(b).replace("<br>", " ").replace("&lt;", "<"),
    "latex": lambda b: latex_full(b).replace(r"$\pm$", "±").replace("$<$", "<").replace("$-$", "-").replace("{[}", "["),
    "csv": render.csv,
}


@pytest.mark.parametrize("name", FORMATS)
def test_planted_effect_is_said_in_every_format(name: str) -> None:
    text = FORMATS[name]([planted()])
    assert "Rand-SAM (p 0.88) and XSAM (p 0.88) are not told apart from SGD" in text
    assert "Rand-SAM is equivalent to SGD within ±0.2" in text
    assert "Does not show: which is best at equal compute" in text
    assert "SAM is above SGD by 0.80 points [0.76, 0.85] (Holm p 3e-6, n 5)" in text
    assert "Rank correlations are printed from 40 runs on; here are 20." in text


def test_rank_correlations_are_printed_from_40_runs_on() -> None:
    rng = np.random.default_rng(0)
    for seeds, shown in ((9, False), (10, True)):
        accuracy = {label: rng.normal(96, 0.4, seeds) for label in NAMES}
        measures = {name: {label: rng.normal(1, 0.1, seeds) for label in NAMES} for name in (SHARP, "gap")}
        blocks = build(load("table3"), runs_of(accuracy, measures), [0.05])
        text = render.markdown(blocks)
        assert ("n = 4 methods" in text) == ("within methods" in text) == (f"n = {4 * seeds} runs" in text) == shown
        assert ("Rank correlations are printed from 40 runs on; here are 36." in text) != shown
        (pair,) = blocks[0].correlations  # for programs it is there in any case
        line = next(x for x in csv.DictReader(io.StringIO(render.csv(blocks))) if x["row"] == "all runs")
        every = [x["text"] for x in csv.DictReader(io.StringIO(render.csv(blocks))) if x["row"] in render.CORRELATION_HEADER]
        numbers = [f"{r.rho:+.2f}" for r in (pair.across, pair.within, pair.between)]
        assert not shown or ([text.split()[0] for text in every] == numbers and len(set(numbers)) == 3)
        assert float(line["rank_correlation"]) == pair.across.rho and ("fewer than 40 runs" in line["text"]) != shown


def test_csv_has_every_number_of_the_tests() -> None:
    lines = list(csv.DictReader(io.StringIO(render.csv([planted()]))))
    cells = differences(planted())
    for label in ("Rand-SAM", "SAM"):
        line = next(x for x in lines if x["row"] == label and x["column"] == "Accuracy (%)")
        comparison = cells[label].comparison
        assert comparison is not None and comparison.welch is not None
        numbers = {"p_holm": comparison.p_holm, "detectable": comparison.detectable, "detectable_level": comparison.level}
        numbers |= {"welch_p": comparison.welch.p, "welch_df": comparison.welch.df, "tests": 3}
        assert {key: float(line[key]) for key in numbers} == numbers and line["primary"] == "True"
    line = next(x for x in lines if x["row"] == "Rand-SAM" and x["column"] == "Accuracy (%)")
    same = cells["Rand-SAM"].comparison.equivalence  # type: ignore[union-attr]
    assert same is not None and float(line["equivalence_p"]) == same.p and line["equivalence_shown"] == "True"
    (found,) = planted().correlations
    pair = [x for x in lines if x["column"] == "Sharpness ×10³ (ρ 0.05) with Gap ×10³"]
    assert [x["row"] for x in pair] == ["all runs", "within methods", "between methods"]
    assert [float(x["rank_correlation"]) for x in pair] == [found.across.rho, found.within.rho, found.between.rho]
    assert pair[1]["ci_low"] == repr(found.within.ci_low) and pair[2]["n"] == "4"


def test_csv_has_the_intervals() -> None:
    block = planted()
    lines = {x["row"]: x for x in csv.DictReader(io.StringIO(render.csv([block]))) if x["column"] == "Accuracy (%)"}
    for label, cell in differences(block).items():
        own = next(c.summary for row in block.rows for c in row if row[block.labels - 1].text == label and c.kind == "value")
        for prefix, found in (("", own), ("difference_", cell.paired)):
            assert {name: lines[label][prefix + name] for name in NUMBERS} == {name: repr(getattr(found, name)) for name in NUMBERS}


NUMBERS = ("n", "mean", "std", "ci_low", "ci_high", "low", "high")


def test_welchs_p_is_of_the_runs_of_both_rows() -> None:
    block = planted()
    values = {row[block.labels - 1].text: next(c.numbers for c in row if c.kind == "value") for row in block.rows}
    for label, cell in differences(block).items():
        assert cell.comparison is not None and cell.comparison.welch is not None
        assert cell.comparison.welch.p == pytest.approx(stats.ttest_ind(values[label], values["SGD"], equal_var=False).pvalue)


def test_difference_cell_says_everything_in_few_words() -> None:
    cell = differences(planted())["Rand-SAM"]
    paired = cell.paired
    assert paired is not None and paired.p is not None
    # differences -0.04, 0.03, 0, 0.05, -0.02: mean 0.004, std 0.0364692, t = 0.245254 with 4 degrees, p = 0.8183
    # Holm: XSAM's 0.44 times 2 is more, 0.88
    # TOST: (0.004 - 0.2) / 0.016310 = -12.018, p = 0.000138; nct: 5.124283 * 0.0364692 / sqrt(5) = 0.0836
    assert cell.parts[0] == "0.00" and cell.parts[2] == "n = 5, p = 0.82 (Holm 0.88)"
    assert cell.parts[3].startswith("Welch p = ")
    assert cell.parts[4:] == ("minimum detectable", "difference 0.08 (80% power)", "equivalent", "within ±0.20", "(TOST p < 0.001)")


def test_only_runs_that_were_made_count_as_tests() -> None:
    rng = np.random.default_rng(1)
    (block,) = build(load("table3"), runs_of({k: rng.normal(96, 0.1, 3) for k in ("SGD", "SAM")}), [0.05])
    cell = differences(block)["SAM"]
    assert cell.comparison is not None and cell.comparison.tests == 1 and cell.comparison.p_holm == cell.paired.p  # type: ignore[union-attr]


def test_one_seed_tests_nothing_and_says_so() -> None:
    (block,) = build(load("table3"), runs_of({k: np.array([96.0 + i]) for i, k in enumerate(NAMES)}), [0.05])
    assert "no test possible for Rand-SAM against SGD, SAM against SGD, XSAM against SGD" in block.verdict
    assert "equivalence of Rand-SAM and SGD within ±0.2 not established (no test)" in block.verdict and " is above " not in block.verdict
    assert differences(block)["Rand-SAM"].parts[-1] == "(no test)"


def test_nothing_is_corrected_and_nothing_found_where_nothing_was_named() -> None:
    table = replace(load("table3"), primary=None)
    (block,) = build(table, runs_of({k: 96 + i + 0.1 * np.arange(5.0) ** i for i, k in enumerate(NAMES)}), [0.05])
    assert all(not c.comparison.primary and c.comparison.p_holm is None for c in differences(block).values())  # type: ignore[union-attr]
    assert any(note.startswith("No test was named in advance") for note in block.notes) and " is above " not in block.verdict


@pytest.mark.slow
def test_a_null_table_finds_something_in_five_of_a_hundred() -> None:
    """Every row is SGD with other noise, seeds share a large effect: Holm keeps the chance of any finding at 5%, and p is uniform.

    The rows share their baseline, so that the tests depend on each other; Holm allows for that, and 5% is a bound.
    """
    rng, table = np.random.default_rng(3), load("table3")
    table = replace(table, columns=table.columns[:1], correlations=[])
    found, p_values = [], []
    for _ in range(300):
        seeds = rng.normal(96, 2, 4)
        (block,) = build(table, runs_of({label: seeds + rng.normal(0, 0.2, 4) for label in NAMES}), [])
        cells = differences(block)
        found.append(any(cell.comparison.significant for cell in cells.values()))  # type: ignore[union-attr]
        assert (" is above " in block.verdict or " is below " in block.verdict) == found[-1]
        p_values.append(cells["SAM"].paired.p)  # type: ignore[union-attr]
    assert 0.012 < np.mean(found) < 0.088  # 5% ± 3 standard errors; uncorrected it would be near 12%
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_what_was_found_among_survivors_names_those_that_diverged() -> None:
    draw = np.random.default_rng(0)
    runs = runs_of({"SGD": (sgd := 90 + draw.normal(size=6)), "SAM": sgd + 5 + 0.1 * draw.normal(size=6)})
    lost = [
        replace(run, status="diverged", diverged_epoch=1, measures={}) if run.folder.endswith(("SAM-0", "SGD-5")) else run for run in runs
    ]
    whole, survivors = (build(load("table3"), of, [0.05])[0].finding for of in (runs, lost))
    assert ", n 6)" in whole and "diverged" not in whole
    assert ", n 4, 2 diverged)" in survivors
