"""The table of a sweep, from planted runs: axes, cells, best, blocks; and runs that no table's row matches."""

from dataclasses import replace
from typing import Any

import made_up
import pytest
from omegaconf import OmegaConf

from sam.config import ConfigError
from sam.evaluation.evaluate import needs_pivots
from sam.optimizers.settings import METHODS, OptimizerConfig
from sam.schema import from_dict
from sam.settings import TrainConfig
from sam.tables import render, sweep, table
from sam.tables.cells import Block
from sam.tables.conditions import RunRow, check_select, selected
from sam.tables.settings import SweepConfig

SHIPPED = from_dict(SweepConfig, OmegaConf.to_container(OmegaConf.load(made_up.CONF / "sweep.yaml")))  # type: ignore[arg-type]


def run(accuracy: float, seed: int = 0, lost_at: int | None = None, data: dict[str, Any] | None = None, **keys: Any) -> RunRow:
    """A run with that accuracy and a gap of a tenth of it; `data`: changes to its data set."""
    dataset = replace(made_up.BASE.dataset, **(data or {}))
    row = made_up.run(OptimizerConfig.of(**keys), seed, accuracy, lost_at=lost_at, dataset=dataset, series=False)
    return replace(row, measures={"test_accuracy": accuracy, "gap": accuracy / 10} if lost_at is None else {})


def grid(**keys: Any) -> list[RunRow]:
    """N = 1 and 5 over three radii, three seeds each: accuracy 90 + 10 rho + N + seed; and SGD at 80 + seed."""
    sam = [run(90 + 10 * rho + n + s, s, rho=rho, ascent_steps=n, **keys) for n in (1, 5) for rho in (0.1, 0.2, 0.05) for s in range(3)]
    return [*(run(80.0 + s, s, method="sgd", **keys) for s in range(3)), *sam]


def built(runs: list[RunRow], **axes: Any) -> list[Block]:
    return sweep.build(replace(SHIPPED, **axes), runs, [0.05])


def cells(block: Block) -> dict[tuple[str, str], float | None]:
    """(row, column) -> mean, of the cells that hold a run."""
    found = {(row[0].text, cell.column): cell.summary.mean for row in block.rows for cell in row[1:] if cell.summary is not None}
    assert all(cell.text == "–" for row in block.rows for cell in row[1:] if cell.summary is None)
    return found


def best(block: Block) -> list[tuple[str, str]]:
    return [(row[0].text, cell.column) for row in block.rows for cell in row if cell.best]


def test_methods_over_radii() -> None:
    accuracy, gap = built(grid())
    expected = {(f"SAM N={n}", f"rho {rho:g}"): 91 + 10 * rho + n for n in (1, 5) for rho in (0.05, 0.1, 0.2)}
    assert cells(accuracy) == pytest.approx(expected | {("SGD", "no rho"): 81.0})
    assert accuracy.header == ("Method", "no rho", "rho 0.05", "rho 0.1", "rho 0.2") and accuracy.title.startswith(
        "Test accuracy (%) by rho"
    )
    assert [row[0].text for row in accuracy.rows] == ["SGD", "SAM N=1", "SAM N=5"]
    assert best(accuracy) == [("SAM N=5", "rho 0.2")] and best(gap) == [("SGD", "no rho")]
    (cell,) = (cell for row in accuracy.rows for cell in row if cell.best)
    assert cell.parts == ("98.0 ± 1.0", "n = 3") and cell.numbers == (97.0, 98.0, 99.0) and len(set(cell.folders)) == 3
    assert accuracy.finding == "Largest Test accuracy (%): SAM N=5 at rho 0.2, 98.0 ± 1.0."
    assert accuracy.notes and not gap.notes


def test_a_cell_with_a_diverged_run_is_not_the_best() -> None:
    runs = [run(90.0 + s, s, rho=rho) for s in range(2) for rho in (0.1, 0.2)] + [run(99.0, 0, rho=0.4), run(0.0, 1, lost_at=3, rho=0.4)]
    accuracy, gap = built(runs)
    assert best(accuracy) == [("SAM N=1", "rho 0.1"), ("SAM N=1", "rho 0.2")]  # equal means
    assert accuracy.rows[0][-1].text == "99.00 n = 1 1 of 2 diverged (epoch 3)" and best(gap) == best(accuracy)


