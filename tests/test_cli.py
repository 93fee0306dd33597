"""The commands, as a user meets them: what they print, how they end, what they leave on disk."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("sgd", "rand-sam", "sam", "xsam")
Run = Callable[..., Any]
Options = tuple[str, ...]


def folders(runs: Path) -> list[Path]:
    return sorted(path.parent for path in runs.rglob("run.json"))


def record(folder: Path) -> dict[str, Any]:
    """Without its digest, so that it may be changed: as one of old."""
    return {key: value for key, value in json.loads((folder / "run.json").read_text()).items() if key != "digest"}


@pytest.fixture
def copied(swept: Any, tmp_path: Path) -> Path:
    """The shared sweep, to be damaged."""
    return Path(shutil.copytree(swept.runs, tmp_path / "copied"))


def truncate(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def plain_cells(table: str, header: str) -> dict[str, str]:
    """Label -> cell of one column of a Markdown table."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    labels, column = next((i for i, h in enumerate(rows[0]) if h in ("Optimizer", "Method")), 0), rows[0].index(header)
    return {row[labels]: row[column] for row in rows[2:]}


# ----------------------------------------------------------------------------------------------------- help and cheap answers


def test_help_and_cfg_import_nothing_heavy(commands: Run) -> None:
    lines = [
        ["train.py", "--help"],
        ["train.py", "--cfg", "job"],
        ["train.py", "experiment=table2", "--cfg", "job"],
        ["evaluate_sharpness.py", "--help"],
        ["evaluate_sharpness.py", "--cfg", "job"],
        ["train.py", "optimizer.rho=-1"],
        ["train.py", "experiment=table2"],
    ]
    results = commands(lines)
    assert [result.code for result in results] == [0, 0, 0, 0, 0, 2, 2]
    assert all(result.heavy == () for result in results)
    assert "optimizer" in results[0].out and "wrn_28_10" in results[0].out
    assert "ascent_steps: 1" in results[1].out and "rho: 0.05" in results[1].out
    assert "sharpness" in results[4].out


def test_an_experiment_with_a_grid_needs_m_and_says_how(commands: Run, tmp_path: Path) -> None:
    """The command that it prints can be pasted into a shell."""
    (result,) = commands([["train.py", "experiment=table2", f"runs_dir={tmp_path / 'my runs'}", "optimizer.alpha_grid=[0, 1]"]])
    command = f"python train.py -m experiment=table2 'runs_dir={tmp_path / 'my runs'}' 'optimizer.alpha_grid=[0, 1]'"
    assert result.refused("experiment=table2 is a grid of runs", command)
    assert not (tmp_path / "my runs").exists()


# --------------------------------------------------------------------------------------------------------------- refusals

REFUSALS: list[tuple[Sequence[str], Sequence[str]]] = [  # settings, and what the sentence must name
    (["optimizer.rho=-1"], ["optimizer.rho=-1", ">= 0"]),
    (["optimizer.ascent_steps=0"], ["optimizer.ascent_steps=0", ">= 1"]),
    (["batch_size=5000"], ["batch_size=5000", "1000 training images"]),
    (["optimizer=xsam", "optimizer.alpha_grid=[]"], ["optimizer.alpha_grid=[]"]),
    (["model=vgg11_bn"], ["vgg11_bn", "8x8"]),
    (["optimizer.step_rule=leap"], ["optimizer.step_rule=leap", "split, project, accumulate, boundary"]),
    (["augmentation=cutout"], ["augmentation.c", "8 pixels"]),
    (["schedule=linear"], ["schedule=linear", "cosine_step"]),
    (["dataset.train_size=2000"], ["dataset.train_size=2000", "1000"]),
    (["m=1000"], ["m=1000", "batch_size=256"]),
    (["dataset=arrays"], ["dataset.path", "npz"]),
    (["model.depth=11"], ["model.depth=11", "6n + 4"]),
    (["dataset=arrays", "dataset.path=nowhere.npz"], ["dataset.path=nowhere.npz", "no such file"]),
    (["dataset.val_fraction=0.95"], ["dataset.val_fraction=0.95"]),
    (["dataset.val_size=0"], ["dataset.val_size=0", ">= 1"]),
    (["dataset.val_size=300", "dataset.train_size=701"], ["dataset.train_size=701", "between 1 and 700"]),
    (["dataset.val_size=9", "dataset.val_fraction=0.1"], ["dataset.val_fraction=0.1", "dataset.val_size=9"]),
    (["dataset.sample=draw"], ["dataset.sample=draw", "fixed, seed"]),
    (["dataset.mean=[0.1,0.2]"], ["dataset.mean=[0.1, 0.2]", "each of the 1 channels"]),
    (["dataset.std=[0]"], ["dataset.std=0", "> 0"]),
    (["model=timm"], ["model.timm_name"]),
    (["init_from=nowhere.pt"], ["init_from=nowhere.pt", "No such file"]),
]


