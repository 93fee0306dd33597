"""The notions "ascent" and "gap" together: names, and each number against float64 by hand."""

import copy
import dataclasses
import json
import math
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from data.image_data import ImageData
from sam.config import ConfigError
from sam.evaluation import storing
from sam.registry import Row
from sam.schema import to_dict
from sam.sharpness import gap
from sam.sharpness.context import Context, Measures, Notion, Result, Sizes, Split, context_of, subset_indices, work
from sam.sharpness.context import measure as measure_context
from sam.sharpness.settings import NOTIONS, AscentConfig, GapConfig, SharpnessConfig

MEAN, STD, NOISE = 0.4, 0.25, 0.3


def network(dropout: float = 0.5) -> nn.Module:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(48, 4))
    net.eval()
    net[1].running_mean.fill_(0.3)
    net[1].running_var.fill_(1.7)
    return net.train()


def image_data() -> ImageData:
    generator = torch.Generator().manual_seed(7)

    def images(n: int) -> tuple[Tensor, Tensor]:
        return torch.randint(256, (n, 1, 6, 6), dtype=torch.uint8, generator=generator), torch.randint(4, (n,), generator=generator)

    (train, labels), (test, test_labels) = images(26), images(15)
    empty = torch.zeros(0, 1, 6, 6, dtype=torch.uint8)
    mean, std = torch.tensor([MEAN]), torch.tensor([STD])
    return ImageData(train, labels, empty, empty[:, 0, 0, 0].long(), test, test_labels, mean, std, 4, "", (), NOISE)


def measure(
    model: nn.Module, data: ImageData, config: SharpnessConfig, *, progress: Callable[[float], None] = lambda units: None
) -> Measures:
    return measure_context(context_of(model, data, config, progress=progress)).values


CONFIG = SharpnessConfig.of(rho=[0.05, 0.5], m=8, batch_size=10)
PLAIN = [
    "test_loss",
    "test_accuracy",
    "test_loss_channel",
    "ece",
    "train_loss",
    "train_accuracy",
    "grad_norm",
    "gap",
    "error_gap",
    "weight_norm",
]


def keys(modes: tuple[str, ...]) -> set[str]:
    names = set(PLAIN)
    for rho in ("0.05", "0.5"):
        names |= {f"first_order[rho={rho}]", f"second_order[rho={rho}]"}
        for mode in modes:
            names |= {f"{kind}[rho={rho},bn={mode},batch={b}]" for kind in ("sharpness", "ascent_loss") for b in ("all", "m")}
            names.add(f"sharpness_stderr[rho={rho},bn={mode},batch=m]")
    others = {f"{split}_{kind}[bn=train]" for split in ("train", "test") for kind in ("loss", "accuracy")}
    return names | (others | {"grad_norm[bn=train]"} if "train" in modes else set())


def oracle() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """The network in float64 and eval mode, and the normalised images."""
    data = image_data()
    train, test = (((x.double() / 255) - MEAN) / STD for x in (data.train_images, data.test_images))
    return copy.deepcopy(network()).double().eval(), train, data.train_labels, test, data.test_labels


def test_names_and_plain_values() -> None:
    values = measure(network(), image_data(), CONFIG)
    assert set(values) == keys(("eval", "train"))
    assert set(measure(network(), image_data(), SharpnessConfig.of(rho=[0.05, 0.5], m=8, batchnorm=["eval"]))) == keys(("eval",))
    net, train, labels, test, test_labels = oracle()
    train_loss = functional.cross_entropy(net(train), labels)
    logp = functional.log_softmax(net(test), dim=1)
    right = -logp[torch.arange(15), test_labels]
    wrong = (-logp.sum(dim=1) - right) / 3
    channel = ((1 - NOISE) * right + NOISE * wrong).mean().item()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(train_loss, list(net.parameters()))])
    confidence = logp.exp().max(1).values
    bins = [((confidence > b / 15) & (confidence <= (b + 1) / 15)) for b in range(15)]
    hits = (logp.argmax(1) == test_labels).double()
    ece = 100 * sum(abs((hits[b] - confidence[b]).sum().item()) for b in bins) / 15
    accuracy = 100 * (net(train).argmax(1) == labels).double().mean().item()
    test_accuracy = 100 * (logp.argmax(1) == test_labels).double().mean().item()
    expected = {
        "test_loss": right.mean().item(),
        "test_accuracy": test_accuracy,
        "test_loss_channel": channel,
        "ece": ece,
        "train_loss": train_loss.item(),
        "train_accuracy": accuracy,
        "grad_norm": gradient.norm().item(),
        "gap": channel - train_loss.item(),
        "error_gap": accuracy - test_accuracy,
        "weight_norm": math.sqrt(sum((p**2).sum().item() for p in net.parameters())),
        "first_order[rho=0.5]": 0.5 * gradient.norm().item(),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=2e-6, abs=2e-6)
    assert values["gap"] == values["test_loss_channel"] - values["train_loss"]  # type: ignore[operator]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("batch", ["all", "m"])