def test_a_key_that_all_methods_were_swept_over_makes_blocks_and_one_of_a_single_method_rows() -> None:
    runs = [*grid(lr=0.1), *grid(lr=0.2)]
    blocks = built(runs)
    assert [b.title.rpartition(", ")[2] for b in blocks] == ["lr 0.1", "lr 0.2"] * 2 and len(cells(blocks[0])) == 7
    (rows, _) = built(runs, rows="optimizer.lr")[:2]
    assert [row[0].text for row in rows.rows if row[0].text.startswith("SAM N=5")] == ["SAM N=5 (lr 0.1)", "SAM N=5 (lr 0.2)"]
    by_lr = built(runs, columns="optimizer.lr", blocks="optimizer.rho")
    assert [b.title.rpartition(", ")[2] for b in by_lr[:3]] == ["rho 0.05", "rho 0.1", "rho 0.2"]
    assert by_lr[0].header == ("Method", "lr 0.1", "lr 0.2") and ("SGD", "lr 0.2") in cells(by_lr[2])
    by_n = built(grid(), columns="optimizer.ascent_steps")[0]
    assert by_n.header == ("Method", "no ascent_steps", "ascent_steps 1", "ascent_steps 5") and "SAM (rho 0.2)" in {
        r[0].text for r in by_n.rows
    }
    words = [run(90.0 + i, perturb=p, rho=rho) for i, p in enumerate(("all", "no_norm")) for rho in (0.1, 0.2)]
    assert built(words, columns="optimizer.perturb")[0].header == ("Method", "perturb all", "perturb no_norm")
    assert [row[0].text for row in built(words)[0].rows] == ["SAM N=1 (perturb all)", "SAM N=1 (perturb no_norm)"]
    with pytest.raises(ConfigError, match=r"sweep\.columns=optimizer\.lr: does not vary among these runs; optimizer\.method, "):
        built(grid(), columns="optimizer.lr")


def test_each_method_has_the_columns_that_it_was_swept_over() -> None:
    """SGD over lr and decay, XSAM over rho with a search and over constant alphas: PLAN.md's tuning stage."""
    runs = [run(50 + 10 * lr + 100 * decay, method="sgd", lr=lr, weight_decay=decay) for lr in (0.1, 0.2) for decay in (5e-4, 2e-3)]
    runs += [run(60 + rho, rho=rho, lr=0.2) for rho in (0.1, 0.2, 0.3)]
    runs += [run(70 + rho, method="xsam", rho=rho, lr=0.2) for rho in (0.1, 0.2)]
    runs += [run(75 + alpha, method="xsam", rho=0.2, alpha=alpha, lr=0.2) for alpha in (0.5, 2.0)]
    radii, _, lrs, _, alphas, _ = built(runs)
    assert radii.title.startswith("Test accuracy (%) by rho") and {row[0].text for row in radii.rows} == {"SAM N=1", "XSAM (alpha null)"}
    assert {row[0].text for row in lrs.rows} == {"SGD (weight_decay 0.0005)", "SGD (weight_decay 0.002)"} and lrs.header[1] == "lr 0.1"
    assert cells(alphas) == {("XSAM (alpha set)", "alpha 0.5"): 75.5, ("XSAM (alpha set)", "alpha 2"): 77.0}
    one = [run(70.0 + seed, seed=seed, method="xsam", alpha=alpha) for alpha in (None, 0.0) for seed in (0, 1)]  # a single number is named
    assert {row[0].text for row in built(one)[0].rows} == {"XSAM (alpha null)", "XSAM (alpha 0)"}


def test_tasks_are_never_mixed_and_without_a_swept_number_they_are_the_columns() -> None:
    runs = [*grid(), *grid(data={"label_noise": 0.2})]
    blocks = built(runs)
    assert len({b.title for b in blocks}) == 4 and [len(cells(b)) for b in blocks] == [7] * 4
    sizes = [run(90.0 + size, method=method, data={"train_size": size}) for size in (8, 16, 32) for method in ("sgd", "sam")]
    assert built(sizes)[0].header == ("Method", "train_size 8", "train_size 16", "train_size 32")
    plain = [run(90.0, method=method) for method in ("sgd", "sam")]
    assert built(plain)[0].header == ("Method", "Test accuracy (%)") and [row[0].text for row in built(plain)[0].rows] == ["SGD", "SAM N=1"]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([run(90.0, method="sgd"), run(91.0), run(92.0, method="xsam"), run(90.0, data={"label_noise": 0.2})], False),
        (grid(), True),
        ([run(90.0), run(90.0, ascent_steps=4)], True),
        ([run(90.0, lr=lr) for lr in (0.1, 0.2, 0.4)], True),
        ([run(90.0, lr=lr, weight_decay=decay) for lr in (0.1, 0.2) for decay in (0.0, 1e-3)], True),
        ([run(90.0, lr=lr) for lr in (0.1, 0.2)], False),
    ],
    ids=["the demo's", "radii", "an N that no table has", "lr", "lr x decay", "two lr are two conditions"],
)
def test_it_is_chosen_where_no_layout_fits(runs: list[RunRow], expected: bool) -> None:
    tables = [made_up.load(name) for name in ("table2", "table3", "measures")]
    assert needs_pivots(tables, runs, table.unmatched(tables, runs)) is expected


