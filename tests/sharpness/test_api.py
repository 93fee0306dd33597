"""`sam.sharpness.evaluate`: the same numbers from every form of data, and one sentence for what cannot be measured."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

import data
import sam.sharpness
from sam.config import ConfigError
from sam.sharpness.context import Result, context_of, measure
from sam.sharpness.settings import SharpnessConfig

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
    "loaders": [DataLoader(Rows(TRAIN), batch_size=4), DataLoader(TensorDataset(*TEST), batch_size=3)],
    "stream": (Stream(), TEST),
    "arrays": (tuple(x.numpy() for x in TRAIN), tuple(x.double().numpy() if x.is_floating_point() else x.int().numpy() for x in TEST)),
    "wide": {"train": (TRAIN[0].double(), TRAIN[1].int()), "test": TEST},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_numbers(form: str) -> None:
    """m = 5: the batches of the batch-wise measure are those of the set's own order."""
    expected = sam.sharpness.evaluate(network(), FORMS["pairs"], m=5)
    found = sam.sharpness.evaluate(network(), FORMS[form], m=5)
    assert found == expected and found[NAME] is not None and found["test_loss"] is not None


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> object:  # type: ignore[override]
        return zip(TRAIN[0].split(4), TRAIN[1].split(4), strict=True)


def halved(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = default_collate(samples)
    return x / 2, y


SET = TensorDataset(*TRAIN)
LOADERS = {
    "a part": lambda: DataLoader(SET, batch_size=4, sampler=SubsetRandomSampler([1, 3, 5, 7, 9, 11, 12])),
    "a part, its own stream": lambda: DataLoader(SET, sampler=SubsetRandomSampler([1, 3, 5], generator=torch.Generator().manual_seed(7))),
    "weighted": lambda: DataLoader(SET, batch_size=4, sampler=WeightedRandomSampler([1.0] * 6 + [0.0] * 7, 20)),
    "drawn with replacement": lambda: DataLoader(SET, sampler=RandomSampler(SET, replacement=True, num_samples=30)),
    "batches by hand": lambda: DataLoader(SET, batch_sampler=[[0, 1], [5, 6, 7], [12, 3]]),
    "batches by hand, drawn": lambda: DataLoader(SET, batch_sampler=BatchSampler(RandomSampler(SET), 5, drop_last=True)),
    "shuffled": lambda: DataLoader(SET, batch_size=4, shuffle=True),
    "the rest dropped": lambda: DataLoader(SET, batch_size=4, drop_last=True),
    "shuffled, the rest dropped": lambda: DataLoader(SET, batch_size=4, shuffle=True, drop_last=True, generator=torch.Generator()),
    "collated": lambda: DataLoader(SET, batch_size=4, collate_fn=halved),
    "a stream, the rest dropped": lambda: DataLoader(Stream(), batch_size=4, drop_last=True),
    "a stream of samples": lambda: DataLoader(Stream(), batch_size=None),
    "a stream of batches": lambda: DataLoader(Batches(), batch_size=None),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_what_a_loader_yields_is_what_is_measured(kind: str) -> None:
    """One pass over it, with its draws seeded: each time the same numbers; no random stream is left elsewhere."""
    loader, model = LOADERS[kind](), network()
    streams = [g for g in (loader.generator, getattr(loader.sampler, "generator", None)) if g is not None]
    before = [torch.get_rng_state(), *(g.get_state() for g in streams)]
    found = sam.sharpness.evaluate(model, loader, m=5)
    assert found == sam.sharpness.evaluate(model, loader, m=5)
    assert all(torch.equal(a, b) for a, b in zip(before, [torch.get_rng_state(), *(g.get_state() for g in streams)], strict=True))
    for generator in (torch, *streams):
        generator.manual_seed(0)  # the default of `seed`
    pieces = [(x, y) if y.ndim else (x[None], y[None]) for x, y in loader]
    torch.set_rng_state(before[0])
    yielded = torch.cat([x for x, _ in pieces]), torch.cat([y for _, y in pieces])
    assert found == sam.sharpness.evaluate(network(), yielded, m=5)


class Counting(nn.Module):
    """Moves a buffer in each forward, in eval mode too; each finds it as the measurement found it."""

    def __init__(self, rebinds: bool) -> None:
        super().__init__()
        self.inner, self.rebinds = network(), rebinds
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.rebinds:
            self.calls = self.calls + 1
        else:
            self.calls += 1
        return self.inner(x) * self.calls


@pytest.mark.parametrize("rebinds", [False, True])
def test_buffers_that_a_forward_moves_are_held_and_put_back(rebinds: bool) -> None:
    model = Counting(rebinds)
    buffer = model.calls
    found = sam.sharpness.evaluate(model, FORMS["pairs"], notions=["ascent", "gap", "hessian"], m=5)
    assert model.calls is buffer and buffer == 0
    assert found == sam.sharpness.evaluate(model, FORMS["pairs"], notions=["ascent", "gap", "hessian"], m=5)
    plain = sam.sharpness.evaluate(network(), FORMS["pairs"], notions=["ascent", "gap", "hessian"], m=5)
    assert found == plain  # each forward is the first: calls = 1


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_spectral_norm_is_measured_as_it_stands(norm: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3))
    model(TRAIN[0])  # a step of its power iteration
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight = vars(model[0]).get("weight")
    found = sam.sharpness.evaluate(model, TRAIN, notions=["ascent", "hessian"], m=5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert vars(model[0]).get("weight") is weight and model.training
    assert found == sam.sharpness.evaluate(model, TRAIN, notions=["ascent", "hessian"], m=5)


def test_a_single_value_where_a_list_may_stand() -> None:
    expected = sam.sharpness.evaluate(network(), TRAIN, ["ascent"], [0.05], batchnorm=["eval"], m=5)
    assert sam.sharpness.evaluate(network(), TRAIN, "ascent", 0.05, batchnorm="eval", m=5) == expected


class Puts(nn.Module):
    """A network that puts out something else of its logits."""

    def __init__(self, what: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner, self.what = network(), what

    def forward(self, x: Tensor) -> object:
        return self.what(self.inner(x))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda x: x, "must be a torch.nn.Module, not a function."),
        (nn.Sequential(nn.LazyLinear(3)), "0.weight has no shape yet; run one batch through the model"),
        (nn.Sequential(nn.Linear(6, 3), nn.LazyBatchNorm1d(affine=False)), "1.running_mean has no shape yet"),
        (Puts(lambda z: z.detach()), "returns outputs without a gradient"),
    ],
)
def test_models_that_have_no_sharpness(model: nn.Module, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^model: {said}"):
        sam.sharpness.evaluate(model, TRAIN, m=5)


def test_log_probabilities_are_logits() -> None:
    found, expected = (sam.sharpness.evaluate(m, TRAIN, m=5) for m in (Puts(lambda z: z.log_softmax(1)), Puts(lambda z: z)))
    assert dict(found) == pytest.approx(dict(expected), rel=1e-3, abs=1e-5)


def spoilt(model: nn.Module) -> nn.Module:
    model[0].bias.data[2] = float("nan")  # type: ignore[index, union-attr, operator]
    return model


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
    config = SharpnessConfig.of(notions=["gap"])
    expected = measure(context_of(model, data.load(name="digits"), config)).values
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
    lines = [line.split() for line in str(sam.sharpness.Measurements(Result(values))).splitlines()]
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
        (network(), (*TRAIN, TRAIN[1]), {}, ["a tuple of 3", "(inputs, labels) or (train, test)"]),
        (network(), [(torch.zeros(n), 0) for n in (6, 5, 6)], {}, ["data (train): cannot be made batches of"]),
        (network(), (TRAIN[0].numpy()[::-1], TRAIN[1].numpy()), {}, ["data (train): must be numbers that torch can take"]),
        (network(), (TRAIN[0], np.array(list("abc"))[TRAIN[1]]), {}, ["data (train): must be numbers that torch can take"]),
        (nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3).double()), TRAIN, {}, ["torch.float32 and torch.float64", "one type"]),
        (network(), (TRAIN[0], TRAIN[1][:5]), {}, ["13 inputs and 5 labels"]),
        (network(), (TRAIN[0], TRAIN[0]), {}, ["labels are torch.float32 (13, 6)", "labels.argmax(1)"]),
        (network(), (TRAIN[0], TRAIN[1].float()), {}, ["labels are torch.float32 (13,)", ".long()"]),
        (network(), (TRAIN[0], TRAIN[1][:, None]), {}, ["labels are torch.int64 (13, 1)", "flatten()"]),
        (network(), (TRAIN[0], TRAIN[1] + 1), {}, ["labels run from 1 to 3", "0 to 2", "subtract 1"]),
        (network(), (TRAIN[0], TRAIN[1] - 1), {}, ["labels run from -1 to 1", "add 1"]),
        (network(), (TRAIN[0].clone().index_fill_(0, torch.tensor(4), float("nan")), TRAIN[1]), {}, ["1 of 13 inputs hold NaN"]),
        (network(), TensorDataset(TRAIN[0] / 0, TRAIN[1]), {}, ["13 of 13 inputs hold NaN or infinity"]),
        (network(), (TRAIN[0][:, :4], TRAIN[1]), {}, ["cannot take data (train)", "4"]),
        (network(), TRAIN, {"rho": "large"}, ["sharpness", "wrong type", "large"]),
        (network(), TRAIN, {"rho": None}, ["sharpness", "wrong type"]),
        (network(), TRAIN, {"notions": None}, ["sharpness.notions=None"]),
        (network(), TRAIN, {"m": "128"}, ["sharpness.m='128'", "whole number"]),
        (Puts(lambda z: {"logits": z}), TRAIN, {}, ["returns a dict", "logits"]),
        (Puts(lambda z: (z, z)), TRAIN, {}, ["returns a tuple", "logits"]),
        (Puts(lambda z: None), TRAIN, {}, ["returns a NoneType"]),
        (Puts(lambda z: z.softmax(1)), TRAIN, {}, ["returns probabilities", "no softmax"]),
        (Puts(lambda z: z - z.mean(0)), TRAIN, {}, ["other outputs alone"]),
        (Puts(lambda z: z + torch.rand_like(z)), TRAIN, {}, ["other outputs", "each time"]),
        (spoilt(network()), TRAIN, {}, ["model: 0.bias holds NaN or infinity"]),
        (nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False)), TRAIN, {}, ["model: 1 has no running statistics"]),
        (network(), DataLoader(SET, sampler=SubsetRandomSampler([])), {}, ["data (train): is empty"]),
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
def test_no_cure_of_one_splits_labels_parts_them_from_the_others() -> None:
    """Training labels 0 to 2, test labels 1 and 3: less 1, each would mean another class than in training."""
    with pytest.raises(ConfigError, match=r"labels run from 1 to 3, but the model has logits for 0 to 2\.$"):
        sam.sharpness.evaluate(network(), (TRAIN, (TRAIN[0], 1 + 2 * (TRAIN[1] > 1))))


def test_importing_the_package_is_light() -> None:
    light = "import sys, sam.sharpness; assert not {'torch', 'numpy', 'hydra'} & set(sys.modules)"
    program = f"{light}; sam.sharpness.evaluate; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_a_set_in_the_order_of_its_classes_is_mixed() -> None:
    """Batches of one class are no batches of the set: their statistics lie far from those of mixed batches."""
    torch.manual_seed(0)
    net, labels = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)), torch.arange(3).repeat_interleave(40)
    x = 5 * nn.functional.one_hot(labels, 3).float() + torch.randn(120, 3)
    order = torch.randperm(120)
    name = "train_loss[bn=train]"
    by_class, mixed = (sam.sharpness.evaluate(net, (x[o], labels[o]), notions=["ascent"], m=40)[name] for o in (torch.arange(120), order))
    assert by_class == pytest.approx(mixed, rel=0.1)