def test_sharpness_of_each_variant(mode: str, batch: str) -> None:
    """batch=all: one gradient and one loss; in train mode each piece of m images is normalised by its own statistics."""
    net, x, y, _, _ = oracle()
    if mode == "train":
        net[1].train()
    pieces = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 26, 8)]
    parameters = dict(net.named_parameters())

    def loss(weights: dict[str, Tensor], group: list[tuple[Tensor, Tensor]]) -> Tensor:
        count = sum(len(b) for _, b in group)
        return sum(functional.cross_entropy(torch.func.functional_call(net, weights, (a,)), b, reduction="sum") for a, b in group) / count  # type: ignore[return-value]

    total = 0.0
    groups = [pieces] if batch == "all" else [[piece] for piece in pieces]
    for group in groups:
        at_w = loss(parameters, group)
        gradient = torch.autograd.grad(at_w, list(parameters.values()))
        length = torch.cat([g.flatten() for g in gradient]).norm()
        moved = {name: p + 0.5 * g / length for (name, p), g in zip(parameters.items(), gradient, strict=True)}
        total += (loss(moved, group) - at_w).item() * sum(len(b) for _, b in group) / 26
    values = measure(network(), image_data(), CONFIG)
    assert values[f"sharpness[rho=0.5,bn={mode},batch={batch}]"] == pytest.approx(total, rel=2e-5)


def test_dropout_is_off() -> None:
    assert measure(network(0.5), image_data(), CONFIG) == measure(network(0.0), image_data(), CONFIG)


@pytest.mark.parametrize("modes", [["eval"], ["eval", "train"]])
@pytest.mark.parametrize("rho", [[0.05], [0.05, 0.1, 0.5]])
def test_work_is_what_is_reported(modes: list[str], rho: list[float]) -> None:
    config, done = SharpnessConfig.of(rho=rho, m=8, batchnorm=modes, batch_size=10), []
    measure(network(), image_data(), config, progress=done.append)
    by_hand = len(modes) * (15 + 2 * 26 * (3 + len(rho)))
    assert sum(done) == by_hand == work(config.chosen, Sizes(26, 15), config)


@pytest.fixture
def tf32() -> Iterator[Callable[..., tuple[bool, bool]]]:
    """Sets (if given) and returns the two switches; they are put back afterwards."""

    def switches(*values: bool) -> tuple[bool, bool]:
        if values:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = values
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = switches()
    yield switches
    switches(*before)


@pytest.mark.parametrize("outside", [(True, True), (True, False), (False, True)])
def test_tf32_is_off_inside_and_as_it_was_outside(tf32: Callable[..., tuple[bool, bool]], outside: tuple[bool, bool]) -> None:
    seen = set()
    net = network()
    net.register_forward_hook(lambda *_: seen.add(tf32()))
    tf32(*outside)
    measure(net, image_data(), CONFIG)
    assert tf32() == outside
    assert seen == {(False, False)}


def test_a_row_is_reused_only_under_the_settings_that_change_its_numbers() -> None:
    def settings(config: SharpnessConfig) -> list[dict[str, object]]:
        return [Notion("ascent").settings(config), Notion("gap", gap.PLAIN).settings(config)]

    base = SharpnessConfig.of()
    assert settings(SharpnessConfig.of(batch_size=7)) == settings(SharpnessConfig.of(notions=["all"])) == settings(base)
    for config in (SharpnessConfig.of(rho=[0.1]), SharpnessConfig.of(m=64), SharpnessConfig.of(batchnorm=["eval"])):
        ascent, plain = settings(config)
        assert ascent != settings(base)[0]
        assert plain == settings(base)[1]


# ------------------------------------------------------------------------------------------- every BatchNorm mode, and validation


