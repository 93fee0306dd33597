"""The benchmark at its smallest: everything is reported, and the arithmetic of the report is right. What it measures is not judged here."""

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

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
    command = [sys.executable, str(SCRIPT), "preset=tiny", "parts=methods,ceiling,evaluator,precision,profile", f"out={out}"]
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
        *OURS,
        "sgd_with_loader",
        "peer_sam",
        "sam_as_peer",
    ]
    assert found["ratio"]["torch_sgd"] == {"median": 1, "low": 1, "high": 1}
    for name, score in found["ratio"].items():
        assert 0 < score["low"] <= score["median"] <= score["high"] < 100, name
        assert found["images_per_second"][name] == pytest.approx(8 / found["seconds"][name])
        assert name in text
    assert found["ratio"]["xsam_search"]["median"] > found["ratio"]["sam"]["median"]  # 23 passes against 2
    assert found["sam_over_peer"]["median"] > 0 and found["sam_as_peer_over_peer"]["median"] > 0
    both, probe = (found["ratio"][name]["median"] for name in ("forward_backward", "forward"))
    bound = found["passes_alone"]
    assert bound["sam_n3"] == pytest.approx(4 * both) and bound["xsam_search"] == pytest.approx(2 * both + 21 * probe)
    spread = found["xsam_over_an_epoch"]
    assert spread["steps_per_epoch"] == 6250
    search = found["ratio"]["xsam_search"]["median"] - found["ratio"]["xsam"]["median"]
    assert spread["ratio"] == pytest.approx(found["ratio"]["xsam"]["median"] + search / 6250)


def test_a_profile_says_where_the_time_goes(report: tuple[str, dict]) -> None:
    text, found = report
    shares = [one["share"] for one in found["profile"]["largest"].values()]
    assert shares == sorted(shares, reverse=True) and 0.5 < sum(shares) <= 1 + 1e-9
    assert "aten::convolution_backward" in found["profile"]["largest"] and "aten::convolution_backward" in text


class AtOnce:
    """`CudaGraphs` for a CPU: a replay does the work again."""

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        pass

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return work


def test_graphs_and_runs_side_by_side_are_reported(script: ModuleType, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the graphs: the arithmetic and the text of the report."""
    monkeypatch.setattr(script, "CudaGraphs", AtOnce)
    bench = script.Bench(script.PRESETS["tiny"])
    monkeypatch.setattr(script.torch, "compile", lambda function, **options: function)
    found = {"graphs": script.graphs(bench), "seeds": script.seeds(bench, (1, 2)), "arithmetic": script.arithmetic(bench)}
    ratio = found["graphs"]["ratio"]
    assert list(ratio) == ["torch_sgd", "torch_sgd_again", "torch_sgd_eager", *(n for n in OURS if n != "xsam_search"), "sam_eager"]
    assert ratio["torch_sgd"]["median"] == 1 and all(score["low"] > 0 for score in ratio.values())
    assert found["arithmetic"]["parameters"] == sum(p.numel() for p in bench.model().parameters())
    assert found["arithmetic"]["compiled_over_eager"]["median"] > 0
    rate = found["seeds"]["steps_per_second"]
    assert found["seeds"]["over_one_run"] == {"1": 1, "2": pytest.approx(rate["2"] / rate["1"])}
    text = script.table(found)
    assert "vector arithmetic on 0.1 M parameters" in text and "as CUDA graphs" in text and "(2.04)" in text and "runs side by side" in text


def test_the_other_parts_are_reported(report: tuple[str, dict]) -> None:
    text, found = report
    assert found["environment"]["threads"] == 1 and found["environment"]["command"].split()[-1].startswith("out=")
    assert found["environment"]["versions"]["torch"] and found["setting"]["preset"] == "tiny"
    assert found["ceiling"]["fraction"] == pytest.approx(
        found["ceiling"]["flop_per_gradient"] / found["methods"]["seconds"]["torch_sgd"] / found["ceiling"]["matmul_per_second"]["fp32"]
    )
    assert {"full_over_bare", "batchwise_over_bare"} < set(found["evaluator"])
    errors = found["precision"]
    assert list(errors) == ["fp32", "tf32", "bf16", "fp16"]
    assert all(math.isfinite(e) and e > 0 for e in errors.values()) and errors["fp32"] < errors["fp16"] < errors["bf16"]
    assert "images/s" in text and "GFLOP/s" in text


def test_the_gradient_is_counted_in_flop(script: ModuleType) -> None:
    """WRN-10-1 on 8x8 images: multiply-adds of each convolution, three times, less the stem's gradient by the images."""
    bench = script.Bench(script.PRESETS["tiny"])
    stem = 64 * 27 * 16
    blocks = 64 * (16 * 9 * 16 * 2) + 16 * (16 * 9 * 32 + 32 * 9 * 32 + 16 * 32) + 4 * (32 * 9 * 64 + 64 * 9 * 64 + 32 * 64)
    expected = 2 * 8 * (2 * stem + 3 * (blocks + 64 * 10))
    assert script.ceiling(bench, None)["flop_per_gradient"] == expected


def test_quartiles_and_ratios(script: ModuleType) -> None:
    assert script.quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3, "low": 2, "high": 4}
    nan = float("nan")  # sat out this round
    assert script.ratios({"a": [2.0, nan, 8.0], "b": [1.0, 1.0, 2.0]}, "a", "b")["median"] == 3


