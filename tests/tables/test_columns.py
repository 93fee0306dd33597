"""Placeholders of a table, filled in from what was measured, and columns that nobody measured."""

import json
import re
from dataclasses import replace
from pathlib import Path

import made_up
import pytest
import torch

import sam.sharpness
from sam.config import ConfigError
from sam.optimizers.settings import OptimizerConfig
from sam.sharpness.settings import NOTIONS, SharpnessConfig
from sam.tables.columns import check_measure, filled
from sam.tables.conditions import RunRow
from sam.tables.settings import ColumnConfig, CorrelationConfig, RowConfig, TableConfig
from sam.tables.table import build, check

AT = SharpnessConfig.of(rho=[0.05, 0.5])
TABLE = TableConfig(
    title="Mine",
    row_header="Method",
    rows=[RowConfig("SAM", {"method": "sam"})],
    columns=[
        ColumnConfig("gap", "Gap", "gap"),
        ColumnConfig("top", "Top ({subset} images)", "eigenvalue[k=1,subset={subset}]", optional=True),
        ColumnConfig("trace", "Trace ({subset} images)", "trace[subset={subset}]", optional=True),
        ColumnConfig("average", "Average (ρ {rho}, {subset})", "average[rho={rho},subset={subset}]", each_rho=True, optional=True),
    ],
    correlations=[CorrelationConfig("top", "gap"), CorrelationConfig("trace", "gap")],
)


def run(seed: int = 0, **measures: float | None) -> RunRow:
    return replace(made_up.run(OptimizerConfig.of(), seed, 90.0), measures={"gap": 0.5} | measures)


def columns(*runs: RunRow) -> dict[str, str]:
    """Header -> measure."""
    table = filled(TABLE, AT, runs)
    return {} if table is None else {column.header: column.measure for column in table.columns}


def test_a_column_finds_its_measure_on_whatever_subset_it_was_taken() -> None:
    some = {"eigenvalue[k=1,subset=256]": 3.0, "eigenvalue[k=2,subset=256]": 2.0, "average[rho=0.05,subset=99]": 1.0}
    expected = {"Top (256 images)": "eigenvalue[k=1,subset=256]", "Average (ρ {rho}, 99)": "average[rho={rho},subset=99]"}
    assert columns(run(**some)) == {"Gap": "gap"} | expected
    every = {"eigenvalue[k=1]": 3.0, "trace": None, "average[rho=0.5]": 1.0}
    expected = {"Top (all images)": "eigenvalue[k=1]", "Trace (all images)": "trace", "Average (ρ {rho}, all)": "average[rho={rho}]"}
    assert columns(run(**every)) == {"Gap": "gap"} | expected


def test_a_measure_of_all_images_taken_on_some_alone_is_shown_as_that() -> None:
    plain = ColumnConfig("sharpness", "Sharpness (ρ {rho})", "sharpness[rho={rho},bn=eval,batch=all]", each_rho=True)
    table, some = replace(TABLE, columns=[plain], correlations=[]), {"sharpness[rho=0.05,bn=eval,batch=all,subset=99]": 1.0}
    cases: list[tuple[dict[str, float], str]] = [
        (some, ", 99 images"),
        ({}, ""),
        (some | {"sharpness[rho=0.5,bn=eval,batch=all]": 2.0}, ""),
    ]
    for measures, added in cases:
        made = filled(table, AT, [run(**measures)])
        assert made is not None and [column.header for column in made.columns] == [f"Sharpness (ρ {{rho}}){added}"]
        assert ("subset=99" in made.columns[0].measure) == bool(added)


def test_a_seed_that_was_not_measured_is_told_from_one_without_a_finite_value() -> None:
    table = replace(TABLE, columns=[ColumnConfig("trace", "Trace", "trace")], correlations=[])
    for second, said in (({}, "1 not measured"), ({"trace": None}, "1 without a finite value")):
        (block,) = build(table, [run(0, trace=1.0), run(1, **second)], [])
        assert block.rows[0][-1].parts == ("1.00", "n = 1", said)


def test_two_subsets_are_two_columns_and_never_one_mean() -> None:
    runs = [
        run(0, **{"eigenvalue[k=1,subset=1024]": 1.0}),
        run(1, **{"eigenvalue[k=1,subset=512]": 2.0}),
        run(2, **{"eigenvalue[k=1]": 4.0}),
    ]
    table = filled(TABLE, AT, runs)
    assert table is not None
    (block,) = build(table, runs, AT.rho)
    values = {cell.column: cell.summary for cell in block.rows[0] if cell.kind == "value" and cell.summary is not None}
    assert list(values) == ["Gap", "Top (all images)", "Top (512 images)", "Top (1024 images)"]
    assert [(v.mean, v.n) for name, v in values.items() if "Top" in name] == [(4.0, 1), (2.0, 1), (1.0, 1)]
    assert [c.x for c in block.correlations] == ["Top (all images)", "Top (512 images)", "Top (1024 images)"]


