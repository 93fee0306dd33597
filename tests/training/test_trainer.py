"""The loop: against loops by hand, the same twice, and paired across methods."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import data
from data.augment import Augment
from models.settings import ModelConfig
from sam.config import ConfigError
from sam.core import seeds
from sam.core.replicas import ReplicaError, Replicas
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.training.loop import Trainer

Tiny = Callable[..., TrainConfig]
Make = Callable[[TrainConfig], Trainer]
TIMES = ("train_seconds", "seconds")


def train(trainer: Trainer, epochs: int = 2) -> list[dict[str, Any]]:
    rows = [trainer.run_epoch(lambda units: None) for _ in range(epochs)]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --------------------------------------------------------------------------------------------------------- loops by hand


@pytest.mark.parametrize("m", [None, 16])  # 16: groups of 16 + 16 + 8, the same, 16
@pytest.mark.parametrize("rho", [0.0, 0.1])
@pytest.mark.parametrize("mode", ["loss", "optimizer"])
def test_two_epochs_equal_a_loop_by_hand(tiny: Tiny, trainer: Make, mode: str, rho: float, m: int | None) -> None:
    """SGD (rho 0) and SAM with torch's own SGD, ragged batches and groups, weight decay in the loss or in the optimizer; float64."""
    options = {"method": "sam" if rho else "sgd", "rho": rho, "weight_decay": 0.01, "weight_decay_mode": mode}
    ours = trainer(tiny(optimizer=options, batch_size=40, m=m))
    ours.model.double().register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    model, data = copy.deepcopy(ours.model).train(), ours.data
    parameters = list(model.parameters())
    base = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01 if mode == "optimizer" else 0.0)
    step, met = 0, []

    def gradient(x: Tensor, y: Tensor) -> tuple[float, list[Tensor]]:
        loss = functional.cross_entropy(model(x), y)
        decay = 0.01 / 2 * sum((p**2).sum() for p in parameters) if mode == "loss" else 0.0
        return loss.item(), list(torch.autograd.grad(loss + decay, parameters))

    def sam_gradient(x: Tensor, y: Tensor) -> tuple[float, list[Tensor]]:
        loss, g = gradient(x, y)
        running = {name: buffer.clone() for name, buffer in model.named_buffers()}
        start = [p.detach().clone() for p in parameters]
        length = torch.cat([t.flatten() for t in g]).norm().item()
        with torch.no_grad():
            for p, t in zip(parameters, g, strict=True):
                p.add_(t, alpha=rho / length)
        _, g = gradient(x, y)
        with torch.no_grad():
            for p, w in zip(parameters, start, strict=True):
                p.copy_(w)
            for name, buffer in model.named_buffers():
                buffer.copy_(running[name])
        return loss, g

    for epoch in range(2):
        seen = 0.0
        order = torch.randperm(96, generator=seeds.generator("cpu", 0, "order", epoch))
        for batch in order.split(40):
            base.zero_grad(set_to_none=False)
            for group in batch.split(m or 40):
                x, y = data.normalize(data.train_images[group]), data.train_labels[group]
                loss, g = sam_gradient(x, y) if rho else gradient(x, y)
                seen += loss * len(group) / 96
                for p, t in zip(parameters, g, strict=True):
                    share = t * len(group) / len(batch)
                    p.grad = share if p.grad is None else p.grad + share
            base.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * step / 6)) / 2
            base.step()
            step += 1
        met.append(seen)
    rows = train(ours)
    assert [row["train_loss"] for row in rows] == pytest.approx(met, rel=1e-8)
    expected = model.state_dict()
    for name, value in ours.model.state_dict().items():
        assert torch.allclose(value, expected[name], rtol=1e-6, atol=1e-8), name


