"""The benchmark at its smallest: everything is reported, and the arithmetic of the report is right. What it measures is not judged here."""

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """The command as typed, without the parts that start further processes; with a stand-in for the peer's package."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "pytorch_optimizer.py").write_text(PEER)
    out = folder / "out.json"
    command = [sys.executable, str(SCRIPT), "preset=tiny", "parts=methods,evaluator", f"out={out}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env={"PYTHONPATH": str(folder)})
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


PEER = """
import torch
class SAM(torch.optim.SGD):  # not SAM: a plain step, and a second evaluation
    def __init__(self, params, base, rho, **options):
        super().__init__(params, **options)
    def step(self, closure):
        closure()
        super().step()
"""
OURS = ("sgd", "rand_sam", "sam", "sam_n3", "xsam", "xsam_search")


def test_every_method_is_reported_with_its_quartiles(report: tuple[str, dict]) -> None:
    text, found = report
    found = found["methods"]
    assert list(found["ratio"]) == [
        "torch_sgd",
        "torch_sgd_again",
        "forward_backward",
        "forward",
        "peer_sam",
        "sam_as_peer",
        *OURS,
        "sgd_with_loader",
    ]
    assert found["ratio"]["torch_sgd"] == {"median": 1, "low": 1, "high": 1}
    for name, score in found["ratio"].items():
        assert 0 < score["low"] <= score["median"] <= score["high"] < 100, name
        assert found["images_per_second"][name] == pytest.approx(8 / found["seconds"][name])
        assert name in text
    assert found["ratio"]["xsam_search"]["median"] > found["ratio"]["sam"]["median"]  # 23 passes against 2
    assert found["sam_over_peer"]["median"] > 0 and found["sam_as_peer_over_peer"]["median"] > 0
    assert found["pipeline_images_per_second"] > 0 and found["loader_over_fixed_batch"]["median"] > 0
    assert "images/s" in text and "2.04" in text


def test_xsam_over_an_epoch_spreads_its_search(script: ModuleType, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """6,250 steps of batch 8, one of them with the search: by hand from made-up seconds."""
    made_up = {"sam": [2.0, 2.0, 4.0], "xsam": [2.0, 2.2, 4.8], "xsam_search": [9.0, math.nan, 9.4]}
    monkeypatch.setattr(script, "interleave", lambda bench, names, *rest: {n: made_up.get(n, [1.0, 1.0, 2.0]) for n in names})
    monkeypatch.setattr(script.Bench, "seconds", lambda *_: 0.5)
    found = script.methods(script.Bench(script.PRESETS["tiny"]))
    assert found["pipeline_images_per_second"] == 16
    spread = found["xsam_over_an_epoch"]
    search = ((9.0 + 4.7) / 2 - 2.2) / 2 / 6250
    assert spread["steps_per_epoch"] == 6250 and spread["over_sam"]["median"] == pytest.approx(1.1 + search, abs=1e-9)


def test_the_other_parts_are_reported(report: tuple[str, dict]) -> None:
    text, found = report
    assert found["environment"]["threads"] == 1 and found["environment"]["command"].split()[-1].startswith("out=")
    assert found["environment"]["versions"]["torch"] and found["setting"]["preset"] == "tiny"
    assert {"full_over_bare", "batchwise_over_bare"} < set(found["evaluator"]) and "by batches" in text


def test_every_round_has_an_order_of_its_own_and_searches_sit_out(script: ModuleType) -> None:
    took: list[str] = []
    contenders = {name: (lambda name=name: took.append(name)) for name in ("a", "b", "c", "xsam_search")}
    bench = script.Bench(script.PRESETS["tiny"])
    times = script.interleave(bench, contenders, rounds=6, steps=2, label="x", search_every=3)
    assert [math.isnan(t) for t in times["xsam_search"]] == [False, True, True] * 2
    warm, timed = took[:4], took[4:]
    assert warm == list(contenders) and {name: timed.count(name) for name in contenders} == {"a": 12, "b": 12, "c": 12, "xsam_search": 2}
    plain = [name for name in timed if name != "xsam_search"][::2]
    rounds = [tuple(plain[k : k + 3]) for k in range(0, 18, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds) and len(set(rounds)) > 1


def test_the_seconds_of_several_steps_are_those_of_one(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 7.0])
    monkeypatch.setattr(script.time, "process_time", lambda: next(ticks))
    assert script.Bench(script.PRESETS["tiny"]).seconds(lambda: None, 3) == 2


def test_quartiles_and_ratios(script: ModuleType) -> None:
    assert script.ratios({"a": [4.0, 1.0, 2.0, 3.0, 5.0], "b": [1.0] * 5}, "a", "b") == {"median": 3, "low": 2, "high": 4}
    nan = float("nan")  # sat out this round
    assert script.ratios({"a": [2.0, nan, 8.0], "b": [1.0, 1.0, 2.0]}, "a", "b")["median"] == 3


def test_memory_is_the_peak_of_a_process_of_its_own(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The peak follows what is allocated. What the processes are told to do is done in this one."""
    bench = script.Bench(replace(script.PRESETS["tiny"], peak="sam"))
    before = script.peak(bench)
    held = bytearray(b"x") * 300_000_000
    assert script.peak(bench) > before + 250 and held
    typed = []

    def here(command: list[str]) -> str:
        typed.append(command[-1])
        assert script.main(command[2:]) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(script.subprocess, "check_output", here)
    found = script.memory(bench)
    assert typed == ["peak=sgd", "peak=sam", "peak=xsam"] and list(found) == ["unit", "measure", "sgd", "sam", "xsam"]
    assert f"sam {found['sam']:.0f} MB" in script.table({"memory": found}) and found["sam"] > 300


def test_what_is_measured_is_kept_if_it_is_stopped(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(bench: object) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setitem(script.PARTS, "memory", stopped)
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        script.main(["preset=tiny", "parts=evaluator,memory", f"out={out}"])
    assert "evaluator" in json.loads(out.read_text())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("preset=huge", "preset=huge: must be one of cpu, gpu, tiny."),
        ("speed=9", "speed=9: unknown argument; known here: preset=..."),
        ("rounds=many", "rounds=many: must be a whole number > 0."),
        ("precision=fp8", "precision=fp8: must be one of fp32, tf32, bf16, fp16."),
        ("parts=methods,soup", "parts=soup: must be one of methods, evaluator, memory."),
        ("peak=soup", "peak=soup: must be one of "),
    ],
)
def test_a_wrong_option_is_one_sentence(script: ModuleType, argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([argument]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