def test_an_optional_table_without_any_of_its_optional_columns_is_left_out() -> None:
    assert columns(run()) == {"Gap": "gap"}
    assert filled(replace(TABLE, optional=True), AT, [run()]) is None
    assert filled(replace(TABLE, optional=True), AT, [run(trace=1.0)]) is not None
    needed = replace(TABLE, columns=[replace(column, optional=False) for column in TABLE.columns])
    table = filled(needed, AT, [run()])
    assert table is not None and [column.measure for column in table.columns][1:] == ["eigenvalue[k=1]", "trace", "average[rho={rho}]"]
    (block,) = build(table, [run()], AT.rho)
    assert [cell.text for cell in block.rows[0][2:]] == ["not measured"] * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"measure": "eigenvalue[subset={subset},k=1]"}, r"must stand at its end"),
        ({"header": "Top"}, r"in its measure and in its header"),
        ({"margin": 0.1, "compare": True}, r"optional=true"),
    ],
)
def test_what_cannot_be_filled_in_is_refused(changes: dict[str, object], words: str) -> None:
    bad = [TABLE.columns[0], replace(TABLE.columns[1], **changes), *TABLE.columns[2:]]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=words):
        check(replace(TABLE, columns=bad))


def test_a_wrong_reference_is_refused_before_columns_are_left_out() -> None:
    with pytest.raises(ConfigError, match="correlations: x=tpo"):
        check(replace(TABLE, correlations=[CorrelationConfig("tpo", "gap")]))
    with pytest.raises(ConfigError, match=r"rows: SAM\.match\.metod"):
        check(replace(TABLE, rows=[RowConfig("SAM", {"metod": "sam"})]))


@pytest.mark.slow
def test_the_shipped_table_of_notions_names_what_the_notions_measure() -> None:
    """All measured on a small net, with the settings as they are: every column finds its measure, at both radii."""
    import torch

    import sam.sharpness

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    cheap = {"maximum": {"steps": 1}, "adaptive": {"steps": 1}, "keskar": {"iterations": 1}, "hessian": {"probes": 3}}
    notions = [name for name in NOTIONS if name not in ("landscape", "spectrum", "corruption")]
    for images in (600, 1500):
        data = torch.randn(images, 4), torch.randint(3, (images,))
        found = sam.sharpness.evaluate(net, (data, data), notions, AT.rho, **cheap)
        shipped = made_up.load("notions")
        check(shipped)
        table = filled(shipped, AT, [run(**found)])
        assert table is not None and {c.key for c in table.columns} == {c.key for c in shipped.columns}
        (block,) = build(table, [run(**found)], AT.rho)
        sam_row = next(row for row in block.rows if row[0].text == "SAM N=1")
        values = [cell for cell in sam_row if cell.kind == "value"]  # a difference from SGD, which this test does not run, is no measure
        assert len(values) == len(table.columns) + sum(c.each_rho for c in table.columns)
        assert all("n = 1" in cell.text for cell in values), [cell.text for cell in sam_row]
        assert len(table.correlations) == len(shipped.correlations)


# --------------------------------------------------------------------------------------------------------- names of measures


@pytest.mark.parametrize(
    "measure",
    [
        *("test_acuracy", "Gap", "", "xyz", "gap[", "gap]", "gap[subset=3]", "trace[]", "trace[subset]", "train_loss,subset=3"),
        *("sharpness", "sharpness[rho={rho},bn=evil,batch=all]", "sharpness[bn=eval,rho=0.05,batch=all]", "test_loss[bn=eval]"),
        *("eigenvalue", "eigenvalue[k=one]", "n_step[rho=0.05,n=3,rule=splitt]", "keskar[rho=0.05]", "average[rho=0.05,x=1]"),
    ],
)
def test_a_measure_that_nothing_has_is_refused(measure: str) -> None:
    with pytest.raises(ConfigError, match=rf"^columns: mine\.measure={re.escape(measure)}: .*\.$"):
        check(replace(TABLE, columns=[*TABLE.columns, ColumnConfig("mine", "Mine", measure)]))


def test_every_stored_name_is_known() -> None:
    """Of every notion, as measured on a small network, and those in a stored run."""
    settings = {"m": 4, "batchnorm": ["eval", "train", "recalibrated"], "hessian": {"eigenvalues": 2, "probes": 3}}
    settings |= {notion: {"subset": 5} for notion in ("average", "n_step", "spectrum", "ascent")}
    settings |= {"maximum": {"steps": 2}, "adaptive": {"steps": 2}, "keskar": {"iterations": 2}, "landscape": {"points": 3, "grid": 3}}
    data = torch.randn(9, 4), torch.arange(9) % 3
    found = sam.sharpness.evaluate(torch.nn.Linear(4, 3), (data, data), notions=["all"], **settings)
    stored = [json.loads(file.read_text(encoding="utf-8")) for file in Path("tests/fixtures/runs/finished").glob("*/sharpness.json")]
    assert len(found) > 60 and len(stored) == 1
    for name in [*found, *(name for row in stored[0]["rows"].values() for name in row["values"])]:
        check_measure(name, "columns: mine.measure")
