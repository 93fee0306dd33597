"""`evaluate_sharpness.py checkpoint=...`: anybody's weights, from the command line to the JSON beside them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import data
import models
import sam.sharpness

COMMON = (
    "model=wrn_10_1",
    "dataset=digits",
    "dataset.train_size=300",
    "threads=1",
    "device=cpu",
    "sharpness.m=100",
    "sharpness.batchnorm=[eval]",
)
Run = Callable[..., Any]


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return models.build("wide_resnet", classes=10, channels=1, image_size=8, depth=10, width=1)


def rows(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())["rows"]


def test_a_checkpoint_is_measured_stored_and_not_measured_again(commands: Run, tmp_path: Path) -> None:
    net = network()
    torch.save({"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}, "epoch": 3}, tmp_path / "a.pt")
    save_file(net.state_dict(), tmp_path / "b.safetensors")
    foreign = models.build("timm", timm_name="resnet10t", classes=10, channels=1, image_size=8, init="torch")
    torch.save(foreign.state_dict(), tmp_path / "t.pth")
    timm = ["evaluate_sharpness.py", f"checkpoint={tmp_path / 't.pth'}", *COMMON[1:], "sharpness.notions=[gap]"]
    line = ["evaluate_sharpness.py", f"checkpoint={tmp_path / 'a.pt'}", *COMMON]
    gap = [*line, "sharpness.notions=[gap]"]
    first, again, more, other, moved, same, elsewhere, ours, unknown = commands(
        [
            gap,
            gap,
            [*line, "sharpness.notions=[ascent,gap]"],
            ["evaluate_sharpness.py", f"checkpoint={tmp_path / 'b.safetensors'}", *COMMON, "sharpness.notions=[gap]"],
            [*gap, "mean=[0.1]", "std=[0.5]"],
            [*gap, "dataset.mean=[0.1]", "std=[0.5]"],
            [*gap, f"out={tmp_path / 'out'}", "dataset.train_size=200"],
            [*timm, "model=timm", "model.timm_name=resnet10t"],
            [*timm, "model=timm", "model.timm_name=resnet10tt"],
        ]
    )
    assert [r.code for r in (first, again, more, other, moved, same, elsewhere, ours)] == [0] * 8, (first, more, other, elsewhere, ours)
    expected = sam.sharpness.evaluate(net, data.load(name="digits", train_size=300), notions=["gap"], batchnorm=["eval"])
    row = next(iter(rows(tmp_path / "a.pt.sharpness.json").values()))
    assert row["notion"] == "gap" and row["values"] == pytest.approx(dict(expected), rel=1e-5)
    printed = dict(line.split()[:2] for line in first.out.splitlines() if line.startswith(("test_", "ece")))
    assert float(printed["test_loss"]) == pytest.approx(expected["test_loss"], rel=1e-4)
    assert float(printed["ece"]) == pytest.approx(expected["ece"], rel=1e-4)
    assert "normalised with mean (" in first.out and first.out == again.out
    (sharpness,) = [line for line in more.out.splitlines() if line.startswith("sharpness[rho=0.05,bn=eval,batch=m]")]
    assert "±" in sharpness and "sharpness[" not in first.out
    notions = [row["notion"] for row in rows(tmp_path / "a.pt.sharpness.json").values()]
    assert sorted(notions) == ["ascent", "gap", "gap"]  # one gap row for each normalisation, none for a second command
    assert "test_loss" in other.out and (tmp_path / "b.safetensors.sharpness.json").is_file()
    assert moved.out != first.out and moved.out == same.out and "mean (0.1000) and std (0.5000)" in moved.out
    assert (tmp_path / "out" / "a.pt.sharpness.json").is_file() and "200 training images" in elsewhere.out
    assert "test_loss" in ours.out and unknown.refused("timm_name resnet10tt", "resnet10t")


def test_what_cannot_be_measured_is_refused_in_one_sentence(commands: Run, tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "a.pt")
    torch.save({"w": torch.zeros(3)}, tmp_path / "foreign.pt")
    torch.save(network(), tmp_path / "module.pt")
    own = f"checkpoint={tmp_path / 'a.pt'}"
    cases: list[tuple[list[str], list[str]]] = [
        ([own], [own, "needs model=...", "model=resnet18 dataset=cifar10"]),
        ([own, "model=wrn_10_1"], ["needs dataset=..."]),
        (["model=wrn_10_1", "dataset=digits"], ["model=...", "belongs to checkpoint=FILE"]),
        ([own, *COMMON, f"runs_dir={tmp_path}"], ["runs_dir=...", "one file"]),
        ([own, *COMMON, "part=1", "parts=2"], ["part=...", "one file"]),
        ([own, *COMMON, "tracking=wandb"], ["tracking=...", "one file"]),
        ([f"checkpoint={tmp_path / 'nowhere.pt'}", *COMMON], ["nowhere.pt", "there is no such file"]),
        ([f"checkpoint={tmp_path / 'foreign.pt'}", *COMMON], ["foreign.pt", "does not fit WideResNet"]),
        ([f"checkpoint={tmp_path / 'module.pt'}", *COMMON], ["module.pt", "Python objects"]),
        ([own, *COMMON, "model=vgg11_bn"], ["vgg11_bn", "8x8"]),
        ([own, *COMMON, "mean=[0.1,0.2,0.3]"], ["mean=[0.1, 0.2, 0.3]", "each of the 1 channels"]),
        ([own, *COMMON, "std=[0]"], ["std=0", "> 0"]),
        ([own, *COMMON, "std=[1]", "dataset.std=[1]"], ["std=[1.0]", "leave one of them out"]),
        (
            [own, *COMMON, "sharpness.notions=[corruption]", "sharpness.corruption.path=nowhere"],
            ["sharpness.corruption.path=nowhere", "no such folder"],
        ),
        (["parts=3"], ["parts=3", "needs part=K"]),
        (["part=3", "parts=3"], ["part=3", "<= 2"]),
    ]
    results = commands([["evaluate_sharpness.py", *line] for line, _ in cases])
    for (line, words), result in zip(cases, results, strict=True):
        assert result.refused(*words), (line, result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "foreign.pt", "module.pt"]
