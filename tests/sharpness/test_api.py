"""`sam.sharpness.evaluate`: the same numbers from every form of data, and one sentence for what cannot be measured."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import data
import sam.sharpness
from sam.config import ConfigError, SharpnessConfig
from sam.sharpness.notions import measure
from sam.sharpness.subject import subject_of

ROOT = Path(__file__).resolve().parents[2]
TRAIN, TEST = (torch.linspace(-1, 1, 13 * 6).reshape(13, 6).sin(), torch.arange(13) % 3), (torch.ones(4, 6).cumsum(1), torch.arange(4) % 3)
NAME = "sharpness[rho=0.05,bn=eval,batch=all]"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


class Rows(Dataset[tuple[Tensor, int]]):
    """Labels as plain numbers, as torchvision gives them."""

    def __init__(self, pair: tuple[Tensor, Tensor]) -> None:
        self.pair = pair

    def __len__(self) -> int:
        return len(self.pair[1])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= len(self):
            raise IndexError(index)
        return self.pair[0][index], int(self.pair[1][index])


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> object:  # type: ignore[override]
        return zip(*TRAIN, strict=True)


class Named(Rows):
    def __getitem__(self, index: int) -> dict[str, object]:  # type: ignore[override]
        return dict(zip(("input", "label"), super().__getitem__(index), strict=True))


class Augmenting(Rows):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = super().__getitem__(index)
        return x + torch.rand(()), y


FORMS = {
    "pairs": (TRAIN, TEST),
    "dictionary": {"train": TRAIN, "test": TEST},
    "datasets": (TensorDataset(*TRAIN), Rows(TEST)),
    "loaders": [DataLoader(Rows(TRAIN), batch_size=4, shuffle=True, drop_last=True), DataLoader(TensorDataset(*TEST), batch_size=3)],
    "stream": (Stream(), TEST),
    "wide": {"train": (TRAIN[0].double(), TRAIN[1].int()), "test": TEST},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_numbers(form: str) -> None:
    """m = 5: the batches of the batch-wise measure are those of the set's own order."""
    expected = sam.sharpness.evaluate(network(), FORMS["pairs"], m=5)
    random = torch.get_rng_state()
    found = sam.sharpness.evaluate(network(), FORMS[form], m=5)
    torch.set_rng_state(random)
    assert found == expected and found[NAME] is not None and found["test_loss"] is not None


@pytest.mark.parametrize("offset", range(9))
def test_the_numbers_do_not_depend_on_where_the_data_lie_in_memory(offset: int) -> None:
    """Views that begin `offset` floats into their memory, and the same samples stored column by column."""

    def moved(x: Tensor) -> Tensor:
        return torch.empty(offset + x.numel())[offset:].view(x.shape).copy_(x)

    def turned(x: Tensor) -> Tensor:
        return moved(x.T).T

    expected = sam.sharpness.evaluate(network(), (TRAIN, TEST), rho=[0.05, 0.5], m=5)
    for lay in (moved, turned):
        found = sam.sharpness.evaluate(network(), ((lay(TRAIN[0]), TRAIN[1]), (lay(TEST[0]), TEST[1])), rho=[0.05, 0.5], m=5)
        assert found == expected, lay.__name__


def test_reading_the_data_and_measuring_leave_the_random_state() -> None:
    model = network()
    before = torch.get_rng_state()
    sam.sharpness.evaluate(model, FORMS["loaders"])
    assert torch.equal(before, torch.get_rng_state())


def test_an_image_data_set_in_three_lines() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = sam.sharpness.evaluate(
        model, data.load(name="digits"), notions=["gap", "landscape"], landscape={"lines": ["gradient"], "planes": []}
    )
    config = SharpnessConfig(notions=["gap"])
    expected = measure(subject_of(model, data.load(name="digits"), config)).values
    assert {name: found[name] for name in expected} == expected
    assert list(found.series) == ["line_gradient[subset=512]"] and len(found.series["line_gradient[subset=512]"]["t"]) == 21


def test_an_image_data_set_and_a_model_in_float64() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    single = sam.sharpness.evaluate(model, data.load(name="digits"))
    double = sam.sharpness.evaluate(model.double(), data.load(name="digits"))
    assert double[NAME] == pytest.approx(single[NAME], rel=1e-4) and double["gap"] == pytest.approx(single["gap"], rel=1e-4)


