"""The digits, the splits, label noise, fingerprints and the order of the batches."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from data import DataError, describe, load
from data.image_data import NOISE_SEED, ImageData, corrupt_labels, epoch_batches
from data.sources import digits as read_digits
from data.sources import fingerprint


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load(name="digits")


def rows(images: torch.Tensor) -> list[bytes]:
    return [image.contiguous().numpy().tobytes() for image in images]


SHAPES: list[dict] = [
    {},
    {"train_size": 101, "val_fraction": 0.25, "label_noise": 0.3},
    {"val_fraction": 0.1},
    {"val_size": 10, "train_size": 91, "sample": "seed", "seed": 3},
]


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_describe_agrees_with_load(options: dict) -> None:
    told = describe(name="digits", **{key: value for key, value in options.items() if key != "seed"})
    data = load(name="digits", **options)
    n, channels, height, width = data.train_images.shape
    assert (told.train_size, told.channels, told.image_size, told.image_size) == (n, channels, height, width)
    assert (told.test_size, told.classes) == (len(data.test_images), data.classes)
    assert len(data.train_labels) == n and len(data.test_labels) == told.test_size
    assert n + len(data.val_labels) == (options.get("train_size") or 1000) + options.get("val_size", 0)
    assert len(data.val_images) == len(data.val_labels)


def test_digits_are_always_the_same(digits: ImageData) -> None:
    assert digits.fingerprint == "b17d6df724a37303"
    assert digits.train_images.dtype == torch.uint8 and digits.train_labels.dtype == torch.int64
    assert int(digits.train_images.max()) == 16 and digits.val_images.shape == (0, 1, 8, 8)
    assert torch.bincount(digits.train_labels).min() > 80  # shuffled: the classes are balanced
    assert digits.notes == () and digits.label_noise == 0


def test_statistics_are_those_of_the_training_images(digits: ImageData) -> None:
    pixels = digits.train_images.double() / 255
    assert float(digits.mean) == pytest.approx(float(pixels.mean()), rel=1e-6)
    assert float(digits.std) == pytest.approx(float(pixels.std(correction=0)), rel=1e-6)
    normal = digits.normalize(digits.train_images)
    assert normal.dtype == torch.float32 and normal.is_contiguous(memory_format=torch.channels_last)
    assert abs(float(normal.mean())) < 1e-5 and float(normal.std()) == pytest.approx(1, abs=1e-4)


def test_splits_are_fixed_and_disjoint(digits: ImageData) -> None:
    split, again = load(name="digits", val_fraction=0.2), load(name="digits", val_fraction=0.2, label_noise=0.5)
    assert torch.equal(split.train_images, again.train_images) and torch.equal(split.val_images, again.val_images)
    assert torch.equal(split.val_labels, again.val_labels)  # no noise there
    assert (len(split.train_labels), len(split.val_labels)) == (800, 200)
    assert sorted(rows(split.train_images) + rows(split.val_images)) == sorted(rows(digits.train_images))
    assert torch.equal(split.test_images, digits.test_images) and split.fingerprint == digits.fingerprint
    labelled = dict(zip(rows(digits.train_images), digits.train_labels.tolist(), strict=True))
    assert [labelled[row] for row in rows(split.val_images)] == split.val_labels.tolist()
    assert [labelled[row] for row in rows(split.train_images)] == split.train_labels.tolist()


def test_train_size_takes_nested_subsets_and_full_size_changes_nothing(digits: ImageData) -> None:
    small, large = load(name="digits", train_size=50), load(name="digits", train_size=200)
    assert set(rows(small.train_images)) < set(rows(large.train_images)) < set(rows(digits.train_images))
    assert torch.equal(small.mean, digits.mean)
    assert torch.equal(load(name="digits", train_size=1000).train_images, digits.train_images)
    assert len(set(small.train_labels.tolist())) == 10


def by_hand(order: np.ndarray, noise: np.random.RandomState, val_size: int, train_size: int, share: float) -> tuple[np.ndarray, ...]:
    """Indices held out, indices trained on, and labels trained on, of the digits, from first principles."""
    raw = read_digits("digits", "", False)
    kept = sorted(order[val_size : val_size + train_size].tolist())
    labels = raw.train_labels[kept]
    wrong = noise.permutation(train_size)[: round(share * train_size)]
    shifts = noise.randint(1, 10, size=train_size)
    for shift, i in zip(shifts, wrong, strict=False):
        labels[i] = (labels[i] + shift) % 10
    return np.sort(order[:val_size]), np.array(kept), labels


def assert_split(data: ImageData, expected: tuple[np.ndarray, ...]) -> None:
    raw, (held_out, kept, labels) = read_digits("digits", "", False), expected
    assert data.val_images.permute(0, 2, 3, 1).numpy().tobytes() == raw.train_images[held_out].tobytes()
    assert data.train_images.permute(0, 2, 3, 1).numpy().tobytes() == raw.train_images[kept].tobytes()
    assert data.val_labels.tolist() == raw.train_labels[held_out].tolist()
    assert data.train_labels.tolist() == labels.tolist()


def test_the_fixed_splits_are_those_of_the_first_version() -> None:
    order = np.random.RandomState(0).permutation(1000)
    assert_split(load(name="digits"), by_hand(order, np.random.RandomState(1), 0, 1000, 0))
    held = load(name="digits", train_size=200, val_fraction=0.25, label_noise=0.3)
    assert_split(held, by_hand(order, np.random.RandomState(1), 50, 150, 0.3))
    sized = load(name="digits", train_size=150, val_size=50, label_noise=0.3, seed=7)  # a seed that nobody asked for
    assert_split(sized, by_hand(order, np.random.RandomState(1), 50, 150, 0.3))
    assert len(load(name="digits", val_size=50).train_labels) == 950


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_a_seed_draws_its_images_and_its_wrong_labels_from_what_is_not_held_out(seed: int) -> None:
    digest = {use: hashlib.sha256(f"{seed}:{use}".encode()).hexdigest() for use in ("sample", "noise")}
    sample, noise = (np.random.RandomState([int(digest[use][i : i + 8], 16) for i in range(0, 64, 8)]) for use in ("sample", "noise"))
    order = np.random.RandomState(0).permutation(1000)
    order = np.concatenate([order[:300], sample.permutation(order[300:])])
    data = load(name="digits", val_size=300, train_size=100, label_noise=0.21, sample="seed", seed=seed)
    assert_split(data, by_hand(order, noise, 300, 100, 0.21))
    clean = load(name="digits", val_size=300, train_size=100, sample="seed", seed=seed)
    assert torch.equal(data.train_images, clean.train_images) and int((data.train_labels != clean.train_labels).sum()) == 21


def test_seeds_share_the_validation_set_and_nothing_else(digits: ImageData) -> None:
    def drawn(seed: int | None, size: int | None) -> ImageData:
        options = {"sample": "fixed"} if seed is None else {"sample": "seed", "seed": seed}
        return load(name="digits", val_size=300, train_size=size, label_noise=0.2, **options)

    sets = {(seed, size): drawn(seed, size) for seed in (None, 0, 1) for size in (100, 200, None)}
    assert len({tuple(rows(data.val_images)) for data in sets.values()}) == 1
    assert all(torch.equal(data.val_labels, sets[0, 100].val_labels) for data in sets.values())
    (held_out,) = {frozenset(rows(data.val_images)) for data in sets.values()}
    trained = {key: set(rows(data.train_images)) for key, data in sets.items()}
    assert not any(held_out & images for images in trained.values())
    assert all(trained[seed, 100] < trained[seed, 200] < trained[seed, None] for seed in (None, 0, 1))
    assert len({frozenset(trained[seed, 100]) for seed in (None, 0, 1)}) == 3
    assert 8 <= len(trained[0, 100] & trained[1, 100]) <= 24  # 100 * 100 / 700 = 14 by chance, standard deviation 3.2
    everything = [sets[seed, None] for seed in (None, 0, 1)]
    assert all(torch.equal(data.train_images, everything[0].train_images) for data in everything)  # all that is left, in the file's order
    assert not torch.equal(everything[1].train_labels, everything[2].train_labels)  # but other wrong labels
    assert {data.fingerprint for data in sets.values()} == {digits.fingerprint}


def test_a_draw_needs_a_seed() -> None:
    with pytest.raises(DataError, match=r"^dataset.sample=seed: needs the seed of a run, and there is none here; must be fixed\.$"):
        load(name="digits", sample="seed")


def test_mean_and_std_replace_the_data_sets_own_each_alone(digits: ImageData) -> None:
    both, mean, std = (load(name="digits", **options) for options in ({"mean": [0.2], "std": [0.5]}, {"mean": [0.2]}, {"std": [0.5]}))
    assert (both.mean.tolist(), both.std.tolist()) == (torch.tensor([0.2]).tolist(), [0.5]) and both.mean.dtype == torch.float32
    assert torch.equal(mean.mean, both.mean) and torch.equal(mean.std, digits.std)
    assert torch.equal(std.std, both.std) and torch.equal(std.mean, digits.mean)
    pixels = digits.test_images[:5].double() / 255
    torch.testing.assert_close(both.normalize(digits.test_images[:5]).double(), (pixels - 0.2) / 0.5, rtol=1e-6, atol=1e-6)
    assert both.fingerprint == digits.fingerprint and torch.equal(both.train_images, digits.train_images)


@pytest.mark.parametrize("noise", [0.0, 0.0016, 0.2, 0.4, 1.0])
def test_label_noise_is_exact(digits: ImageData, noise: float) -> None:
    data = load(name="digits", label_noise=noise)
    assert int((data.train_labels != digits.train_labels).sum()) == round(noise * 1000)
    assert torch.equal(data.train_images, digits.train_images) and torch.equal(data.test_labels, digits.test_labels)
    assert torch.equal(data.train_labels, load(name="digits", label_noise=noise).train_labels)
    assert data.label_noise == noise and int(data.train_labels.min()) >= 0 and int(data.train_labels.max()) < 10


def test_wrong_labels_are_uniform_over_the_other_classes_and_nested() -> None:
    labels = np.full(9000, 3)
    noisy = corrupt_labels(labels, 10, 1.0, np.random.RandomState(NOISE_SEED))
    counts = np.bincount(noisy, minlength=10)
    assert counts[3] == 0
    others = np.delete(counts, 3)
    assert ((others - 1000) ** 2 / 1000).sum() < 26.1  # 99.9% of chi-square with 8 degrees of freedom
    half = corrupt_labels(labels, 10, 0.5, np.random.RandomState(NOISE_SEED))
    assert (half != 3).sum() == 4500 and (half[half != 3] == noisy[half != 3]).all()


def test_fingerprint_sees_one_pixel_one_label_and_the_shape() -> None:
    raw = read_digits("digits", "", False)
    seen = {fingerprint(raw)}
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        changed = getattr(raw, field).copy()
        changed.flat[-1] ^= 1
        seen.add(fingerprint(dataclasses.replace(raw, **{field: changed})))
    seen.add(fingerprint(dataclasses.replace(raw, train_images=raw.train_images.reshape(1000, 4, 16, 1))))
    assert len(seen) == 6


def test_to_moves_every_tensor(digits: ImageData) -> None:
    moved = digits.to("meta")
    for field in dataclasses.fields(moved):
        value = getattr(moved, field.name)
        assert value.device.type == "meta" if isinstance(value, torch.Tensor) else value == getattr(digits, field.name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mnist"}, "dataset.name=mnist: must be one of digits, cifar10, cifar100, arrays"),
        ({"name": "digits", "path": "x.npz"}, "take no path"),
        ({"name": "arrays"}, "needs dataset.path=FILE.npz"),
        ({"name": "digits", "train_size": 1001}, "train_size=1001: must be between 1 and 1000"),
        ({"name": "cifar10", "train_size": 0}, "train_size=0: must be a finite number >= 1"),
        ({"name": "digits", "val_fraction": 1.0}, "val_fraction=1.0: must be a finite number >= 0 and <= 0.9"),
        ({"name": "digits", "val_fraction": 0.9, "train_size": 1}, "holds out all of the 1 training images"),
        ({"name": "digits", "label_noise": 1.5}, "label_noise=1.5: must be a finite number >= 0 and <= 1"),
        ({"name": "digits", "val_size": 1000}, "val_size=1000: must be between 1 and 999"),
        ({"name": "digits", "val_size": 0}, "val_size=0: must be a finite number >= 1"),
        ({"name": "digits", "val_size": 300, "train_size": 701}, "train_size=701: must be between 1 and 700, the number of"),
        ({"name": "digits", "val_size": 300, "val_fraction": 0.1}, "val_fraction=0.1 with dataset.val_size=300: must be 0"),
        ({"name": "digits", "sample": "seed", "val_fraction": 0.1}, "val_fraction=0.1 with dataset.sample=seed: must be 0"),
        ({"name": "digits", "sample": "random"}, "dataset.sample=random: must be one of fixed, seed"),
        ({"name": "digits", "mean": [0.1, 0.2]}, "dataset.mean=[0.1, 0.2]: must hold one number for each of the 1 channels"),
        ({"name": "digits", "std": [0.0]}, "dataset.std=0.0: must be a finite number > 0"),
    ],
    ids=str,
)
def test_unusable_settings(options: dict, message: str) -> None:
    for function in (describe, load):
        with pytest.raises(DataError) as caught:
            function(**options)
        assert message in str(caught.value)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (9, 3), (3, 3), (64, 64)])
def test_epoch_batches(n: int, batch_size: int, drop_last: bool) -> None:
    batches = list(epoch_batches(n, batch_size, torch.Generator().manual_seed(0), drop_last))
    assert [len(batch) for batch in batches] == [batch_size] * (n // batch_size) + (
        [n % batch_size] if n % batch_size and not drop_last else []
    )
    order = torch.cat(batches)
    assert torch.equal(order, torch.randperm(n, generator=torch.Generator().manual_seed(0))[: len(order)])


def test_epoch_batches_draw_once_per_epoch_and_refuse_an_empty_one() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.cat(list(epoch_batches(50, 8, generator, False))) for _ in range(2))
    assert not torch.equal(first, second) and sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    with pytest.raises(DataError, match=r"batch_size=8: leaves no batch of the 7 training images"):
        epoch_batches(7, 8, generator, True)
    assert len(list(epoch_batches(7, 8, generator, False))) == 1