def test_bad_settings_are_refused_in_one_sentence(commands: Run, tmp_path: Path) -> None:
    """Alone, and in a sweep: there before the first run, which would have been good."""
    runs = tmp_path / "runs"
    base = ["dataset=digits", "model=wrn_10_1", "epochs=1", "device=cpu", f"runs_dir={runs}"]
    sweeps = [["train.py", "-m", *base, "seed=0,1", *settings] for settings, _ in REFUSALS]
    mixed = [["train.py", "-m", *base, "optimizer.rho=0.05,-1"], ["train.py", "-m", *base, "batch_size=64,5000"]]
    n, some = len(REFUSALS), REFUSALS[::2]
    results = commands([*sweeps, *mixed, *(["train.py", *base, *settings] for settings, _ in some)])
    for (settings, words), result in zip(REFUSALS, results[:n], strict=True):
        assert result.refused(*words) and "Nothing was run." in result.err, (settings, result)
    for (settings, words), result in zip(some, results[n + 2 :], strict=True):
        assert result.refused(*words), (settings, result)
    assert results[n].refused("optimizer.rho=-1") and results[n + 1].refused("batch_size=5000")
    assert results[n + 1].heavy == ()  # a sweep is checked without importing torch
    assert not runs.exists() or folders(runs) == []


def test_hydra_refuses_unknown_keys_and_wrong_types(commands: Run, tmp_path: Path) -> None:
    cases = [
        ("optimizer.rhoo=0.1", "rhoo"),
        ("epochs=many", "many"),
        ("optimizer=adam", "adam"),
        ("drop_last=perhaps", "perhaps"),
        ("+nonsense=1", "nonsense"),
    ]
    lines = [["train.py", *flags, setting, f"runs_dir={tmp_path / 'runs'}"] for setting, _ in cases for flags in ([], ["-m", "seed=0,1"])]
    for result, (setting, word) in zip(commands(lines), [case for case in cases for _ in range(2)], strict=True):
        assert result.code != 0 and word in result.err and "Traceback" not in result.err, (setting, result)
        assert result.heavy == ()
    assert not (tmp_path / "runs").exists()


def test_bad_data_are_named(commands: Run, tmp_path: Path, tiny_options: Options) -> None:
    draw = np.random.RandomState(0)
    images = draw.randint(256, size=(60, 8, 8, 3)).astype(np.uint8)
    path = tmp_path / "cut.npz"
    np.savez(path, train_images=images, train_labels=np.arange(60) % 3, test_images=images, test_labels=np.arange(60) % 3)
    truncate(path)
    runs, nowhere = tmp_path / "runs", tmp_path / "nowhere"
    arrays = ["model=wrn_10_1", "dataset=arrays", f"dataset.path={path}", "batch_size=20", "epochs=1", f"runs_dir={runs}"]
    cifar = ["model=wrn_10_1", "dataset=cifar10", "dataset.download=false", f"dataset.root={nowhere}", "epochs=1", f"runs_dir={runs}"]
    results = commands([["train.py", *arrays], ["train.py", "-m", "seed=0,1", *arrays], ["train.py", *cifar]])
    assert results[0].refused(f"dataset.path={path}", "not a readable .npz") and results[1].refused(f"dataset.path={path}")
    assert results[2].refused("dataset=cifar10", str(nowhere), "dataset.download=false", "prepare_data.py")
    assert folders(runs) == [] and not nowhere.exists()


# ------------------------------------------------------------------------------------------------------- one run and a sweep


