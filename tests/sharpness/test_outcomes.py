"""Which test images are right: the very images, by whose number the accuracy follows."""

import pytest
import torch
from torch import nn

import sam.sharpness
from sam.tables.inference import unpacked


@pytest.mark.parametrize("batchnorm", ["", "[bn=recalibrated]"])
def test_they_are_the_images_behind_the_accuracy(batchnorm: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    model[1].running_mean += 0.5  # so that the two modes differ
    train, test = ((torch.randn(n, 4), torch.arange(n) % 3) for n in (40, 101))
    found = sam.sharpness.evaluate(model, {"train": train, "test": test}, notions=["gap", "outcomes"], batchnorm=["eval", "recalibrated"])
    right = unpacked(found.series[f"outcomes{batchnorm}"])
    assert 100 * right.mean() == pytest.approx(found[f"test_accuracy{batchnorm}"])
    if not batchnorm:
        assert right.tolist() == (model.eval()(test[0]).argmax(1) == test[1]).tolist()


def test_nothing_without_a_test_set() -> None:
    assert not sam.sharpness.evaluate(nn.Linear(4, 3), (torch.randn(8, 4), torch.arange(8) % 3), notions=["outcomes"]).series
