"""Recalibrated BatchNorm: running statistics taken anew over a set, by hand in float64, and the measures made with them."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.image_data import ImageData
from sam.sharpness import ascent
from sam.sharpness.context import Context, Sizes, context_of, measure, work
from sam.sharpness.dataset_loss import DatasetLoss, averaged, normalizers
from sam.sharpness.settings import SharpnessConfig

SIZES = [8, 8, 8, 3]  # a ragged last batch


def network(dropout: float = 0.0) -> nn.Module:
    """Two layers of BatchNorm in a row, the second with momentum=None, and a third without running statistics."""
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm1d(16, track_running_stats=False)
    first, second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3)
    net = nn.Sequential(first, norms[0], nn.Tanh(), nn.Dropout(dropout), second, norms[1], nn.Flatten(), norms[2], nn.Linear(16, 3))
    net.double()(torch.randn(50, 1, 6, 6, dtype=torch.float64))
    return net


def inputs() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(SIZES), 1, 6, 6, dtype=torch.float64, generator=generator)
    return x * torch.linspace(0.5, 3, len(x), dtype=torch.float64)[:, None, None, None] + 1  # every batch has statistics of its own


def normalized(x: Tensor, norm: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(normalised by its own batch, mean, unbiased variance) by hand, over all but the channels."""
    axes = [k for k in range(x.ndim) if k != 1]
    count = x.numel() / x.shape[1]
    mean = x.mean(axes, keepdim=True)
    variance = ((x - mean) ** 2).mean(axes, keepdim=True)
    shape = [1, -1, *[1] * (x.ndim - 2)]
    y = (x - mean) / (variance + norm.eps).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)
    return y, mean.flatten(), variance.flatten() * count / (count - 1)