def test_a_run_that_no_row_matches_has_its_own_row_in_no_family_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "foreign", replace(METHODS["sgd"], label="Foreign"))
    runs = [run(90 + s / 2 + n, s, ascent_steps=n) for n in (1, 2, 4) for s in range(4)] + [
        run(85.0 + s, s, method="sgd") for s in range(4)
    ]
    layout = made_up.load("table2")
    lost = table.unmatched([layout, made_up.load("table3")], runs)
    assert {row.config.optimizer.ascent_steps for row in lost} == {4}  # type: ignore[attr-defined]  # SGD is in Table 3
    (plain,), (block,) = table.build(layout, runs, [0.05]), table.build(layout, runs, [0.05], lost)
    unmarked = lambda rows: [[replace(cell, best=False) for cell in row] for row in rows]  # the best may be the row below
    assert unmarked(block.rows[:4]) == unmarked(plain.rows) and [row[0].text for row in block.rows] == ["1", "2", "3", "5", "SAM N=4"]
    extra = next(cell for cell in block.rows[-1] if cell.kind == "difference")
    assert extra.paired is not None and extra.paired.mean == 3.0 and extra.comparison is not None and not extra.comparison.primary
    assert any(note.startswith("SAM N=4: in no row of this layout") for note in block.notes)
    plugin = [run(99.0, 0, method="foreign"), run(95.0)]
    (block,) = table.build(layout, plugin, [0.05], table.unmatched([layout], plugin))
    assert [row[0].text for row in block.rows] == ["1", "2", "3", "5", "Foreign"]
    assert table.build(layout, [r for r in runs if r.config.optimizer.method == "sgd"], [0.05], lost) == []


def test_select() -> None:
    config = TrainConfig(optimizer=OptimizerConfig.of(rho=0.1), seed=2)
    sgd = TrainConfig(optimizer=OptimizerConfig.of(method="sgd"))
    assert (
        selected(config, {})
        and selected(config, {"optimizer.rho": [0.05, 0.1], "seed": 2})
        and selected(config, {"optimizer": {"rho": 0.1}})
    )
    assert not selected(config, {"seed": [0, 1]}) and not selected(config, {"optimizer.rho": 0.1, "seed": 0})
    assert not selected(sgd, {"optimizer.rho": 0.05})  # it reads no radius
    check_select({"optimizer.method": ["sam", "sgd"], "seed": 0, "dataset": {"name": "digits"}})
    for wrong, words in (
        ({"optimizer.roh": 0.1}, "optimizer.rho"),
        ({"optimizer.method": "adam"}, "must be one of sgd"),
        ({"seed": "a"}, "whole number"),
    ):
        with pytest.raises(ConfigError, match=rf"^select\.{next(iter(wrong))}.*{words}"):
            check_select(wrong)


def test_beside_pivots_the_terminal_leaves_out_layouts_that_compare_nothing() -> None:
    """SGD tuned over lr and decay, and SAM at one of them: a layout is a condition's, and most conditions hold SGD alone."""
    runs = [
        run(50 + 10 * lr + 100 * d + s, s, method="sgd", lr=lr, weight_decay=d) for lr in (0.1, 0.2) for d in (5e-4, 2e-3) for s in (0, 1)
    ]
    runs += [run(60 + r + s, s, rho=r, lr=0.2, weight_decay=2e-3) for r in (0.1, 0.2) for s in (0, 1)]
    layouts = table.build(made_up.load("table3"), runs, [0.05], [])
    text = render.terminal([*built(runs), *layouts])
    assert len(layouts) == 4 and text.count("Table 3 layout") == 1 and "3 tables of a single row: in the files alone." in text
    assert render.terminal(layouts).count("Table 3 layout") == 4  # without pivots nothing else shows these runs
    assert render.markdown(layouts).count("Table 3 layout") == 4


def test_a_long_label_goes_over_several_lines_and_loses_nothing() -> None:
    """Two searches of XSAM told apart by their candidates."""
    many = [round(0.1 * i, 1) for i in range(31)]
    runs = [
        run(90 + r + s, s, method="xsam", rho=r, alpha_grid=grid) for grid in ([0.0, 1.0, 2.0], many) for r in (0.1, 0.2) for s in (0, 1)
    ]
    blocks = built(runs)
    text = render.terminal(blocks)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"{alpha:g}" in text for alpha in many) and "XSAM (alpha_grid [0, 1, 2]) " in text
