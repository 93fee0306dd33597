"""A run with loss=mse: trained, recorded, measured and tabulated with the squared error, against a plain computation in float64."""

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import data
import models
import sam.sharpness
from sam.config import ConfigError
from sam.evaluation import storing
from sam.evaluation.evaluate import evaluate
from sam.evaluation.foreign import evaluate_checkpoint
from sam.evaluation.settings import EvaluateConfig
from sam.runs import checkpoint, identity
from sam.runs.run import run
from sam.schema import from_dict
from sam.settings import TrainConfig
from sam.sharpness.settings import SharpnessConfig
from sam.tables.conditions import conditions
from sam.tables.footnotes import trained_by

DATA = {"name": "digits", "train_size": 60, "label_noise": 0.2}
SHARPNESS = {"notions": ["ascent", "gap"], "batchnorm": ["eval"], "rho": [0.05]}


def squared_errors(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.mse_loss(outputs, functional.one_hot(labels, 10).double(), reduction="none").sum(1) / 10


@pytest.mark.usefixtures("one_thread")
def test_a_run_with_the_squared_error(tmp_path: Path) -> None:
    values = {"dataset": DATA, "model": {"depth": 10, "width": 1}, "epochs": 2, "batch_size": 20, "threads": 1, "device": "cpu"}
    config = from_dict(TrainConfig, values | {"loss": "mse", "runs_dir": str(tmp_path), "optimizer": {"lr": 0.05}})
    run(config)
    folder = identity.run_folder(config)
    (row,) = evaluate(from_dict(EvaluateConfig, {"runs_dir": str(tmp_path), "sharpness": SHARPNESS, "threads": 1, "device": "cpu"})).runs

    net = models.build("wide_resnet", classes=10, channels=1, image_size=8, depth=10, width=1)
    net.load_state_dict(checkpoint.load(folder)["model"])
    images = data.load(**DATA)
    assert row.measures["train_loss"] == pytest.approx(sam.sharpness.evaluate(net, images, **SHARPNESS, loss="mse")["train_loss"], rel=1e-5)
    net.double().eval()
    x, y, z, t = images.train_images, images.train_labels, images.test_images, images.test_labels
    weights, inputs = list(net.parameters()), images.normalize(x).double()
    loss = squared_errors(net(inputs), y).mean()
    gradient = torch.autograd.grad(loss, weights)
    length = torch.cat([g.flatten() for g in gradient]).norm()
    outputs = net(images.normalize(z).double()).detach()
    with torch.no_grad():
        for w, g in zip(weights, gradient, strict=True):
            w += 0.05 * g / length
        moved = squared_errors(net(inputs), y).mean().item()
    each = torch.stack([squared_errors(outputs, torch.full_like(t, k)) for k in range(10)]).mean(1)
    right = squared_errors(outputs, t).mean().item()
    wanted = {
        "train_loss": loss.item(),
        "sharpness[rho=0.05,bn=eval,batch=all]": moved - loss.item(),
        "ascent_loss[rho=0.05,bn=eval,batch=all]": moved,
        "test_loss": right,
        "test_loss_channel": 0.8 * right + 0.2 * (each.sum().item() - right) / 9,
    }
    assert {name: row.measures[name] for name in wanted} == pytest.approx(wanted, rel=2e-4)
    assert row.measures["ece"] is None  # the outputs are no logits
    with (folder / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["test_loss"]) == pytest.approx(right, rel=1e-4)
    assert float(last["train_loss"]) < 0.2  # a cross-entropy of 10 classes would begin at 2.3

    stored = json.loads((folder / "sharpness.json").read_text())["rows"]
    assert all(row["settings"]["loss"] == "mse" for row in stored.values())
    (context,) = conditions([row])
    assert context.label.endswith(", loss mse") and " loss mse;" in trained_by(context.config)


def test_the_key_of_a_row_holds_the_loss_where_it_is_not_the_cross_entropy() -> None:
    config = SharpnessConfig.of(notions=["all"])
    usual = storing.keys("checkpoint", "data", config, ("test",), "cross_entropy")
    other = storing.keys("checkpoint", "data", config, ("test",), "mse")
    assert other.keys() == usual.keys() and not set(other.values()) & set(usual.values())


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="loss=hinge: must be one of cross_entropy, mse"):
        sam.sharpness.evaluate(torch.nn.Linear(2, 2), (torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64)), loss="hinge")


def test_a_file_of_weights_is_measured_by_the_loss_that_is_named(tmp_path: Path) -> None:
    model = models.build("wide_resnet", classes=10, channels=1, image_size=8, depth=10, width=1)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    asked = {"checkpoint": str(tmp_path / "a.pt"), "model": {"depth": 10, "width": 1}, "dataset": {"name": "digits"}, "device": "cpu"}
    asked |= {"sharpness": {"notions": ["gap"], "batchnorm": ["eval"]}}
    ours, entropy = (evaluate_checkpoint(from_dict(EvaluateConfig, asked | loss)).found.values for loss in ({"loss": "mse"}, {}))
    images = data.load(name="digits")
    with torch.no_grad():
        outputs = model.double().eval()(images.normalize(images.test_images).double())
    target = torch.nn.functional.one_hot(images.test_labels, 10)
    assert ours["test_loss"] == pytest.approx((outputs - target).square().mean().item(), rel=1e-5)
    assert entropy["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, images.test_labels).item(), rel=1e-5)
    with pytest.raises(ConfigError, match=r"loss=\.\.\.: belongs to checkpoint=FILE"):
        from_dict(EvaluateConfig, {"loss": "mse"})
