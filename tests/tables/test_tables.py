"""Tables from made-up runs: grouping, comparison, what is said under them, and the four renderings."""

import csv
import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from data.settings import AugmentationConfig, DatasetConfig
from models.settings import ModelConfig
from sam.config import ConfigError
from sam.evaluation.evaluate import started_from
from sam.optimizers.settings import OptimizerConfig
from sam.schema import from_dict, schema
from sam.settings import ProtocolConfig, TrainConfig
from sam.tables import render
from sam.tables.cells import EMPTY, Block, Cell
from sam.tables.compact import compact
from sam.tables.conditions import RunRow, conditions
from sam.tables.footnotes import FEW, _told
from sam.tables.latex import escape_latex, latex, latex_full
from sam.tables.published import lookup
from sam.tables.render import grids
from sam.tables.settings import CorrelationConfig, TableConfig
from sam.tables.table import build

CONF = Path(__file__).parents[2] / "conf" / "table"
SHARP = "sharpness[rho=0.05,bn=eval,batch=all]"
DEMO = TrainConfig(
    dataset=DatasetConfig(name="digits"), model=ModelConfig.of(depth=10, width=1), epochs=30, protocol=ProtocolConfig("demo")
)
WRN = TrainConfig(augmentation=AugmentationConfig(crop_padding=4, flip=True))