def test_an_autocast_around_the_call_changes_no_number() -> None:
    expected = sam.sharpness.evaluate(network(), FORMS["pairs"], notions=["ascent", "gap", "hessian"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sam.sharpness.evaluate(network(), FORMS["pairs"], notions=["ascent", "gap", "hessian"]) == expected


def test_without_test_data_only_what_needs_none() -> None:
    found = sam.sharpness.evaluate(network(), TRAIN, rho=[1])
    assert "train_loss" in found and "test_loss" not in found and found["sharpness[rho=1,bn=eval,batch=all]"] is not None


def test_it_prints_as_a_list_with_standard_errors() -> None:
    values = {"a[rho=1]": 1.5, "a_stderr[rho=1]": 0.25, "lonely_stderr": 2.0, "none": None, "gone": float("nan")}
    lines = [line.split() for line in sam.sharpness.api.listing(values).splitlines()]  # type: ignore[attr-defined]
    assert lines == [["a[rho=1]", "1.5", "±", "0.25"], ["lonely_stderr", "2"], ["none", "-"], ["gone", "nan"]]
    found = sam.sharpness.evaluate(network(), TRAIN, m=5)
    assert "±" in str(found) and all(name in str(found) for name in found if "stderr" not in name)


@pytest.mark.parametrize(
    ("model", "given", "settings", "words"),
    [
        (network(), TRAIN, {"rho": [-1]}, ["sharpness.rho=-1"]),
        (network(), TRAIN, {"rho": [0.1, 0.1000000001]}, ["sharpness.rho=", "six digits"]),  # one name for two numbers
        (network(), TRAIN, {"m": 6}, ["sharpness.m", "one sample"]),  # 13 = 6 + 6 + 1
        (network(), TRAIN, {"m": 6, "batchnorm": ["eval", "recalibrated"]}, ["sharpness.m", "one sample"]),
        (network(), TRAIN, {"keskar": {"epsilon": [1e-3, 0.001]}}, ["sharpness.keskar.epsilon="]),
        (network(), TRAIN, {"adaptive": {"worst_l2": [1, 1.0]}}, ["sharpness.adaptive.worst_l2="]),
        (network(), TRAIN, {"notions": ["flatness"]}, ["sharpness.notions=flatness", "ascent"]),
        (network(), TRAIN, {"hessian": {"probe": 3}}, ["sharpness.hessian.probe", "probes"]),
        (network(), {"training": TRAIN}, {}, ["keys train", "training"]),
        (network(), 7, {}, ["int is none of"]),
        (network(), (TRAIN[0], TRAIN[1][:5]), {}, ["13 inputs and 5 labels"]),
        (network(), (TRAIN[0], TRAIN[0]), {}, ["labels are torch.float32 (13, 6)"]),
        (network(), (TRAIN[0].to(torch.uint8), TRAIN[1]), {}, ["uint8", "ImageData"]),
        (network(), DataLoader(Augmenting(TRAIN)), {}, ["without random augmentation"]),
        (network(), Named(TRAIN), {}, ["each sample must be a pair"]),
        (nn.Flatten(), TRAIN, {}, ["no trainable parameter"]),
        (network().bfloat16(), TRAIN, {}, ["weights in torch.bfloat16", "float32"]),
        (network(), (TRAIN, (TEST[0], TEST[1] + 1)), {}, ["data (test)", "from 1 to 3", "0 to 2"]),
        (network(), (TRAIN[0], TRAIN[1] - 100), {}, ["data (train)", "from -100 to -98"]),  # -100 would be ignored: a loss of 0
        (nn.Linear(6, 1), (TRAIN[0], TRAIN[1] * 0), {}, ["outputs (2, 1)"]),  # whose cross-entropy is 0, whatever the weights
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(
    model: nn.Module, given: object, settings: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        sam.sharpness.evaluate(model, given, **settings)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), caught.value


@pytest.mark.slow
def test_importing_the_package_is_light() -> None:
    light = "import sys, sam.sharpness; assert not {'torch', 'numpy', 'hydra'} & set(sys.modules)"
    program = f"{light}; sam.sharpness.evaluate; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