def test_one_run_from_the_command_line(command: Run, tmp_path: Path) -> None:
    line = "dataset=digits model=wrn_10_1 optimizer=sam optimizer.ascent_steps=3 optimizer.rho=0.05 epochs=2 seed=1 threads=1 device=cpu"
    result = command("train.py", *line.split(), f"runs_dir={tmp_path}")
    assert result.code == 0 and result.err.count("Traceback") == 0
    name = "digits-wrn-10-1-sam-n3-rho0.05-s1-de69a803"
    assert re.search(rf"^{name}: finished, test accuracy [\d.]+%, test loss [\d.]+$", result.out, re.MULTILINE), result
    assert [folder.name for folder in folders(tmp_path)] == [name]
    made = record(tmp_path / name)
    assert made["cost"] == {"forwards": 32, "backwards": 32, "skipped": 0}  # 4 passes x 4 steps x 2 epochs
    assert f"{made['final']['test_accuracy']:.2f}%" in result.out
    assert result.out.splitlines()[-1] == f"Next: python evaluate_sharpness.py runs_dir={tmp_path}"
    assert "; 100%, " in result.err.splitlines()[-1]
    assert made["environment"]["command"].startswith("python train.py dataset=digits")
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["checkpoint.pt", "metrics.csv", "run.json"]
    assert [path.name for path in tmp_path.iterdir()] == [name]  # Hydra left nothing of its own


def test_a_sweep_trains_every_point(swept: Any) -> None:
    assert swept.trained.code == 0, swept.trained
    found = folders(swept.runs)
    labels = sorted(re.sub(r"-[0-9a-f]{8}$", "", folder.name) for folder in found)
    with_rho = {"sgd": "sgd"} | {method: f"{method}-rho0.05" for method in METHODS[1:]}
    assert labels == sorted(f"digits-wrn-10-1-{with_rho[method]}-s{seed}" for method in METHODS for seed in (0, 1))
    assert {record(folder)["status"] for folder in found} == {"finished"}
    # 2 steps a run; passes 1, 1, 2, 2 and 21 probes of XSAM, for two seeds
    assert "8 runs, 8 to do: 66 forwards and 24 backwards" in swept.trained.out
    counts, following = swept.trained.out.splitlines()[-2:]
    assert re.fullmatch(r"8 finished, 0 failed in \d+:\d\d\.", counts)
    assert following == f"Next: python evaluate_sharpness.py runs_dir={swept.runs}"
    assert "; 100%, " in swept.trained.err.splitlines()[-1]


def test_a_second_sweep_skips_and_ignored_keys_make_no_new_run(commands: Run, swept: Any, copied: Path, tiny_options: Options) -> None:
    before = {path: path.stat().st_mtime_ns for folder in folders(copied) for path in folder.iterdir()}
    line = [*swept.line[:-1], f"runs_dir={copied}"]
    sgd = ["train.py", "-m", "optimizer=sgd", "optimizer.rho=0.05,0.1", "seed=5", *tiny_options, f"runs_dir={copied}"]
    results = commands([line, sgd])
    assert results[0].code == results[1].code == 0
    assert "8 runs, 0 to do: 0 forwards" in results[0].out and "\n8 finished (8 before), 0 failed in 0:0" in results[0].out
    assert "same as above" in results[1].out and "2 runs, 1 to do: 2 forwards and 2 backwards" in results[1].out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(folders(copied)) == 9


def test_a_run_that_diverges_does_not_stop_a_sweep(commands: Run, tmp_path: Path, tiny_options: Options, measure_options: Options) -> None:
    runs = f"runs_dir={tmp_path}"
    sweep = ["train.py", "-m", "optimizer=sam", "seed=0,1", "optimizer.lr=1e12,0.1", *tiny_options, runs]
    alone = ["train.py", "optimizer=sam", "optimizer.lr=1e12", *tiny_options, runs]
    results = commands([sweep, alone, ["evaluate_sharpness.py", runs, *measure_options]])
    assert results[0].code == 0, results[0]
    assert sorted(record(folder)["status"] for folder in folders(tmp_path)) == ["diverged"] * 2 + ["finished"] * 2
    assert results[1].code == 0 and "diverged in epoch 1" in results[1].out, results[1]
    assert "\n2 finished, 0 failed, 2 diverged in " in results[0].out
    assert results[2].code == 0, results[2]
    assert "(2/2 diverged)" in re.sub(r"\s+", " ", results[2].out)
    assert "2 of 2 diverged<br>(epochs 1, 1)" in (tmp_path / "tables" / "table2.md").read_text()