def load(name: str) -> TableConfig:
    return from_dict(TableConfig, OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")))  # type: ignore[arg-type]


def run(config: TrainConfig = DEMO, seed: int = 0, accuracy: float = 97.0, *, lost_at: int | None = None, **extra: Any) -> RunRow:
    optimizer = OptimizerConfig.of(**{k: extra.pop(k) for k in list(extra) if k in schema(OptimizerConfig)})
    config = replace(config, optimizer=optimizer, seed=seed, run_dir=f"somewhere/{seed}", device="cpu", runs_dir=f"r{seed}")
    used = {k: getattr(optimizer, k) for k in optimizer.used_keys}
    measures = {"test_accuracy": accuracy, SHARP: 0.005, "train_loss": 0.001, "gap": 0.15} | extra.pop("measures", {})
    return RunRow(
        config=config,
        setting=f"{replace(config, optimizer=OptimizerConfig.of(), seed=0, run_dir=None, runs_dir='')}{used}",
        status="finished" if lost_at is None else "diverged",
        diverged_epoch=lost_at,
        measures=measures,
        epochs=(),
        folder=f"runs/{optimizer.method}-{used.get('ascent_steps', 1)}-{used.get('rho', 0.05):g}-{seed}{extra.pop('copy', '')}",
        fingerprint="f00",
        data_fingerprint=extra.pop("data", "d1"),
        data_notes=("8 x 8 pictures",),
        init_from=extra.pop("origin", None),
        started_from=started_from(config),
    )


def cell(block: Block, row: str, column: str, kind: str = "value") -> Cell:
    cells = next(r for r in block.rows if r[block.labels - 1].text == row)
    return next(c for c in cells if c.kind == kind and c.column.startswith(column))


def labels(block: Block) -> list[str]:
    return [row[block.labels - 1].text for row in block.rows]


# ------------------------------------------------------------------------------------------------------------ the yaml files


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_latex_knows_every_character_of_the_shipped_tables(path: Path) -> None:
    escaped = escape_latex(path.read_text())
    assert escaped.isascii(), {c for c in escaped if not c.isascii()}
    assert "|" not in escaped.replace("\\|", "")  # in the default font a bare one prints as a dash


@pytest.mark.parametrize("name", ["table2", "table3", "measures"])
def test_yaml_is_a_table(name: str) -> None:
    table = load(name)
    assert (CONF / f"{name}.yaml").read_text().startswith(f"# @package tables.{name}\n")  # Hydra reads it in the first line only
    assert build(table, [run(method="sgd"), run(), run(ascent_steps=2)], [0.05])
    keys = {c.key for c in table.columns}
    assert len(keys) == len(table.columns) and all(set(row.published) <= keys for row in table.rows)


def test_yaml_all_names_every_table() -> None:
    assert OmegaConf.load(CONF / "all.yaml").defaults == ["sweep", "table2", "table3", "measures", "notions", "_self_"]


def test_published_ids_are_about_the_row_and_column_they_stand_in() -> None:
    metric = {"accuracy": "acc", "sharpness": "LAsc sharpness x1e3", "gap": "gap x1e3"}
    method = {"1": "SAM N=1 rho.05", "2": "SAM N=2 rho.05", "3": "SAM N=3 rho.05", "5": "SAM N=5 rho.05", "Rand-SAM": "Rand-SAM rho.05"}
    seen = []
    for table in (load("table2"), load("table3")):
        for row in table.rows:
            for key, ids in row.published.items():
                for p in lookup(ids):
                    seen.append(p.id)
                    assert (p.metric, p.method, p.paper) == (metric[key], method.get(row.label, row.label), "Tiwary2024")
                    assert next(c for c in table.columns if c.key == key).scale == (1 if key == "accuracy" else 1000)
    assert sorted(seen) == [f"s{i:02d}" for i in range(1, 19)]


# ------------------------------------------------------------------------------------------------------------------ content


def test_planted_difference_is_recovered() -> None:
    base = {0: 90.0, 1: 95.0, 2: 97.0}
    runs = [run(seed=s, accuracy=a) for s, a in base.items()]
    runs += [run(seed=s, accuracy=a + d, ascent_steps=2) for (s, a), d in zip(base.items(), (0.3, 0.4, 0.5), strict=True)]
    (block,) = build(load("table2"), runs, [0.05])
    # logits 2.197, 2.944, 3.476: mean 2.873, sd 0.6425, half width 4.302653 * 0.6425 / sqrt(3) = 1.596
    assert cell(block, "1", "Accuracy").parts == ("94.0 ± 3.6", "[78.2, 98.9]", "n = 3")
    # differences 0.3, 0.4, 0.5: mean 0.4, std 0.1, half width 4.302653 * 0.1 / sqrt(3) = 0.2484, t = 6.928, p = 0.0202
    assert cell(block, "2", "Accuracy", "difference").parts[:3] == ("+0.40", "[+0.15, +0.65]", "n = 3, p = 0.02 (Holm 0.02)")
    assert cell(block, "1", "Accuracy", "difference").text == "baseline"


def test_scale_and_radius() -> None:
    other = "sharpness[rho=0.2,bn=eval,batch=all]"
    runs = [run(seed=s, measures={SHARP: 0.004 + s * 0.001, other: 0.5}) for s in range(2)]
    (block,) = build(load("table2"), runs, [0.05, 0.2])
    assert cell(block, "1", "Sharpness ×10³ (ρ 0.05)").summary.mean == pytest.approx(4.5)  # type: ignore[union-attr]
    assert cell(block, "1", "Sharpness ×10³ (ρ 0.2)").summary.mean == pytest.approx(500)  # type: ignore[union-attr]
    assert not any("{rho}" in h for h in block.header)


def test_rows_without_runs_and_blocks_without_rows() -> None:
    (block,) = build(load("table2"), [run(method="sgd"), run()], [0.05])
    assert labels(block) == ["1", "2", "3", "5"]
    assert cell(block, "2", "Accuracy").text == "not run" and cell(block, "2", "Accuracy", "difference").text == "–"
    assert build(load("table2"), [run(method="sgd"), run(method="xsam")], [0.05]) == []


def test_sweep_is_split_and_compared_at_equal_radius() -> None:
    runs = [run(seed=s, accuracy=a + s, rho=r, ascent_steps=n) for s in (0, 1) for r, n, a in SWEEP]
    (block,) = build(load("table2"), runs, [0.05])
    assert labels(block) == ["1 (rho 0.05)", "1 (rho 0.1)", "2 (rho 0.05)", "2 (rho 0.1)", "2 (rho 10)", "3", "5"]
    assert cell(block, "1 (rho 0.1)", "Accuracy").summary.mean == 81.5  # type: ignore[union-attr]
    same = cell(block, "2 (rho 0.1)", "Accuracy", "difference")
    assert same.baseline == "1 (rho 0.1)" and same.paired.mean == 2.0 and "vs 1 (rho 0.1)" in same.text  # type: ignore[union-attr]
    first = cell(block, "2 (rho 10)", "Accuracy", "difference")
    assert first.baseline == "1 (rho 0.05)" and first.paired.mean == -30.0  # type: ignore[union-attr]


def test_of_baselines_at_one_radius_the_one_with_most_settings_in_common_counts() -> None:
    tried = [(1, "all", 90.0), (1, "no_norm", 80.0), (2, "no_norm", 82.0)]
    (block,) = build(load("table2"), [run(accuracy=a, ascent_steps=n, perturb=p) for n, p, a in tried], [0.05])
    found = cell(block, "2", "Accuracy", "difference")
    assert found.baseline == "1 (perturb no_norm)" and found.paired is not None and found.paired.mean == 2.0


SWEEP = [(0.05, 1, 90.0), (0.1, 1, 81.0), (10.0, 2, 60.0), (0.05, 2, 91.0), (0.1, 2, 83.0)]


def test_other_settings_split_too_and_idle_keys_do_not() -> None:
    runs = [run(ascent_steps=2), run(ascent_steps=2, step_rule="project", seed=1), run(), run(seed=1, descent_gradient="mean")]
    (block,) = build(load("table2"), runs, [0.05])
    assert labels(block)[:3] == ["1", "2 (step_rule project)", "2 (step_rule split)"]
    assert cell(block, "1", "Accuracy").summary.n == 2  # type: ignore[union-attr]


def test_learning_rate_noise_precision_and_data_make_blocks_seeds_and_devices_do_not() -> None:
    noisy = replace(DEMO, dataset=replace(DEMO.dataset, label_noise=0.2))
    runs = [run(), run(seed=1), run(lr=0.05), run(noisy), run(replace(DEMO, precision="bf16")), run(data="d2")]
    assert len(conditions([*runs, run(replace(DEMO, checkpoint_steps=5, eval_interval=0, keep_checkpoints=[1]), seed=2)])) == 5
    elsewhere = ({"threads": 3}, {"dataset": replace(DEMO.dataset, root="/mnt")}, {"protocol": ProtocolConfig("demo", ["said"])})
    assert len(conditions([run(), *(run(replace(DEMO, **change), seed=1) for change in elsewhere)])) == 1
    blocks = build(load("table2"), runs, [0.05])
    assert [c.label for c in conditions(runs)] == [b.title.removeprefix("Table 2 layout, ") for b in blocks]
    assert len(blocks) == 5 and len({b.title for b in blocks}) == 5
    assert "Table 2 layout, digits demo, data=d2, optimizer.lr=0.1, precision=fp32" in {b.title for b in blocks}
    assert [b.title for b in blocks if "20%" in b.title] == ["Table 2 layout, digits demo, 20% wrong training labels"]
    assert sorted(cell(b, "1", "Accuracy").summary.n for b in blocks) == [1, 1, 1, 1, 2]  # type: ignore[union-attr]
    (other,) = build(load("table2"), [run(WRN)], [0.05])
    assert other.title == "Table 2 layout, CIFAR-10, WRN-28-10, 200 epochs, protocol tiwary2024"


def test_weights_to_start_from_make_blocks_by_content_not_by_path() -> None:
    here, moved = replace(DEMO, init_from="a/w.th"), replace(DEMO, init_from="b/w.th")
    ours = replace(WRN, init_from="runs/digits-wrn-s0/checkpoint.pt")
    runs = [run(), run(here, origin="h1"), run(moved, seed=1, origin="h1"), run(here, origin="h2"), run(ours, origin="h3")]
    found = {condition.label: len(condition.runs) for condition in conditions(runs)}
    assert found == {
        "digits demo": 1,
        "digits demo, started from w.th, init_from=h1": 2,
        "digits demo, started from w.th, init_from=h2": 1,
        "CIFAR-10, WRN-28-10, 200 epochs, protocol tiwary2024, started from digits-wrn-s0": 1,
    }


def test_diverged_runs_are_counted_and_never_averaged() -> None:
    runs = [run(seed=0, accuracy=90), run(seed=1, accuracy=92), run(seed=2, accuracy=10, lost_at=3)]
    runs += [run(seed=s, accuracy=93, ascent_steps=2) for s in range(3)] + [
        run(seed=s, accuracy=1, ascent_steps=3, lost_at=s) for s in (4, 5)
    ]
    (block,) = build(load("table2"), runs, [0.05])
    one = cell(block, "1", "Accuracy")
    assert one.summary.mean == 91 and one.summary.n == 2 and one.diverged == (2,)  # type: ignore[union-attr]
    assert one.text.endswith("n = 2 1 of 3 diverged (epoch 3)")
    assert cell(block, "2", "Accuracy", "difference").paired.mean == 2.0  # type: ignore[union-attr]
    assert "Accuracy (%), 2 against 1: common seeds 0, 1 (n = 2)." in block.notes
    assert cell(block, "3", "Accuracy").text == "2 of 2 diverged (epochs 4, 5)"
    assert cell(block, "3", "Accuracy", "difference").text == "no common seed"
    assert any("survivors" in note for note in block.notes)


def test_a_seed_run_twice_counts_once() -> None:
    (block,) = build(load("table2"), [run(copy="-b", accuracy=50.0), run(copy="-a", accuracy=90.0)], [0.05])
    assert cell(block, "1", "Accuracy").summary.n == 1 and cell(block, "1", "Accuracy").summary.mean == 90.0  # type: ignore[union-attr]
    assert any("seed 0 was run more than once; runs/sam-1-0.05-0-b is left out" in n for n in block.notes)


def test_a_finished_run_stands_for_its_seed_rather_than_a_diverged_copy() -> None:
    (block,) = build(load("table2"), [run(copy="-a", accuracy=1.0, lost_at=2), run(copy="-b", accuracy=90.0)], [0.05])
    assert cell(block, "1", "Accuracy").parts == ("90.00", "n = 1")


def test_an_unfinished_run_is_refused() -> None:
    with pytest.raises(ValueError, match="running"):
        build(load("table2"), [replace(run(), status="running")], [0.05])


def test_order_of_the_runs_does_not_matter() -> None:
    noisy = replace(DEMO, dataset=replace(DEMO.dataset, label_noise=0.2))
    runs = [run(c, seed=s, accuracy=90 + s, rho=r) for c in (DEMO, noisy) for s in range(3) for r in (0.05, 0.1)]
    assert build(load("table2"), runs, [0.05]) == build(load("table2"), runs[::-1], [0.05])


def test_missing_and_infinite_measures() -> None:
    runs = [run(seed=0, measures={"gap": None}), run(seed=1, measures={"gap": math.inf}), run(seed=2, measures={"gap": 0.2})]
    (block,) = build(load("table2"), runs, [0.05, 0.7])
    assert cell(block, "1", "Gap").parts == ("200.0", "n = 1", "2 without a finite value")
    assert cell(block, "1", "Sharpness ×10³ (ρ 0.7)").text == "not measured"


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_was_measured_and_has_no_finite_value_is_not_called_unmeasured(value: float | None) -> None:
    (block,) = build(load("table2"), [run(seed=s, measures={"gap": value}) for s in range(2)], [0.05])
    assert cell(block, "1", "Gap").parts == ("no finite value",)


def test_a_run_that_two_rows_match_is_one_observation_of_a_correlation() -> None:
    runs = [run(seed=s, rho=r, measures={SHARP: 0.001 * s * s + r, "gap": 0.1 + 0.01 * s}) for s in range(4) for r in (0.05, 0.1)]
    table = load("table2")
    (once,) = build(replace(table, rows=table.rows[:1]), runs, [0.05])
    again = replace(table.rows[0], label="again", published={})
    (twice,) = build(replace(table, rows=[table.rows[0], again]), runs, [0.05])
    assert twice.correlations == once.correlations and once.correlations[0].across.n == 8


# -------------------------------------------------------------------------------------------------------- published and notes


def test_published_only_beside_the_papers_setting() -> None:
    table = load("table2")
    (ours,) = build(table, [run(WRN), run(WRN, ascent_steps=2)], [0.05, 0.1])
    assert cell(ours, "1", "Accuracy", "published").text == "97.3 ± <0.1 (std, n unstated; s01)"
    assert cell(ours, "2", "Sharpness ×10³ (ρ 0.05)", "published").text == "9.6 ± 3.4 (std, n unstated; s06)"
    assert cell(ours, "5", "Gap", "published").text == "46.4 ± 1.2 (std, n unstated; s12)"  # a row that was not run
    assert sum("published (protocol unstated)" in h for h in ours.header) == 3  # at rho 0.05, not at 0.1
    for config in (DEMO, replace(WRN, epochs=100), replace(WRN, dataset=DatasetConfig(name="cifar100"))):
        (elsewhere,) = build(table, [run(config)], [0.05])
        assert not any("ublished" in text for text in (*elsewhere.header, *elsewhere.notes))
    (swept,) = build(table, [run(WRN), run(WRN, rho=0.1)], [0.05])
    assert cell(swept, "1 (rho 0.1)", "Accuracy", "published").text == "–"


def test_other_images_get_neither_the_name_nor_the_published_values() -> None:
    """In every shipped table that has published values, beside runs that have them."""
    mine = {"cifar10": "b15454854329bdde", "cifar100": "6d8a56e1b296ea82"}
    for name, dataset in ((t, d) for t in ("table2", "table3") for d in mine):
        config = replace(WRN, dataset=DatasetConfig(name=dataset, path="images.npz"))
        methods = ("sgd", "sam", "rand_sam")

        def shown(data: str, config: TrainConfig = config, name: str = name, methods: tuple[str, ...] = methods) -> str:
            blocks = build(load(name), [run(config, method=method, data=data) for method in methods], [0.05])
            return "\n".join([text for b in blocks for text in (b.title, *b.header, *b.notes, *(c.text for row in b.rows for c in row))])

        label = config.dataset.label
        own, old, others = shown(mine[dataset]), shown(""), shown("0" * 16)
        assert f"{label}, WRN-28-10" in own and f"{label}, WRN-28-10" in old and f"images not known to be {label}, WRN-28-10" in others
        assert ("ublished (" in own) == ("ublished (" in old) == (name == "table3" or dataset == "cifar10")
        assert "ublished (" not in others and "An SGD gap near" not in others
        swapped = shown(mine["cifar100" if dataset == "cifar10" else "cifar10"])
        assert f"{label}, WRN-28-10" not in swapped and "ublished (" not in swapped


def test_a_published_value_stands_beside_no_measure_of_some_images() -> None:
    table = load("table2")
    some = [replace(c, measure=c.measure.replace("batch=all", "batch=all,subset=512")) for c in table.columns]
    (block,) = build(replace(table, columns=some), [run(WRN)], [0.05])
    assert [header.partition(" (")[0] for header in block.header if "published" in header] == ["Accuracy", "Gap ×10³: published"]


def test_table3_picks_the_data_set_and_says_what_was_copied() -> None:
    runs = [
        run(replace(WRN, dataset=DatasetConfig(name=d)), method=m) for d in ("cifar10", "cifar100") for m in ("sgd", "rand_sam", "xsam")
    ]
    first, second = build(load("table3"), runs, [0.05])
    assert first.header[:3] == ("Model", "Dataset", "Optimizer")
    assert [c.text for c in second.rows[0][:3]] == ["WRN-28-10", "CIFAR-100", "SGD"]
    assert [cell(b, "SGD", "Accuracy", "published").text[:4] for b in (first, second)] == ["96.5", "81.2"]
    assert [cell(b, "Rand-SAM", "Accuracy", "published").text[:4] for b in (first, second)] == ["96.9", "82.3"]
    assert cell(first, "XSAM", "Accuracy", "published").text == "–"
    assert any("copied from Foret et al. 2021" in n for n in second.notes)
    assert any("130-160" in n for n in first.notes) and not any("130-160" in n for n in second.notes)


def test_a_random_direction_under_16_bit_autocast_is_said_not_to_be_interpretable() -> None:
    def noted(precision: str, **optimizer: Any) -> list[str]:
        blocks = build(load("measures"), [run(replace(DEMO, precision=precision), **optimizer)], [0.05])
        return [note for block in blocks for note in block.notes if "rounding the weights" in note]

    for precision in ("bf16", "fp16"):
        (note,) = noted(precision, method="rand_sam")
        assert note.startswith(f"Rand-SAM at rho 0.05 in {precision} autocast:")
        assert not noted(precision, method="sam")
    assert not noted("fp32", method="rand_sam") and not noted("tf32", method="rand_sam")


def test_where_rounding_was_measured_the_warning_goes_by_the_readable_rho() -> None:
    def noted(precision: str, found: dict[str, float | None], **optimizer: Any) -> list[str]:
        made = run(replace(DEMO, precision=precision), **optimizer)
        (block,) = build(load("measures"), [replace(made, measures={**made.measures, **found})], [0.05])
        return [note for note in block.notes if "rounding the weights" in note]

    random, gradient = "rounding_readable[to=bf16,along=random]", "rounding_readable[to=bf16,along=gradient,subset=512]"
    both: dict[str, float | None] = {random: 0.4, gradient: 0.03}
    (note,) = noted("bf16", both, method="rand_sam")
    assert note.startswith("Rand-SAM at rho 0.05 in bf16 autocast: ") and "below rho 0.4" in note and "not interpretable" in note
    assert not noted("bf16", both, method="rand_sam", rho=0.4) and not noted("bf16", both, method="sam")
    (note,) = noted("bf16", both, method="sam", rho=0.02)
    assert note.startswith("SAM at rho 0.02 in bf16 autocast: ") and "below rho 0.03" in note
    assert len(noted("bf16", {random: None}, method="rand_sam", rho=3.0)) == 1  # readable at no rho
    assert not noted("fp32", both, method="rand_sam") and not noted("bf16", both, method="sgd")
    assert len(noted("tf32", {"rounding_readable[to=tf32,along=random]": 0.06}, method="rand_sam")) == 1
    assert len(noted("fp16", both, method="rand_sam")) == 1  # another format was measured: the rule stands


def test_every_table_says_by_what_recipe_its_rows_were_trained() -> None:
    plain = "Trained by: 30 epochs, batch 256, one perturbation a batch, last partial batch kept; lr 0.1, cosine per step; momentum 0.9"
    plain += " (Nesterov); weight decay 0.0005 in the loss; augmentation none; no clipping; precision fp32."
    for name in ("table2", "table3", "measures", "notions"):
        (block,) = build(replace(load(name), optional=False), [run(method="sam")], [0.05])
        assert [note for note in block.notes if note.startswith("Trained by")] == [plain]
    pictures = AugmentationConfig(crop_padding=4, padding_mode="zeros", flip=True, cutout=16, cutout_probability=0.5)
    other = replace(DEMO, epochs=1, m=32, batch_size=128, drop_last=True, schedule="wrn_step", warmup_epochs=0.5, label_smoothing=0.1)
    other = replace(other, augmentation=pictures, precision="bf16", dataset=replace(DEMO.dataset, val_fraction=0.2))
    decay = {"weight_decay": 0.001, "weight_decay_mode": "optimizer", "weight_decay_scope": "no_norm_bias"}
    (block,) = build(load("table2"), [run(other, grad_clip=5.0, lr=0.05, momentum=0.0, nesterov=False, **decay)], [0.05])
    assert (
        "Trained by: 1 epoch (20% of the training images held out for validation), batch 128, perturbed in groups of 32 (m), last partial"
        " batch dropped; lr 0.05, x0.2 at 30, 60, 80% after"
        " 0.5 epochs of warm-up; momentum 0; weight decay 0.001 in the optimizer, without normalisation and biases; augmentation flip,"
        " crop 4 (zeros), Cutout 16 at 0.5; clipping at 5; label smoothing 0.1; precision bf16."
    ) in block.notes
    (block,) = build(load("table2"), [run(other, base="adamw", betas=[0.9, 0.95])], [0.05])
    assert any("; AdamW, betas 0.9, 0.95; weight decay" in note for note in block.notes)
    (block,) = build(load("table2"), [run(replace(WRN, epochs=1))], [0.05])
    assert ", 1 epoch, " in block.title
    (block,) = build(load("table2"), [run(replace(DEMO, dataset=replace(DEMO.dataset, val_size=300)))], [0.05])
    assert any("30 epochs (300 training images held out for validation), batch" in note for note in block.notes)


@pytest.mark.parametrize(("decay", "method", "said"), [(5e-4, "xsam", 1), (0.0, "xsam", 0), (5e-4, "sam", 0)])
def test_xsam_with_decay_in_the_loss_is_not_called_the_released_one(decay: float, method: str, said: int) -> None:
    for name in ("table3", "measures"):
        (block,) = build(load(name), [run(method=method, weight_decay=decay, weight_decay_mode="loss")], [0.05])
        assert sum("not the released algorithm" in note for note in block.notes) == said
        (block,) = build(load(name), [run(method=method, weight_decay=decay, weight_decay_mode="optimizer")], [0.05])
        assert not any("not the released algorithm" in note for note in block.notes)


def test_notes() -> None:
    protocol = ProtocolConfig("demo", ["noise: labels are wrong on purpose", "clean: labels are right", "a small net"])
    clean = replace(DEMO, protocol=protocol)
    noisy = replace(clean, dataset=replace(clean.dataset, label_noise=0.2))
    runs = [run(clean), run(noisy), run(noisy, seed=4), run(noisy, ascent_steps=2, seed=4)]
    first, second = build(load("table2"), runs, [0.05])
    assert "labels are right" in first.notes and "labels are wrong on purpose" not in first.notes and "a small net" in first.notes
    assert "labels are wrong on purpose" in second.notes and "labels are right" not in second.notes
    assert "Gap: mean test loss - mean loss on the unaugmented training set, both in eval mode." in first.notes
    assert "Gap: test loss in expectation over the label channel minus noisy training loss." in second.notes
    assert "1: one seed: no spread can be given." in first.notes and "2: one seed: no spread can be given." in second.notes
    assert "Seeds: 1: 0, 4 (2); 2: 4 (1)." in second.notes
    assert "Data fingerprint: d1." in first.notes and "8 x 8 pictures" in first.notes
    assert len(first.notes) == len(set(first.notes))


def test_a_known_data_set_is_named_by_its_bytes() -> None:
    """And nothing that is downsampled is called CIFAR-10, or has published values beside it."""
    paper = TrainConfig(augmentation=AugmentationConfig(crop_padding=4, flip=True))

    def block(dataset: DatasetConfig, **extra: Any) -> Block:
        (made,) = build(load("table3"), [run(replace(paper, dataset=dataset), **extra)], [0.05])
        return made

    def has_published(made: Block) -> bool:
        return any("published" in header for header in made.header)

    arrays = DatasetConfig(name="arrays", path="x.npz")
    small = block(arrays, data="f5b199186481bfec")
    assert small.title.split(", WRN-28-10")[0].endswith(", CIFAR-10 at 16 x 16 (2 x 2 means)") and not has_published(small)
    assert {row[1].text for row in small.rows} == {"CIFAR-10 at 16 x 16 (2 x 2 means)"}
    assert "CIFAR-10 at 16 x 16 (2 x 2 means), 90 of 60,000 images JPEG-decoded" in small.notes
    drawn = block(replace(arrays, train_size=4000, sample="seed"), data="f5b199186481bfec")
    assert "CIFAR-10 at 16 x 16 (2 x 2 means), 4000 training images, drawn by each seed, WRN-28-10" in drawn.title
    other = block(arrays)
    assert ", arrays, WRN-28-10" in other.title and "8 x 8 pictures" in other.notes and not has_published(other)
    cifar = block(DatasetConfig(name="cifar10"))
    assert ", CIFAR-10, WRN-28-10" in cifar.title and has_published(cifar)


def test_mistakes_in_a_table_are_refused() -> None:
    table = load("table2")
    with pytest.raises(ConfigError, match="baseline=7"):
        build(replace(table, baseline="7"), [run()], [0.05])
    with pytest.raises(ConfigError, match=r"published\.acc"):
        build(replace(table, rows=[replace(table.rows[0], published={"acc": ["s01"]})]), [run()], [0.05])
    with pytest.raises(ConfigError, match="stands over 2 columns"):
        build(
            replace(table, rows=[], baseline=None, primary=None, correlations=[], columns=[replace(table.columns[1], header="Sharpness")]),
            [run()],
            [0.05, 0.1],
        )
    broken = {
        "primary=acc: must be the key of a column": replace(table, primary="acc"),
        "primary=gap: must be a column with compare: true: accuracy, sharpness": replace(table, primary="gap"),
        "primary=accuracy: needs a baseline row": replace(table, baseline=None),
        "correlations: y=gapp": replace(table, correlations=[CorrelationConfig("sharpness", "gapp")]),
        "gap.margin: only a column with compare: true": replace(table, columns=[*table.columns[:3], replace(table.columns[3], margin=1.0)]),
        "rows: 2.equivalence=true: needs a margin": replace(table, rows=[table.rows[0], replace(table.rows[1], equivalence=True)]),
    }
    for message, bad in broken.items():
        with pytest.raises(ConfigError, match=message):
            build(bad, [run()], [0.05])
    for values, message in (
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"power": 0.3}, "power=0.3"),
        ({"columns": [{"key": "a", "margin": -1}]}, "a.margin"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_dict(TableConfig, values)
    with pytest.raises(ConfigError, match="ascent_stepz"):
        build(replace(table, rows=[table.rows[0], replace(table.rows[1], match={"ascent_stepz": 2})]), [run()], [0.05])


def test_sentences_on_numbers() -> None:
    assert _told(list("abcde"), {}, FEW) == ["a", "b", "c", "2 more differ"]
    runs = [run(seed=s, accuracy=90.0 + s) for s in range(3)]  # only accuracies have a spread
    (block,) = build(load("table2"), runs, [0.05])
    (note,) = (note for note in block.notes if note.startswith("Intervals of "))
    assert note.startswith("Intervals of accuracies and shares on the logit scale are taken there and transformed back")


# ------------------------------------------------------------------------------------------- rows from another condition


def varied(*rows: dict[str, Any], baseline: str = "0", **changes: Any) -> TableConfig:
    """A table of accuracies with one row for each `match`, labelled 0, 1, ..."""
    values = {
        "title": "T",
        "baseline": baseline,
        "primary": "a",
        "rows": [{"label": str(i), "match": match} for i, match in enumerate(rows)],
        "columns": [{"key": "a", "header": "A", "measure": "test_accuracy", "compare": True}],
    }
    return from_dict(TableConfig, values | changes)


SGD, TWICE, SAM = {"method": "sgd"}, {"method": "sgd", "epochs": 60}, {"method": "sam"}
LONG = replace(DEMO, epochs=60)


def means(block: Block) -> dict[str, float | None]:
    summaries = {label: cell(block, label, "A").summary for label in labels(block)}
    return {label: None if summary is None else summary.mean for label, summary in summaries.items()}


def test_sgd_at_twice_the_epochs_stands_beside_sam_with_a_paired_difference() -> None:
    runs = [run(seed=s, accuracy=90 + s, method="sgd") for s in range(3)]
    runs += [run(LONG, seed=s, accuracy=92 + 2 * s, method="sgd") for s in range(1, 4)]  # seeds 1, 2 in common
    runs += [run(seed=s, accuracy=95 + s, method="sam") for s in range(3)]
    runs += [run(replace(LONG, batch_size=128), method="sgd")]  # differs in something else too
    table = varied(SGD, TWICE, SAM, baseline="1")
    for order in (runs, runs[::-1]):
        other, short = build(table, order, [])
        assert short.title == "T, digits demo, batch_size=256, epochs=30" and "batch_size=128" in other.title
        assert means(short) == {"0": 91.0, "1": 96.0, "2": 96.0}
        difference = cell(short, "2", "A", "difference").paired
        assert difference is not None and difference.seeds == (1, 2) and difference.mean == pytest.approx((96 - 94 + 97 - 96) / 2)
        assert "1: epochs 60 instead of 30; all else as in the other rows." in short.notes
    assert labels(other) == ["0", "2"] and not other.notes[0].startswith("1:")  # 1 would show the runs of 0 once more


def test_a_condition_is_a_block_of_its_own_as_soon_as_it_has_other_runs() -> None:
    runs = [run(method="sgd"), run(method="sam"), run(LONG, method="sgd", accuracy=98.0)]
    (only,) = build(varied(SGD, TWICE, SAM), runs, [])
    assert means(only) == {"0": 97.0, "1": 98.0, "2": 97.0}
    own, other = build(varied(SGD, TWICE, SAM), [*runs, run(LONG, method="sam", accuracy=99.0)], [])
    assert means(own) == means(only) and means(other) == {"0": 98.0, "2": 99.0}
    (alone,) = build(varied(SGD, TWICE, SAM), runs[2:], [])  # nothing to stand beside
    assert means(alone) == {"0": 98.0, "2": None}


def test_nested_settings_and_those_of_the_base_optimizer_may_be_named() -> None:
    few = replace(DEMO, dataset=replace(DEMO.dataset, train_size=100))
    runs = [run(method="sgd", lr=lr, seed=s, accuracy=90 + 10 * lr + s) for lr in (0.1, 0.2) for s in range(2)]
    runs += [run(few, method="sgd", lr=0.2, accuracy=80.0)]
    rows = [{"method": "sgd", "lr": 0.1}, {"method": "sgd", "lr": 0.2}, {"method": "sgd", "lr": 0.2, "dataset.train_size": 100}]
    (block,) = build(varied(*rows), runs, [])  # one block, though each condition has a row in the other's
    assert means(block) == {"0": 91.5, "1": 92.5, "2": 80.0}
    assert cell(block, "1", "A", "difference").paired.mean == pytest.approx(1.0)  # type: ignore[union-attr]
    assert "2: optimizer.lr 0.2 instead of 0.1, dataset.train_size 100 instead of null; all else as in the other rows." in block.notes


def test_no_run_is_lost_where_rows_change_different_settings() -> None:
    """(30, 0.1) shows (60, 0.1) and not (60, 0.2), which only (60, 0.1) shows: both blocks stay."""
    runs = [run(method="sgd", accuracy=1.0), run(LONG, method="sgd", accuracy=2.0), run(LONG, method="sgd", lr=0.2, accuracy=3.0)]
    blocks = build(varied(SGD, TWICE, {"method": "sgd", "lr": 0.2}), runs, [])
    assert {value for block in blocks for value in means(block).values()} - {None} == {1.0, 2.0, 3.0}
    assert len(blocks) == 2


def test_published_values_stand_beside_a_row_only_where_its_own_runs_are_like_them() -> None:
    """s15 is of 200 epochs."""
    half = replace(WRN, epochs=100)
    table = varied(SAM, SGD | {"epochs": 200}, SGD | {"epochs": 100}, setup_columns=True)
    table = replace(table, rows=[replace(row, published={"a": ["s15"]}) for row in table.rows])
    (block,) = build(table, [run(half, method="sam"), run(WRN, method="sgd"), run(half, method="sgd")], [])
    published = {label: cell(block, label, "A", "published").text for label in labels(block)}
    assert published["0"] == published["2"] == "–" and published["1"].startswith("96.5 ± 0.1")


WRONG = {"epochs": ["eighty", 1.5, None, 0, True], "dataset.train_size": [[500]], "model.name": ["resnet"], "m": ["8"], "lr": ["high"]}
WRONG |= {"nesterov": ["yes"], "drop_last": [1], "dataset.name": [True], "label_smoothing": [-0.1], "schedule": ["none"]}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_values_that_no_run_can_have_are_refused(key: str, value: Any) -> None:
    table = varied(SAM, SGD | {key: value})
    with pytest.raises(ConfigError, match=rf"match\.{re.escape(key)}=.*: must be") as refusal:
        build(table, [], [])
    assert "\n" not in str(refusal.value)


def test_settings_that_no_row_can_name_are_refused() -> None:
    for key in ("epoch", "dataset.size", "seed", "device", "dataset.path", "tracking.backend", "optimizer.lr", "dataset"):
        with pytest.raises(ConfigError, match=rf"rows: 1\.match\.{re.escape(key)}: unknown key") as refusal:
            build(varied(SGD, SGD | {key: 1}), [run()], [])
        assert "epochs or dataset.train_size" in str(refusal.value)
    with pytest.raises(ConfigError, match=r"optimizer\.lr=-1"):
        build(varied(SGD, SGD | {"lr": -1}), [run()], [])


# ----------------------------------------------------------------------------------------------------------------- rendering


@pytest.fixture
def blocks() -> list[Block]:
    nasty = replace(WRN, protocol=ProtocolConfig("tiwary2024", [r"50% of A&B cost $3_000 #1 {x} ~y ^z \w | * `q` <b> -0.5"]))
    runs = [run(nasty, seed=s, accuracy=97 + s / 7, method=m) for s in range(3) for m in ("sgd", "sam", "rand_sam")]
    runs += [run(nasty, method="xsam", seed=0), run(nasty, method="xsam", seed=1, lost_at=3)]
    return build(load("table3"), runs, [0.05]) + build(load("measures"), runs, [0.05, 0.1])


def test_csv_parses_back_to_the_inputs(blocks: list[Block]) -> None:
    lines = list(csv.DictReader(io.StringIO(render.csv(blocks))))
    sgd = next(x for x in lines if x["row"] == "SGD" and x["column"] == "Accuracy (%)")
    values = [97 + s / 7 for s in range(3)]
    assert float(sgd["mean"]) == pytest.approx(sum(values) / 3, rel=1e-15) and sgd["n"] == "3" and sgd["seeds"] == "0;1;2"
    assert float(sgd["std"]) == pytest.approx(1 / 7) and sgd["folders"].split(";")[2] == "runs/sgd-1-0.05-2"
    assert sgd["published"] == "96.5 ± 0.1 (95% CI, n = 5; s15)"
    xsam = next(x for x in lines if x["row"] == "XSAM" and x["column"] == "Accuracy (%)")
    assert (xsam["n"], xsam["std"], xsam["diverged"], xsam["diverged_seeds"], xsam["baseline"]) == ("1", "", "1", "1", "SGD")
    assert float(xsam["difference_mean"]) == 0.0 and xsam["difference_n"] == "1" and xsam["difference_p"] == ""
    sharp = next(x for x in lines if x["row"] == "SAM" and x["column"].startswith("Sharpness"))
    assert float(sharp["mean"]) == pytest.approx(5.0)
    assert sum(x["column"] == "note" for x in lines) == sum(len(b.notes) for b in blocks)


def _plain_latex(text: str) -> str:
    text = text.replace(r"\quad ", " ").replace(r"\newline ", " ")
    for symbol, command in (
        ("×", r"$\times$"),
        ("±", r"$\pm$"),
        ("³", "$^3$"),
        ("ρ", r"$\rho$"),
        ("∇", r"$\nabla$"),
        ("‖", r"$\|$"),
        ("–", "--"),
        ("|", r"\textbar{}"),
        ("λ", r"$\lambda$"),
        ("ε", r"$\epsilon$"),
    ):
        text = text.replace(command, symbol)
    text = text.replace("$-$", "-").replace("{[}", "[").replace("$<$", "<").replace("$>$", ">").replace(r"\\", " ")
    text = text.replace(r"\textbackslash{}", "\\").replace(r"\textasciitilde{}", "~").replace(r"\textasciicircum{}", "^")
    return re.sub(r"\\([&%$#_{}])", r"\1", text)


def _plain_markdown(text: str) -> str:
    return re.sub(r"\\([\\|*_~$`#])", r"\1", text.replace("<br>", " ").replace("&lt;", "<").replace("&gt;", ">"))


RENDERERS: dict[str, Callable[[list[Block]], str]] = {
    "markdown": lambda b: _plain_markdown(render.markdown(b)),
    "latex": lambda b: _plain_latex(latex_full(b)),
    "csv": lambda b: " ".join(" ".join(line.values()) for line in csv.DictReader(io.StringIO(render.csv(b)))),
}


@pytest.mark.parametrize("name", RENDERERS)
def test_every_rendering_has_all_content(name: str, blocks: list[Block]) -> None:
    text = " ".join(RENDERERS[name](blocks).split())
    for block in blocks:
        wanted = [block.title, block.verdict, block.finding, *block.notes]
        wanted += [c.text for grid in grids(block) for row in grid.rows for c in row[grid.labels - 1 :] if c.parts != EMPTY]
        wanted += [h.removeprefix("Accuracy (%): ") for grid in grids(block) for h in grid.header if name == "markdown"]
        for piece in wanted:
            assert " ".join(piece.replace("**", "").split()) in text.replace("**", "")


def test_terminal_keeps_its_width_and_has_the_compact_form(blocks: list[Block]) -> None:
    for width in (70, 80, 150):
        text = render.terminal(blocks, width)
        assert max(map(len, text.splitlines())) <= width
        for block in (compact(b, width) for b in blocks):
            assert all(cell.text in text for row in block.rows for cell in row) and block.finding[:40] in text


def test_a_wide_table_without_differences_goes_on_below_itself() -> None:
    cells = tuple(Cell("value", (f"9{i}.20 ± 0.26",), f"c{i}", best=i == 3, folders=("a",)) for i in range(12))
    block = Block("t", "Swept", 1, ("Method", *(f"rho {i}" for i in range(12))), ((Cell("label", ("SAM",)), *cells),))
    text = render.terminal([block], 80)
    assert max(map(len, text.splitlines())) <= 80 and text.count("Method") == 3
    assert all(f"9{i}.20 ± 0.26" in text for i in range(12)) and "93.20 ± 0.26*" in text


@pytest.mark.parametrize("form", [lambda blocks: latex(blocks, "t"), latex_full], ids=["compact", "full"])
def test_latex_is_balanced_and_has_no_raw_specials(blocks: list[Block], form: Callable[[list[Block]], str]) -> None:
    text = form(blocks)
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    body = text.split("\n", 1)[1]  # without the leading comment
    bare = re.sub(r"\\[&%$#_{}\\|]", "", body)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not re.search(r"[%#~]", bare) and "_" not in bare and "^" not in re.sub(r"\$\^(\d|{\\dagger})\$", "", bare)
    assert not re.search(r"\\\\\s*\[", body)  # "\\[" would be read as a length
    symbols = sorted(set(re.findall(r"[^\x00-\x7f]", text)))
    assert symbols == []
    for grid in re.findall(r"\\begin\{tabular\}\{@\{\}(l+)@\{\}\}\n\\toprule\n(.*?)\\bottomrule", text, flags=re.DOTALL):
        for line in (x for x in grid[1].splitlines() if x != r"\midrule"):
            assert len(re.findall(r"(?<!\\)&", line)) == len(grid[0]) - 1 and line.endswith(r" \\")


def test_markdown_tables_are_rectangular(blocks: list[Block]) -> None:
    sizes = [len(re.findall(r"(?<!\\)\|", line)) for line in render.markdown(blocks).splitlines() if line.startswith("|")]
    expected = [len(grid.header) + 1 for b in blocks for grid in grids(b) for _ in range(len(grid.rows) + 2)]
    assert sizes == expected