def test_memory_and_start_up(script: ModuleType) -> None:
    """Not run through: a process of its own each. One of them by hand."""
    bench = script.Bench(script.dataclasses.replace(script.PRESETS["tiny"], peak="sam"))
    high, seconds = script.peak(bench)
    assert high > 50 and seconds > 0
    assert torch.get_num_threads() >= 1


def test_memory_is_measured_with_freed_memory_kept_and_returned(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(command: list[str], env: dict[str, str], **rest: object) -> SimpleNamespace:
        returned = "MALLOC_ARENA_MAX" in env
        return SimpleNamespace(stdout="200 0.5\n" if returned else "220 0.4\n")

    monkeypatch.setattr(script.subprocess, "run", ran)
    found = script.memory(script.Bench(script.PRESETS["tiny"]), [])
    assert [found[name] for name in ("sgd", "sam", "xsam")] == [220, 220, 220]
    assert found["kept_over_returned"]["sam"] == {"seconds": {"median": 0.8, "low": 0.8, "high": 0.8}, "peak": 1.1}
    assert "a step takes 0.800 of the time, the peak is 1.10 times as high" in script.table({"memory": found})


def test_a_part_that_fails_takes_no_other_with_it(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bench: object, arguments: list[str]) -> dict:
        raise subprocess.CalledProcessError(1, "python")

    monkeypatch.setattr(script, "memory", broken)
    out = tmp_path / "out.json"
    assert script.main(["preset=tiny", "parts=ceiling,memory,evaluator", f"out={out}"]) == 1
    shown, found = capsys.readouterr(), json.loads(out.read_text())
    assert {"ceiling", "evaluator"} < set(found) and "CalledProcessError" in found["failed"]["memory"]
    assert "GFLOP/s" in shown.out and "error: memory: CalledProcessError" in shown.err


def test_what_is_measured_is_kept_if_it_is_stopped(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(bench: object) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "evaluator", stopped)
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        script.main(["preset=tiny", "parts=ceiling,evaluator", f"out={out}"])
    assert "ceiling" in json.loads(out.read_text())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("preset=huge", "preset=huge: must be one of cpu, gpu, tiny."),
        ("speed=9", "speed=9: unknown option; known are "),
        ("rounds=many", "rounds=many: must be a whole number."),
        ("precision=fp8", "precision=fp8: must be one of fp32, tf32, bf16, fp16."),
        ("parts=methods,soup", "parts=soup: must be among "),
        ("parts=graphs", "parts=graphs: CUDA graphs need a GPU"),
    ],
)
def test_a_wrong_option_is_one_sentence(script: ModuleType, argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([argument]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