# -------------------------------------------------------------------------------------------------------------- evaluating


def test_evaluating_writes_rows_and_tables(swept: Any) -> None:
    result = swept.measured
    assert result.code == 0, result
    for title in ("Table 2 layout", "Table 3 layout", "All measures"):
        assert title in result.out
    written = sorted(path.name for path in (swept.runs / "tables").iterdir())
    tables = [f"{t}.{s}" for t in ("table2", "table3", "measures") for s in ("md", "csv", "tex")]
    tables += [f"{t}_full.tex" for t in ("table2", "table3", "measures")]
    assert written == sorted([*tables, "figures", "report.html", "runs.csv"])
    assert all((folder / "sharpness.json").exists() for folder in folders(swept.runs))


def test_a_table_holds_the_mean_over_the_seeds(swept: Any) -> None:
    cells = plain_cells((swept.runs / "tables" / "table3.md").read_text(), "Accuracy (%)")
    for method, label in zip(METHODS, ("SGD", "Rand-SAM", "SAM", "XSAM"), strict=True):
        values = [
            record(f)["final"]["test_accuracy"] for f in folders(swept.runs) if f"-{method}-" in f.name.replace("rand-sam", "rand-sam")
        ]
        if method == "sam":
            values = [record(f)["final"]["test_accuracy"] for f in folders(swept.runs) if "wrn-10-1-sam-" in f.name]
        assert len(values) == 2
        mean, spread = map(float, cells[label].replace("*", "").partition("<br>")[0].split(" ± "))
        assert (mean, spread) == pytest.approx((np.mean(values), np.std(values, ddof=1)), abs=0.06), (label, cells[label])


def test_rows_are_reused_and_damaged_runs_are_named(commands: Run, swept: Any, tmp_path: Path, measure_options: Options) -> None:
    """Rows are taken from beside the runs, even without the data; what cannot be measured is named, and the rest is there."""
    whole, damaged, kept = (Path(shutil.copytree(swept.runs, tmp_path / name)) for name in ("whole", "damaged", "kept"))
    cut, foreign, unfinished, lost, strange, *rest = folders(damaged)
    truncate(cut / "checkpoint.pt")
    own = json.loads((foreign / "run.json").read_text())["fingerprint"]
    torch.save({"format": 1, "fingerprint": own, "model": {"w": torch.zeros(3)}}, foreign / "checkpoint.pt")
    (foreign / "run.json").write_text(json.dumps(record(foreign) | {"checkpoint_sha256": None}))
    (unfinished / "run.json").write_text(json.dumps(record(unfinished) | {"status": "running"}))
    for name in ("checkpoint.pt", "sharpness.json"):
        (lost / name).unlink()
    (strange / "run.json").write_text(json.dumps(record(strange) | {"config": {"of_a_later_version": 1}}))
    stamps = {folder: (folder / "sharpness.json").stat().st_mtime_ns for folder in (*folders(whole), *folders(kept))}
    shutil.rmtree(whole / "tables")
    line = ["evaluate_sharpness.py", f"runs_dir={whole}", *measure_options]
    no_data = ["evaluate_sharpness.py", f"runs_dir={kept}", *measure_options, f"data_path={tmp_path / 'nowhere.npz'}", "table=table3"]
    again, narrow, radii, broken, forced, reused = commands(
        [
            [*line, "sharpness.batch_size=100"],  # the images a forward pass holds are no setting of the numbers
            [*line, "table=table2", f"out={whole / 'only'}"],
            [*line, "sharpness.rho=[0.1]", "table=table3", f"out={whole / 'other'}"],
            ["evaluate_sharpness.py", f"runs_dir={damaged}", *measure_options],
            ["evaluate_sharpness.py", f"runs_dir={whole}", *measure_options, "table=table3", "force=true"],
            no_data,
        ]
    )
    assert again.code == narrow.code == radii.code == forced.code == reused.code == 0
    assert again.out.split("Open: ")[0] == swept.measured.out.split("Open: ")[0]
    written = {path.name for path in (whole / "only").iterdir()}
    assert written == {"figures", "report.html", "table2.csv", "table2.md", "table2.tex", "table2_full.tex", "runs.csv"}
    assert "Table 2 layout" in narrow.out and "Table 3" not in narrow.out
    assert "ρ 0.1" in radii.out and "ρ 0.05)" not in radii.out
    stored = json.loads((folders(whole)[0] / "sharpness.json").read_text())["rows"]
    notions = sorted(row["notion"] for row in stored.values())
    assert notions == ["ascent", "ascent", "gap", "gap", "gap"]  # one for each set of radii; the gap has none, but several parts
    for folder, stamp in stamps.items():
        assert ((folder / "sharpness.json").stat().st_mtime_ns > stamp) == (folder.parent == whole)  # force=true measured them again

    assert broken.code == 1 and "Traceback" not in broken.err
    named = {
        cut: "damaged or truncated",
        foreign: "does not fit WideResNet",
        unfinished: "not finished",
        lost: "missing",
        strange: "of_a_later_version",
    }
    for folder, words in named.items():
        assert any(folder.name in text and words in text for text in broken.err.splitlines()), (words, broken.err)
    assert "Table 3 layout" in broken.out and (damaged / "tables" / "table3.md").stat().st_mtime_ns > stamps[folders(whole)[-1]]
    assert len(rest) == 3 and not any(folder.name in broken.err for folder in rest)


