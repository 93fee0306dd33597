"""What a user may type, or have lying there: one sentence that names it, before work begins; never a traceback, never a wait."""

import json
import lzma
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from sam.config import ConfigError
from sam.core.device import pick_device
from sam.runs import run as running
from sam.runs.hydra_schema import check_size
from sam.schema import from_dict
from sam.settings import TrainConfig

Run = Callable[[Sequence[Sequence[str]]], list[Any]]
TINY = ["dataset=digits", "model=wrn_10_1", "dataset.train_size=64", "batch_size=32", "epochs=1", "threads=1", "device=cpu"]


def told(result: Any, *words: str) -> bool:
    lines = [line for line in result.err.splitlines() if line.strip() not in ("", "Nothing was run.")]
    return result.code in (1, 2) and len(lines) == 1 and lines[0].startswith("error: ") and all(word in lines[0] for word in words)


def test_folders_that_cannot_be(commands: Run, tmp_path: Path) -> None:
    """Of a run, a sweep, a sweep in processes, a list for SLURM, tables, packed rows and images."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    cases = []
    for path in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "dangling", tmp_path / "circle", "/proc/x", tmp_path / ("n" * 300)):
        key = f"runs_dir={path}"
        cases += [
            (["train.py", *TINY, key], key),
            (["train.py", "-m", "seed=0,1", *TINY, key], key),
            (["train.py", "-m", "seed=0,1", "hydra/launcher=local", *TINY, key], key),
            (["train.py", *TINY, f"run_dir={path}"], f"run_dir={path}"),
            (["train.py", "dataset.download=true", f"dataset.root={path}", f"runs_dir={tmp_path / 'runs'}"], f"dataset.root={path}"),
            (["scripts/grid.py", "seed=0,1", *TINY, key], key),
            (["evaluate_sharpness.py", key], str(path)),
            (["evaluate_sharpness.py", "-m", "part=0,1", "parts=2", key], str(path)),
            (["evaluate_sharpness.py", f"runs_dir={tmp_path}", f"out={path}"], f"out={path}"),
            (["scripts/rows.py", f"pack={path}", f"runs_dir={tmp_path}"], f"pack={path}"),
            (["scripts/rows.py", f"unpack={path}", f"runs_dir={tmp_path}"], f"unpack={path}"),
        ]
    for (line, word), result in zip(cases, commands([line for line, _ in cases]), strict=True):
        assert told(result, word), (line, result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "dangling", "file"]


def test_tables_that_are_none(commands: Run, tmp_path: Path) -> None:
    good = "title: T\nrow_header: R\nrows: [{label: a, match: {method: sgd}}]\ncolumns: [{key: k, header: H, measure: gap}]\n"
    broken = {
        "no yaml": "title: [unclosed\n",
        "not utf-8": b"title: \xff\xfe",
        "a number": "42",
        "a list": "- a\n- b\n",
        "nests": "title: " + "[" * 3000,
        "wrong shape": good + "notes: {a: b}\n",
        "rows are text": good.replace("[{label: a, match: {method: sgd}}]", "many"),
        "a row is a list": good.replace("{label: a, match: {method: sgd}}", "[1]"),
        "match is text": good.replace("{method: sgd}", "sgd"),
        "match holds a list": good.replace("method: sgd", "method: [sgd]"),
        "match holds a map": good.replace("method: sgd", "rho: {a: 1}"),
        "unknown key": good + "colour: red\n",
        "unknown key of a row": good.replace("label: a", "label: a, lable: b"),
        "unknown key of a column": good.replace("key: k", "key: k, digit: 2"),
        "no title": good.replace("title: T", "source: x"),
        "no rows": good.replace("rows: [{label: a, match: {method: sgd}}]", ""),
        "no label": good.replace("label: a, ", ""),
        "no measure": good.replace(", measure: gap", ""),
        "null": good.replace("title: T", "title: null"),
        "interpolation": good.replace("title: T", "title: ${nowhere}"),
        "digits": good.replace("key: k", "key: k, digits: 1000000000"),
        "scale": good.replace("key: k", "key: k, scale: .inf"),
        "a name twice": good + "title: U\n",
        "code": good.replace("title: T", "title: !!python/object/apply:os.getcwd []"),
        "escape": good + 'baseline: "\\e[31mred"\n',
        "outside": "{../../x: {title: T}}",
        "pipe": "",
    }
    (tmp_path / "conf" / "table").mkdir(parents=True)
    for i, (name, text) in enumerate(broken.items()):
        path = tmp_path / "conf" / "table" / f"t{i}.yaml"
        if name == "pipe":
            os.mkfifo(path)
        elif name == "outside":
            path.write_text(f"# @package tables\n{text}\n")
        else:
            path.write_bytes(f"# @package tables.t{i}\n".encode() + (text if isinstance(text, bytes) else text.encode()))
    line = ["evaluate_sharpness.py", f"--config-dir={tmp_path / 'conf'}", f"runs_dir={tmp_path / 'runs'}"]
    results = commands([[*line, f"table=t{i}"] for i in range(len(broken))])
    for (i, name), result in zip(enumerate(broken), results, strict=True):
        assert told(result) and result.err.isprintable() is False and result.err.rstrip("\n").isprintable(), (name, result)
        assert f"t{i}" in result.err or {"outside": "../../x", "digits": "k.digits", "scale": "k.scale"}[name] in result.err, (name, result)
    assert not list(tmp_path.rglob("*.md")) and not (tmp_path / "x").exists()


def test_sizes_and_devices_that_cannot_be(commands: Run, tmp_path: Path) -> None:
    sizes = ("model.depth=600000004", "model.width=1000000000", "model.width=9223372036854775807", "threads=100000000000", "threads=1e11")
    sizes += ("seed=100000000000000000000", f"seed={10**400}", "batch_size=1e30", "epochs=99999999999999999999")
    devices = ("mps", "meta", "cuda:99", "nonsense", "cpu:7", "xla", "privateuseone", "cuda:-1", "'cuda:1e9'", "vulkan")
    base = ["dataset=digits", "model=wrn_10_1", "epochs=1", f"runs_dir={tmp_path / 'runs'}"]
    cases = [*sizes, *(f"device={device}" for device in devices)]
    lines = [["train.py", *more, *base, case] for case in cases for more in ([], ["-m", "optimizer=sgd,sam"])]
    for line, result in zip(lines, commands(lines), strict=True):
        assert told(result, line[-1].split("=")[0]), (line, result)
    assert not (tmp_path / "runs").exists()


def test_a_refused_run_of_a_sweep_is_one_sentence_and_the_others_go_on(commands: Run, tmp_path: Path) -> None:
    cifar = ["dataset=cifar10", "dataset.download=false", f"dataset.root={tmp_path}", "model=wrn_10_1", "threads=1", "device=cpu"]
    (result,) = commands([["train.py", "-m", "seed=0,1", *cifar, f"runs_dir={tmp_path / 'runs'}"]])
    assert result.code == 1 and result.err.count("error: dataset=cifar10") == 2 and "Traceback" not in result.err
    assert len(result.err.splitlines()) <= 4, result.err


SWEEPS = ["seed=range(100000000)", "seed=range(1e8)", "seed=shuffle(range(100000000))", "seed=range(0,1,1e-9)", "seed=range(0,10,0)"]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_of_too_many_points(sweep: str) -> None:
    with pytest.raises(ConfigError, match="a sweep holds 10,000 at most"):
        check_size(["optimizer=sgd", sweep])


def test_a_sweep_is_counted_over_all_of_its_keys() -> None:
    check_size(["seed=range(100)", "optimizer=sgd,sam", "batch_size=range(50)", "epochs=5"])
    with pytest.raises(ConfigError, match=r"epochs=1,2: makes 20,000 points"):
        check_size(["seed=range(100)", "optimizer=sgd,sam", "batch_size=range(50)", "epochs=1,2"])


def test_no_command_expands_it(commands: Run) -> None:
    lines = [["train.py", "-m", SWEEPS[0]], ["evaluate_sharpness.py", "-m", "part=range(100000000)", "parts=10"]]
    lines += [["scripts/grid.py", SWEEPS[0]], ["scripts/status.py", SWEEPS[0]], ["scripts/grid.py", "evaluate", "parts=100000000"]]
    for line, result in zip(lines, commands(lines), strict=True):
        assert told(result, "10,000" if "evaluate" not in line else "10000"), (line, result)


def test_a_model_is_measured_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"image_size": 32, "channels": 3, "depth": 28, "width": 10}
    monkeypatch.setattr("models.host_memory", lambda: 12 * 36_479_194)
    models.check("wide_resnet", **sizes)  # what is counted is less than it has
    monkeypatch.setattr("models.host_memory", lambda: 400_000_000)
    with pytest.raises(models.ModelError, match=r"model.width=10, model.depth=28: .* need 406,425,600 bytes"):
        models.check("wide_resnet", **sizes)
    models.check("resnet18", **sizes)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: x")])
def test_what_runs_out_of_memory_names_the_sizes(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(running, "_lead", fail)
    config = from_dict(TrainConfig, {"dataset": {"name": "digits"}, "model": {"depth": 10, "width": 1}, "runs_dir": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"model=WRN-10-1, batch_size=256, micro_batch=None: memory is too small"):
        running.run(config)


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu") and pick_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize(
    "packed",
    [b"x", b"", lzma.compress(b"no JSON"), lzma.compress(b"[[1]]"), lzma.compress(b"7"), lzma.compress(b"{}" * 9)[:-9]]
    + [lzma.compress(text) for text in (b'{"x": 5}', b'{"x": {"run.json": 5}}', b'{"x": {"metrics.csv": ""}}')]
    + [lzma.compress(json.dumps({name: {"run.json": "x"}}).encode()) for name in ("../x", "/tmp/x", "a/../../x", "..")],
)
def test_packed_rows_from_elsewhere_stay_inside(packed: bytes, tmp_path: Path) -> None:
    import rows

    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "000.json.xz").write_bytes(packed)
    with pytest.raises(ValueError, match=r"000.json.xz: "):
        rows.unpack(str(tmp_path / "packed"), tmp_path / "a" / "runs", None)
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizer.rho=range(0.1,0.4,0.1)", "fractions add up to"),  # Hydra's has 0.30000000000000004, and the stop
        ("optimizer=null", "must be one option"),
        ("protocol=3", "must be one option"),
        ("optimizer=[sgd,sam]", "must be one option"),
        ("seed=range(3),7", "a range stands alone"),
        ("keep_checkpoints=[range(3)]", "a range stands alone"),
    ],
)
def test_what_hydra_takes_and_nobody_means(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{override}: {told}")):
        check_size([override])
    check_size(
        ["table=[table2,table3]", "~optimizer", "seed=shuffle(range(3))", "optimizer.rho=0.1,0.2", "init_from=null", "seed=range(3)"]
    )