class Poisoned:
    """A set that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"somebody looked at the test set: {name}")


def changed(config: SharpnessConfig, **keys: Any) -> SharpnessConfig:
    return SharpnessConfig.of(**to_dict(config) | keys)


ALL_MODES = SharpnessConfig.of(notions=["gap"], m=8, batch_size=10, batchnorm=["eval", "train", "recalibrated"])
TUNING = changed(ALL_MODES, gap=GapConfig(splits=["val"]))


def validated(config: SharpnessConfig, **options: Any) -> Context:
    """The context of `image_data` with 11 of its test images as the validation set."""
    context = context_of(network(), image_data(), config, **options)
    assert context.val is None and context.test is not None
    return dataclasses.replace(context, val=Split(context.test.inputs[:11], (context.test.labels[:11] + 1) % 4))


def by_hand(mode: str, split: str) -> tuple[float, float]:
    """(loss, accuracy in percent) in float64; the statistics of mode `recalibrated` are the averages over the training batches of 8."""
    net, train, labels, test, test_labels = oracle()
    inputs, targets = {"train": (train, labels), "test": (test, test_labels), "val": (test[:11], (test_labels[:11] + 1) % 4)}[split]
    pieces, weight, bias = [], net[1].weight.view(1, 3, 1, 1), net[1].bias.view(1, 3, 1, 1)
    statistics = [(x.mean((0, 2, 3)), x.var((0, 2, 3), correction=1), len(x) / 26) for x in map(net[0], train.split(8))]
    average = sum(m * share for m, _, share in statistics), sum(v * share for _, v, share in statistics)
    for x in net[0](inputs).split(8 if mode == "train" else 100):
        fixed = {"eval": (net[1].running_mean, net[1].running_var), "recalibrated": average}
        mean, variance = fixed.get(mode) or (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
        x = (x - mean.view(1, 3, 1, 1)) / (variance.view(1, 3, 1, 1) + 1e-5).sqrt() * weight + bias
        pieces.append(net[5](x.relu().flatten(1)))
    logits = torch.cat(pieces)
    right = (logits.argmax(1) == targets).double().mean().item()
    return functional.cross_entropy(logits, targets).item(), 100 * right


def test_every_mode_on_every_set() -> None:
    values = measure_context(validated(ALL_MODES)).values
    for mode in ALL_MODES.batchnorm:
        for split in ("train", "test", "val"):
            suffix = "" if mode == "eval" else f"[bn={mode}]"
            found = values.pop(f"{split}_loss{suffix}"), values.pop(f"{split}_accuracy{suffix}")
            assert found == pytest.approx(by_hand(mode, split), rel=2e-6), (mode, split)
    assert set(values) == {"test_loss_channel", "ece", "gap", "error_gap", "weight_norm"}
    modes = {by_hand(mode, "test")[0] for mode in ALL_MODES.batchnorm}
    assert max(modes) - min(modes) > 0.01 and len(modes) == 3  # the modes do differ here


def test_tuning_on_the_validation_set_never_looks_at_the_test_set() -> None:
    context = dataclasses.replace(validated(TUNING), test=Poisoned())  # type: ignore[arg-type]
    values = measure_context(context).values
    assert values == {name: value for name, value in measure_context(validated(ALL_MODES)).values.items() if name in values}
    names = {f"{split}_{kind}" for split in ("train", "val") for kind in ("loss", "accuracy")}
    assert set(values) == {"weight_norm", *(name + at for name in names for at in ("", "[bn=train]", "[bn=recalibrated]"))}
    with pytest.raises(AssertionError, match="looked at the test set"):
        measure_context(dataclasses.replace(context, config=ALL_MODES))


def test_without_a_validation_set_it_has_no_row() -> None:
    rows = Notion("gap").rows(TUNING, ["test"])
    assert [row.part for row in rows] == [("eval", "train"), ("train", "train"), ("recalibrated", "train")]
    assert [str(row) for row in rows][-1] == "gap[bn=recalibrated,split=train]"
    with pytest.raises(ConfigError, match=r"sharpness\.gap\.splits=train: must be one of test, val"):
        GapConfig(splits=["train"])


@pytest.mark.parametrize("notions", [["gap"], ["ascent", "gap"]])
@pytest.mark.parametrize("config", [ALL_MODES, TUNING], ids=["all", "tuning"])
def test_the_rows_and_their_work(config: SharpnessConfig, notions: list[str], tmp_path: Path) -> None:
    """Each row is known by what can change it, is stored as soon as it is known, and all of them cost what was foretold."""
    config, done, sizes = dataclasses.replace(config, notions=notions), list[float](), Sizes(26, 15, val=11)
    context, path = validated(config, progress=done.append), tmp_path / "sharpness.json"
    keys = storing.keys("checkpoint", "data", config, context.splits, "cross_entropy")
    found = storing.measure(context, keys, path, lambda name: None)
    tests = 0 if config is not ALL_MODES and config.gap.splits == ["val"] else 15
    training = 26 * (2 * 3 * (3 + 1) if "ascent" in notions else 3)
    assert sum(done) == 3 * (11 + tests) + training + 26 == work(keys, sizes, config) == work(notions, sizes, config)
    stored = storing.stored(path)
    assert set(stored) == set(keys.values()) and storing.merge(stored.values()).values == found.values
    settings = {json.dumps(row["settings"], sort_keys=True) for row in json.loads(path.read_text())["rows"].values()}
    assert len(settings) == len(keys)
    later = [row for row in keys if row.part == ("recalibrated", "val")]  # the training set is read for its statistics alone
    assert work(later, sizes, config) == 26 + 11

    other = storing.keys(
        "checkpoint", "data", changed(config, m=9, rho=[0.1], gap=GapConfig(7, config.gap.splits)), ["test", "val"], "cross_entropy"
    )
    same = {str(row) for row in keys if keys[row] == other[row]}
    assert same == {"gap[bn=eval,split=val]"} | ({"gap[bn=eval,split=train]"} if tests == 0 else set())


# ---------------------------------------------------------------------------------------------------------- L^Asc over a subset


def test_the_images_of_a_subset_never_change() -> None:
    """The keys of stored rows hold their number alone."""
    assert subset_indices(50_000, 5).tolist() == GOLDEN and set(GOLDEN) < set(subset_indices(50_000, 512).tolist())


GOLDEN = [3685, 4648, 16542, 17819, 36241]


@pytest.mark.parametrize("modes", [["eval"], ["eval", "train", "recalibrated"]])
def test_ascent_over_a_subset_and_the_gap_over_all(modes: list[str]) -> None:
    """The same as the whole measure on a training set of these images alone; only the gap and the statistics see all of them."""
    config, done = SharpnessConfig.of(rho=[0.5], m=4, batch_size=5, batchnorm=modes, ascent=AscentConfig(9)), list[float]()
    values = measure(network(), image_data(), config, progress=done.append)
    assert sum(done) == len(modes) * (9 * 2 * 4 + 26 + 15) + 26 * ("recalibrated" in modes) == work(config.chosen, Sizes(26, 15), config)
    assert values["train_loss"] == pytest.approx(by_hand("eval", "train")[0], rel=2e-6)

    data, index = image_data(), subset_indices(26, 9)
    part = dataclasses.replace(data, train_images=data.train_images[index], train_labels=data.train_labels[index])
    alone = changed(config, notions=["ascent"], batchnorm=[mode for mode in modes if mode != "recalibrated"], ascent=AscentConfig())
    expected = measure_context(context_of(network(), part, alone)).values
    renamed = {(name[:-1] + "," if name.endswith("]") else name + "[") + "subset=9]": value for name, value in expected.items()}
    assert {name: values[name] for name in renamed} == renamed
    assert ("sharpness[rho=0.5,bn=recalibrated,batch=m,subset=9]" in values) == ("recalibrated" in modes)
    whole = {name for name in values if "subset=" not in name}
    assert whole == set(measure(network(), data, dataclasses.replace(config, notions=["gap"])))


def test_a_subset_of_all_is_the_whole_set() -> None:
    config = SharpnessConfig.of(rho=[0.5], m=8, batch_size=10)
    assert measure(network(), image_data(), changed(config, ascent=AscentConfig(26))) == measure(network(), image_data(), config)
    assert work(config.chosen, Sizes(26, 15), changed(config, ascent=AscentConfig(26))) == work(config.chosen, Sizes(26, 15), config)
    with pytest.raises(ConfigError, match=r"sharpness\.ascent\.subset=0: must be"):
        AscentConfig(0)


@pytest.mark.parametrize("found", [{"train_loss": 1.0}, {"two_a": torch.ones(())}])
def test_a_notion_of_ones_own_returns_numbers_under_its_own_name(found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    own = types.SimpleNamespace(work=lambda *_: 0.0, measure=lambda _: Result(found))
    monkeypatch.setitem(sys.modules, "elsewhere", own)  # type: ignore[arg-type]
    monkeypatch.setitem(NOTIONS, "two", Row("elsewhere"))
    context = types.SimpleNamespace(progress=lambda _: None, sizes=None, config=None)
    with pytest.raises(ConfigError, match=f"notion two: its measure {next(iter(found))} must have a name that begins so, and be a number"):
        Notion("two").measure(context)  # type: ignore[arg-type]
    own.measure = lambda _: Result({"two[rho=0.05]": 1.0, "two_b": None})
    assert Notion("two").measure(context).values["two_b"] is None  # type: ignore[arg-type]