def test_evaluating_without_runs_or_without_their_data(commands: Run, swept: Any, tmp_path: Path, measure_options: Options) -> None:
    draw = np.random.RandomState(0)
    images, labels = draw.randint(256, size=(60, 8, 8, 3)).astype(np.uint8), np.arange(60) % 3
    path, other, cut, runs = tmp_path / "images.npz", tmp_path / "other.npz", tmp_path / "cut.npz", tmp_path / "runs"
    for file, train_images in ((path, images), (other, images[::-1]), (cut, images)):
        np.savez(file, train_images=train_images, train_labels=labels, test_images=images[:30], test_labels=labels[:30])
    truncate(cut)
    unfinished = tmp_path / "unfinished" / "one"
    shutil.copytree(folders(swept.runs)[0], unfinished)
    (unfinished / "run.json").write_text(json.dumps(record(unfinished) | {"status": "running"}))
    arrays = ["dataset=arrays", f"dataset.path={path}", "augmentation=none", "model=wrn_10_1", "batch_size=20", "epochs=1", "device=cpu"]
    evaluate = ["evaluate_sharpness.py", *measure_options, "table=table3"]
    trained, nothing, waiting, gone, differing, broken, found = commands(
        [
            ["train.py", *arrays, f"runs_dir={runs}"],
            [*evaluate, f"runs_dir={tmp_path / 'nowhere'}"],
            [*evaluate, f"runs_dir={tmp_path / 'unfinished'}"],
            [*evaluate, f"runs_dir={runs}", f"data_path={tmp_path / 'gone.npz'}"],
            [*evaluate, f"runs_dir={runs}", f"data_path={other}"],
            [*evaluate, f"runs_dir={runs}", f"data_path={cut}"],
            [*evaluate, f"runs_dir={runs}"],
        ]
    )
    assert trained.code == 0, trained
    assert nothing.refused("nowhere", "no finished run", "python train.py") and waiting.refused("no finished run", "1 unfinished")
    name = folders(runs)[0].name
    for result, words in (
        (gone, f"dataset.path={tmp_path / 'gone.npz'}: there is no such file"),
        (differing, "the data differ from those it was trained on"),
        (broken, f"dataset.path={cut}"),
    ):
        assert result.code == 1 and name in result.err and words in result.err and "Traceback" not in result.err, result
    assert found.code == 0 and "Table 3 layout" in found.out


# --------------------------------------------------------------------------------------------------------------- stopping


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_keeps_what_is_recorded(tmp_path: Path) -> None:
    line = "dataset=digits model=wrn_10_1 dataset.train_size=64 batch_size=64 epochs=5000 checkpoint_interval=1 threads=1 device=cpu"
    process = subprocess.Popen(
        [sys.executable, "train.py", *line.split(), f"runs_dir={tmp_path}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "stopped by SIGINT; the state is saved" in err and "Traceback" not in err
    (folder,) = folders(tmp_path)
    assert record(folder)["status"] == "preempted"
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) - len(state["rows"]) in (0, 1)  # the checkpoint of an epoch is written right after its metrics
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