def test_a_row_evaluates_the_clean_test_set_in_eval_mode(tiny: Tiny, trainer: Make) -> None:
    made = trainer(tiny(dataset={"label_noise": 0.3, "val_fraction": 0.25}, model={"dropout": 0.4}))
    (row,) = train(made, 1)
    oracle, data = copy.deepcopy(made.model).double().eval(), made.data
    for split, n in (("test", 797), ("val", 24)):
        images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
        assert len(labels) == n
        logits = oracle((images.double() / 255 - data.mean.double()[:, None, None]) / data.std.double()[:, None, None])
        assert row[f"{split}_loss"] == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
        assert row[f"{split}_accuracy"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert made.model.training  # as it was; and BatchNorm saw the 2 training batches only
    assert int(next(b for name, b in made.model.named_buffers() if "tracked" in name)) == made.steps_per_epoch == 2


# ------------------------------------------------------------------------------------------------- the same twice, and pairing


@pytest.mark.contract
def test_the_same_seed_is_bitwise_the_same(tiny: Tiny, trainer: Make, method: dict[str, Any]) -> None:
    results = []
    for noise in (1, 2):  # whatever torch's own generator holds
        torch.manual_seed(noise)
        made = trainer(tiny(optimizer=method, model={"dropout": 0.3}))
        results.append((train(made), weights(made)))
    (rows, first), (others, second) = results
    assert repr(rows) == repr(others)
    assert equal(first, second)


def test_another_seed_is_another_run(tiny: Tiny, trainer: Make) -> None:
    starts, orders = [], []
    for seed in (0, 1):
        made = trainer(tiny(seed=seed))
        starts.append(weights(made))
        orders.append(images_met(made))
    assert not equal(*starts)
    assert not torch.equal(orders[0][0], orders[1][0])


def images_met(made: Trainer) -> list[Tensor]:
    """The images of each step's first pass (later passes of a step see the same ones)."""
    met: list[Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        if module.training and not (met and torch.equal(met[-1], inputs[0])):
            met.append(inputs[0].clone())

    handle = made.model.register_forward_pre_hook(note)
    train(made)
    handle.remove()
    return met


@pytest.mark.contract
def test_methods_are_paired_by_seed(tiny: Tiny, trainer: Make, method: dict[str, Any], arrays: str) -> None:
    """All methods start from the same weights and meet the same images, equally augmented, in the same order."""
    options: dict[str, Any] = {
        "dataset": {"name": "arrays", "path": arrays, "train_size": None},
        "augmentation": {"crop_padding": 4, "flip": True, "cutout": 4},
        "model": {"dropout": 0.2},
        "batch_size": 40,
    }
    reference, ours = trainer(tiny(optimizer={"method": "sgd"}, **options)), trainer(tiny(optimizer=method, **options))
    assert equal(weights(reference), weights(ours))
    expected, met = images_met(reference), images_met(ours)
    assert len(met) == len(expected) == 6
    assert [len(batch) for batch in met] == [40, 40, 10] * 2
    assert all(torch.equal(a, b) for a, b in zip(expected, met, strict=True))
    assert not torch.equal(met[0], met[3])  # epochs differ
    if method["method"] != "sgd":
        assert not equal(weights(reference), weights(ours))


def test_dropout_draws_are_paired_too(tiny: Tiny, trainer: Make) -> None:
    """Where torch's generator stands when a step begins: the same for all methods, another in each epoch and for each seed."""

    def states(seed: int, method: str) -> list[bytes]:
        made, seen = trainer(tiny(seed=seed, optimizer={"method": method}, model={"dropout": 0.3})), []
        advance = made.objective.closure

        def closure(images: Tensor, labels: Tensor) -> Any:
            seen.append(torch.get_rng_state().numpy().tobytes())
            return advance(images, labels)

        made.objective.closure = closure  # type: ignore[method-assign]
        train(made)
        return seen

    reference = states(0, "sgd")
    assert len(set(reference)) == 6  # each step of each epoch draws anew
    assert states(0, "xsam") == states(0, "rand_sam") == reference
    assert not set(states(1, "sgd")) & set(reference)


def test_rand_sam_draws_from_its_own_stream(tiny: Tiny, trainer: Make) -> None:
    """Other draws give other weights, and the same images."""
    first, second = (trainer(tiny(optimizer={"method": "rand_sam"})) for _ in range(2))
    second.optimizer.generators[0].manual_seed(99)  # type: ignore[attr-defined]
    a, b = images_met(first), images_met(second)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not equal(weights(first), weights(second))


# ------------------------------------------------------------------------------------------------------------- variants


def test_m_sharpness_of_whole_batches_is_plain_sam(tiny: Tiny, trainer: Make) -> None:
    plain, whole, small = (trainer(tiny(m=m)) for m in (None, 40, 16))
    rows, whole_rows, small_rows = train(plain), train(whole), train(small)
    assert repr(rows) == repr(whole_rows) and equal(weights(plain), weights(whole))
    assert small_rows[-1]["train_loss"] != rows[-1]["train_loss"]
    assert (small_rows[-1]["forwards"], small_rows[-1]["backwards"]) == (12, 12)  # counted over whole batches: 2 x 3 steps x 2 epochs
    tracked = next(b for name, b in small.model.named_buffers() if "tracked" in name)
    assert int(tracked) == 2 * (3 + 3 + 1)  # statistics move once a group: 16 + 16 + 8, the same, 16


def test_bf16_keeps_fp32_weights_and_a_close_loss(tiny: Tiny, trainer: Make) -> None:
    plain, low = trainer(tiny()), trainer(tiny(precision="bf16"))
    rows, low_rows = train(plain), train(low)
    assert {p.dtype for p in low.model.parameters()} == {torch.float32}
    assert low_rows[0]["train_loss"] == pytest.approx(rows[0]["train_loss"], rel=0.02)
    assert low_rows[0]["train_loss"] != rows[0]["train_loss"]


def test_label_noise_reaches_the_training_labels_alone(tiny: Tiny, trainer: Make) -> None:
    clean, noisy = (trainer(tiny(dataset={"label_noise": share})) for share in (0.0, 0.25))
    wrong = noisy.data.train_labels != clean.data.train_labels
    assert int(wrong.sum()) == 24
    assert torch.equal(noisy.data.test_labels, clean.data.test_labels)
    assert all(torch.equal(a, b) for a, b in zip(images_met(clean), images_met(noisy), strict=True))
    assert clean.rows[0]["train_loss"] != noisy.rows[0]["train_loss"]


@pytest.mark.parametrize("sizes", [{"batch_size": 95}, {"batch_size": 48, "m": 47}, {"batch_size": 48, "micro_batch": 47}])
def test_one_image_by_itself_is_refused_before_it_is_trained_on(tiny: Tiny, trainer: Make, sizes: dict[str, int]) -> None:
    """Of 8 x 8 pixels ResNet-18 leaves one at its end, of which BatchNorm has no variance; WRN-10-1 leaves four."""
    with pytest.raises(ConfigError, match="leave one image by itself, which BatchNorm cannot normalise here"):
        trainer(replace(tiny(**sizes), model=ModelConfig.of(name="resnet18")))
    trainer(tiny(**sizes))


def test_the_check_for_one_image_copies_no_module_and_moves_no_statistics(tiny: Tiny, trainer: Make, monkeypatch: Any) -> None:
    """A network that holds a lock, an open file or a computed tensor (weight_norm) cannot be copied."""
    monkeypatch.setattr(torch.nn.Module, "__deepcopy__", lambda *_: pytest.fail("copied"), raising=False)
    fresh = trainer(tiny(batch_size=95)).model.state_dict()
    assert all(int(value) == 0 for name, value in fresh.items() if name.endswith("num_batches_tracked"))
    assert all(value.eq(0).all() for name, value in fresh.items() if name.endswith("running_mean"))


def test_a_replicas_share_of_one_image_is_refused_too(tiny: Tiny) -> None:
    """Of 96 images in batches of 31 three are left: two for one of two replicas, one for the other."""
    config = replace(tiny(batch_size=31), model=ModelConfig.of(name="resnet18"))
    images = data.load(**to_dict(config.dataset))
    with pytest.raises(ConfigError, match="leave one image by itself"):
        Trainer(config, images, torch.device("cpu"), Replicas(0, 2))
    Trainer(replace(config, drop_last=True), images, torch.device("cpu"), Replicas(0, 2))


def test_drop_last_leaves_out_the_rest(tiny: Tiny, trainer: Make) -> None:
    made = trainer(tiny(drop_last=True))
    assert [len(batch) for batch in images_met(made)] == [40, 40] * 2


def test_label_smoothing_trains_but_is_not_recorded(tiny: Tiny, trainer: Make) -> None:
    """On the first batch both see the same weights, so the first epoch of one step records the same loss; then they part."""
    plain, smooth = (trainer(tiny(batch_size=96, label_smoothing=s)) for s in (0.0, 0.2))
    a, b = train(plain), train(smooth)
    assert a[0]["train_loss"] == pytest.approx(b[0]["train_loss"], rel=1e-6)
    assert a[1]["train_loss"] != pytest.approx(b[1]["train_loss"], rel=1e-3)


def test_the_time_of_an_epoch_holds_the_wait_for_its_last_steps(tiny: Tiny, trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is still at work when the last step has been asked of it; reading the epoch's sums waits for it."""
    ours = trainer(tiny())
    read = ours.objective.totals

    def slow() -> dict[str, float]:
        time.sleep(0.5)
        return read()

    monkeypatch.setattr(ours.objective, "totals", slow)
    row = ours.run_epoch(lambda units: None)
    assert row["train_seconds"] > 0.5 and row["seconds"] > row["train_seconds"]


def test_a_rows_statistics_are_means_over_its_steps(tiny: Tiny, trainer: Make) -> None:
    """Of the costlier ones, over every tenth step."""
    made, seen = trainer(tiny(optimizer={"ascent_steps": 3}, batch_size=8)), []
    row = made.run_epoch(lambda units: None, lambda: seen.append(dict(made.optimizer.stats)))
    for name, of in (("grad_norm", seen), ("cos_g_eps", seen[::10])):
        assert row[name] == pytest.approx(sum(stats[name].item() for stats in of) / len(of), rel=1e-5)


def test_images_are_augmented_by_the_draws_of_seed_and_epoch(tiny: Tiny, trainer: Make, arrays: str) -> None:
    changes = {"crop_padding": 4, "flip": True, "cutout": 4}
    options: dict[str, Any] = {"dataset": {"name": "arrays", "path": arrays, "train_size": None}, "augmentation": changes, "seed": 3}
    made, by_hand, expected = trainer(tiny(optimizer={"method": "sgd"}, **options)), Augment(**changes), []
    for epoch in range(2):
        order, draws = (seeds.generator("cpu", 3, stream, epoch) for stream in ("order", "augment"))
        for chosen in torch.randperm(90, generator=order).split(40):
            expected.append(by_hand(made.data.train_images[chosen], draws, made.data.mean, made.data.std))
    assert all(torch.equal(a, b) for a, b in zip(images_met(made), expected, strict=True))


def test_a_methods_draws_come_from_the_seeds_own_stream(tiny: Tiny, trainer: Make) -> None:
    for seed in (0, 3):
        (stream,) = trainer(tiny(seed=seed, optimizer={"method": "rand_sam"})).optimizer.generators
        assert torch.equal(stream.get_state(), seeds.generator("cpu", seed, "method").get_state())


def test_a_continued_run_counts_the_seconds_of_every_session(tiny: Tiny, trainer: Make) -> None:
    def leave() -> None:
        raise StopIteration

    first, second = trainer(tiny()), trainer(tiny())
    first.run_epoch(lambda units: None)
    with pytest.raises(StopIteration):
        first.run_epoch(lambda units: None, leave)
    state = first.state_dict()
    state["seconds"] += 1000
    state["epoch"]["seconds"] += 100
    second.load_state_dict(state)
    row = second.run_epoch(lambda units: None)
    assert 100 < row["train_seconds"] < 1000 and row["seconds"] > 1100


def test_replicas_whose_weights_came_apart_are_an_error(tiny: Tiny, trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made, said = trainer(tiny()), list[Any]()
    made.replicas = Replicas(0, 2)
    monkeypatch.setattr(made.replicas, "gather", lambda own: (said.append(own), [own, said[0]])[1])
    made._assert_equal_weights()
    with torch.no_grad():
        made.optimizer.parameters[0].view(-1)[0] += 1e-3
    with pytest.raises(ReplicaError, match="no longer hold the same weights"):
        made._assert_equal_weights()