def by_hand(net: nn.Module, batches: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(mean, variance) of the two tracking modules: batch statistics averaged with the batches' sizes as weights."""
    total = sum(map(len, batches))
    sums: list[list[Tensor]] = [[torch.zeros(1), torch.zeros(1)], [torch.zeros(1), torch.zeros(1)]]
    with torch.no_grad():
        for x in batches:
            y, *first = normalized(net[0](x), net[1])  # type: ignore[index]
            _, *second = normalized(net[4](torch.tanh(y)), net[5])  # type: ignore[index]
            for k, statistics in enumerate((first, second)):
                sums[k] = [s + len(x) / total * part for s, part in zip(sums[k], statistics, strict=True)]
    return [(mean, variance) for mean, variance in sums]


def recalibrated(net: nn.Module, batches: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    loss = DatasetLoss(net, torch.zeros(1), torch.zeros(1))
    with loss.measuring():
        return averaged(net, batches)


def close(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = [(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    return all(torch.allclose(a, b, rtol=1e-12, atol=1e-13) for a, b in pairs)


def test_the_statistics_are_the_averages_of_the_batches_weighted_by_size() -> None:
    batches = list(inputs().split(8))
    assert [len(b) for b in batches] == SIZES
    ours = recalibrated(network(), batches)
    assert close(ours, by_hand(network(), batches))
    equal_weights = [by_hand(network(), [b]) for b in batches]
    plain = [(sum(w[k][0] for w in equal_weights) / 4, sum(w[k][1] for w in equal_weights) / 4) for k in range(2)]
    assert not close(ours, plain)  # type: ignore[arg-type]  # the ragged batch does matter here


@pytest.mark.parametrize("size", [5, 27])
def test_other_batches_have_other_statistics_and_one_batch_its_own(size: int) -> None:
    batches = list(inputs().split(size))
    ours = recalibrated(network(), batches)
    assert close(ours, by_hand(network(), batches))
    assert not close(ours, by_hand(network(), list(inputs().split(8))))


def test_what_the_buffers_held_before_plays_no_part() -> None:
    other, batches = network(), list(inputs().split(8))
    for norm in normalizers(other):
        norm.running_mean.fill_(1e6)
        norm.running_var.fill_(float("nan"))
        norm.num_batches_tracked.fill_(77)
    assert close(recalibrated(other, batches), recalibrated(network(), batches))


def test_only_modules_with_running_statistics_are_recalibrated() -> None:
    net = network()
    assert [id(m) for m in normalizers(net)] == [id(net[1]), id(net[5])]  # type: ignore[index]
    assert normalizers(nn.Linear(2, 2)) == [] and averaged(nn.Linear(2, 2), [torch.zeros(3, 2)]) == []


def test_dropout_stays_off() -> None:
    batches = list(inputs().split(8))
    assert close(recalibrated(network(dropout=0.9).train(), batches), recalibrated(network().train(), batches))


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back_bitwise(fails: bool) -> None:
    net = network().train()
    net[1].eval()  # type: ignore[index]
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    modes, momenta = [m.training for m in net.modules()], [m.momentum for m in normalizers(net)]
    batches = [*inputs().split(8), *([torch.zeros(2, 9, 9, 9)] if fails else [])]  # a batch that the first layer refuses
    if fails:
        with pytest.raises(RuntimeError):
            recalibrated(net, batches)
    else:
        recalibrated(net, batches)
    after = net.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items()) and list(after) == list(before)
    assert [m.training for m in net.modules()] == modes
    assert [m.momentum for m in normalizers(net)] == momenta == [0.3, None]
    assert all(p.grad is None for p in net.parameters()) and torch.equal(random, torch.get_rng_state())


def test_statistics_handed_to_a_loss_are_those_it_uses_and_only_while_measuring() -> None:
    net, x = network(), inputs()
    y = torch.arange(len(x)) % 3
    statistics = recalibrated(net, list(x.split(8)))
    replaced = copy.deepcopy(net)
    for module, (mean, variance) in zip(normalizers(replaced), statistics, strict=True):
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
    before = copy.deepcopy(net.state_dict())
    ours, theirs = DatasetLoss(net, x, y, batch_size=7, statistics=statistics), DatasetLoss(replaced, x, y, batch_size=7)
    plain = DatasetLoss(net, x, y, batch_size=7)
    with ours.measuring():
        value = ours.value().loss
    with theirs.measuring():
        assert value == theirs.value().loss
    with plain.measuring():
        assert abs(plain.value().loss - value) > 1e-3
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


# ------------------------------------------------------------------------------------------------------------- in a measurement


def image_data() -> ImageData:
    generator = torch.Generator().manual_seed(5)

    def images(n: int) -> tuple[Tensor, Tensor]:
        return torch.randint(256, (n, 1, 6, 6), dtype=torch.uint8, generator=generator), torch.randint(3, (n,), generator=generator)

    (train, labels), (test, test_labels) = images(27), images(7)
    empty = torch.zeros(0, 1, 6, 6, dtype=torch.uint8)
    return ImageData(
        train, labels, empty, empty[:, 0, 0, 0].long(), test, test_labels, torch.tensor([0.5]), torch.tensor([0.3]), 3, "", (), 0.0
    )  # fmt: skip


CONFIG = SharpnessConfig.of(notions=["ascent"], rho=[0.05, 0.5], m=8, batchnorm=["eval", "recalibrated"], batch_size=10)


def with_buffers_by_hand() -> nn.Module:
    """The float32 network with its buffers replaced by the averages over the training images in batches of m = 8, in float64."""
    net, data = network().float(), image_data()
    images = data.normalize(data.train_images).double()
    for norm, (mean, variance) in zip(normalizers(net), by_hand(network(), list(images.split(8))), strict=True):
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
    return net


def test_the_recalibrated_measure_is_the_eval_measure_of_a_model_with_those_buffers() -> None:
    ours = measure(context_of(network().float(), image_data(), CONFIG)).values
    eval_only = SharpnessConfig.of(notions=["ascent"], rho=[0.05, 0.5], m=8, batchnorm=["eval"], batch_size=10)
    theirs = measure(context_of(with_buffers_by_hand(), image_data(), eval_only)).values
    checked = 0
    for name, value in theirs.items():
        kind = name.partition("[")[0]
        if "bn=eval" in name:
            name = name.replace("bn=eval", "bn=recalibrated")
        elif kind in ("train_loss", "train_accuracy", "grad_norm"):
            name = f"{kind}[bn=recalibrated]"
        else:
            continue
        assert ours[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name
        checked += 1
    assert checked == 3 + 2 * 5
    for batch in ("all", "m"):
        gap = ours[f"sharpness[rho=0.5,bn=recalibrated,batch={batch}]"] - ours[f"sharpness[rho=0.5,bn=eval,batch={batch}]"]  # type: ignore[operator]
        assert abs(gap) > 1e-3


def test_the_statistics_are_taken_once_at_w_and_reused_by_every_loss() -> None:
    done: list[float] = []
    task = context_of(network().float(), image_data(), CONFIG, progress=done.append)
    first = task.loss(batchnorm="recalibrated").statistics
    assert done == [27] and task.loss("test", batchnorm="recalibrated", subset=5).statistics is first
    assert task.loss().statistics is None and task.loss(batchnorm="train").statistics is None
    assert done == [27]


def test_the_radius_moves_the_weights_and_not_the_statistics() -> None:
    net, data = network().float(), image_data()
    seen: list[Tensor] = []
    net[1].register_forward_pre_hook(lambda module, _: seen.append(module.running_var.clone()))  # type: ignore[index]
    task = context_of(net, data, CONFIG)
    loss = task.loss(batchnorm="recalibrated")
    seen.clear()
    ascent.full(loss, [0.5, 2.0])
    assert len(seen) == 9 and all(torch.equal(seen[0], other) for other in seen)


@pytest.mark.parametrize("modes", [["eval", "recalibrated"], ["eval", "train", "recalibrated"]])
def test_work_is_what_is_reported_and_twice_is_the_same(modes: list[str]) -> None:
    config = SharpnessConfig.of(notions=["ascent"], rho=[0.05], m=8, batchnorm=modes, batch_size=10)
    net, done = network().float(), []
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    first = measure(context_of(net, image_data(), config, progress=done.append))
    assert sum(done) == 27 * (2 * len(modes) * 4 + 1) == work(["ascent"], Sizes(27, 7), config)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert measure(context_of(net, image_data(), config)) == first


def test_a_network_without_running_statistics_is_measured_as_in_eval_mode() -> None:
    net, data = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), image_data()
    values = measure(Context(net, *(context_of(net, data, CONFIG).train, None), CONFIG, prepare=data.normalize)).values
    assert values["sharpness[rho=0.5,bn=recalibrated,batch=all]"] == values["sharpness[rho=0.5,bn=eval,batch=all]"]
