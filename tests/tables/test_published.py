"""Published values: transcribed as the papers print them, and shown only beside runs that they are about."""

import re
from dataclasses import replace

import pytest

from data.settings import AugmentationConfig, DatasetConfig
from models.settings import ModelConfig
from sam.config import ConfigError
from sam.optimizers.settings import OptimizerConfig
from sam.settings import ProtocolConfig, TrainConfig
from sam.tables import published
from sam.tables.published import citations, lookup, matches

BASIC = AugmentationConfig(crop_padding=4, flip=True)
WRN = TrainConfig(augmentation=BASIC)  # the schema's defaults: WRN-28-10, CIFAR-10, 200 epochs, SAM at rho 0.05


def shown(config: TrainConfig) -> set[str]:
    return {p.id for p in lookup(list(published._load())) if matches(p, config)}


# Typed again from Tables 2 and 3 of arXiv 2411.01714: value, ±.
TIWARY = {
    **{"s01": ("97.3", "<0.1"), "s02": ("97.3", "<0.1"), "s03": ("97.3", "<0.1"), "s04": ("97.4", "<0.1")},
    **{"s05": ("4.8", "2.7"), "s06": ("9.6", "3.4"), "s07": ("8.1", "3.0"), "s08": ("9.2", "3.4")},
    **{"s09": ("47.3", "1.1"), "s10": ("46.5", "<1"), "s11": ("47.7", "1.4"), "s12": ("46.4", "1.2")},
    **{"s13": ("96.9", "<0.1"), "s14": ("82.3", "0.1"), "s15": ("96.5", "0.1"), "s16": ("97.3", "0.1")},
    **{"s17": ("81.2", "0.2"), "s18": ("83.5", "0.2")},
}


def test_values_are_those_of_the_paper() -> None:
    assert {p.id: (p.value, p.unc) for p in lookup(list(TIWARY))} == TIWARY


def test_text() -> None:
    texts = [" ".join(p.parts) for p in lookup(["s01", "s15", "f02", "f16", "w01", "i02", "u03"])]
    assert texts == [
        "97.3 ± <0.1 (std, n unstated; s01)",
        "96.5 ± 0.1 (95% CI, n = 5; s15)",
        "2.7 ± 0.1 err (95% CI, n = 5; f02)",
        "14.9 ± 0.2 err (95% CI, n = 5; f16)",
        "4.00 err (median, n = 5; w01)",
        "2.96 err (n = 1?; i02)",
        "96.41 (n unstated; u03, secondary source)",
    ]


def test_every_row_can_be_printed() -> None:
    for p in lookup(list(published._load())):
        assert p.value in p.parts[0] and p.id in p.parts[1]


def test_citations_carry_the_notes_once_per_source() -> None:
    lines = citations(lookup(["s01", "s02", "s05", "s17", "s18"]))
    assert len(lines) == 3
    assert lines[0].startswith("s01, s02, s05 (SAM N=1 rho.05; SAM N=2 rho.05): Tiwary2024, CIFAR-10")
    assert "copied from Foret (best of 200/400 ep)" in lines[1] and "rho 0.1" in lines[2]


def test_unknown_id_is_refused() -> None:
    with pytest.raises(ConfigError, match="s99"):
        lookup(["s99"])


def test_shown_beside_the_papers_own_setting() -> None:
    assert {"s01", "s13", "s16", "f02"} <= shown(WRN)
    assert not {"s14", "s18", "f04", "f08", "w03", "f25", "f41", "h02"} & shown(WRN)
    c100 = replace(WRN, dataset=DatasetConfig(name="cifar100"))
    assert {"s14", "s17", "s18"} <= shown(c100) and not {"s13", "s15", "s16"} & shown(c100)
    long = replace(WRN, epochs=1800)
    assert {"f08", "f07"} <= shown(long) and "f02" not in shown(long) and "s01" not in shown(long)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": DatasetConfig(name="digits")},
        {"dataset": DatasetConfig(name="arrays", path="x.npz")},
        {"dataset": DatasetConfig(label_noise=0.2)},
        {"dataset": DatasetConfig(train_size=1000)},
        {"dataset": DatasetConfig(val_fraction=0.1)},
        {"dataset": DatasetConfig(val_size=1000)},
        {"model": ModelConfig.of(depth=16, width=4)},
        {"model": ModelConfig.of(dropout=0.3)},
        {"model": ModelConfig.of(name="resnet18")},
        {"epochs": 100},
        {"init_from": "weights.pt"},
    ],
    ids=str,
)
def test_nothing_is_shown_elsewhere(change: dict[str, object]) -> None:
    assert shown(replace(WRN, **change)) == set()  # type: ignore[arg-type]


def test_digits_never_even_with_the_papers_model_and_epochs() -> None:
    for epochs in (30, 200, 1800):
        config = TrainConfig(dataset=DatasetConfig(name="digits"), epochs=epochs, augmentation=BASIC, protocol=ProtocolConfig("demo"))
        assert shown(config) == set()


def test_augmentation_counts_where_the_source_names_one() -> None:
    plain = replace(WRN, augmentation=AugmentationConfig())
    assert "s01" in shown(plain) and "s16" not in shown(plain)
    cutout = replace(WRN, augmentation=replace(BASIC, cutout=16))
    assert {"f03", "f04"} <= shown(cutout) and not {"f01", "f02", "s15", "f05"} & shown(cutout)
    for other in ({"cutout": 8}, {"cutout": 16, "cutout_probability": 0.0}, {"cutout": 16, "crop_padding": 1}):
        assert not {"f03", "f04"} & shown(replace(WRN, augmentation=replace(BASIC, **other)))
    auto = replace(WRN, augmentation=replace(BASIC, policy="autoaugment"))
    assert not {"f01", "f03", "f05", "f06", "s15"} & shown(auto)  # theirs is another policy


def test_radius_and_variant() -> None:
    def with_optimizer(**keys: object) -> set[str]:
        return shown(replace(WRN, optimizer=OptimizerConfig.of(**keys)))  # type: ignore[arg-type]

    assert not {"s01", "s16"} & with_optimizer(rho=0.1)
    assert "s02" in with_optimizer(ascent_steps=2)
    assert "s02" not in with_optimizer(ascent_steps=2, step_rule="project")
    assert "s02" not in with_optimizer(ascent_steps=2, descent_gradient="mean")
    assert "s01" in with_optimizer(ascent_steps=1, step_rule="project")  # idle at one step
    assert "s13" not in with_optimizer(method="rand_sam", rho=10.0)
    assert "s15" in with_optimizer(method="sgd", rho=7.0)  # SGD has no radius
    c100 = replace(WRN, dataset=DatasetConfig(name="cifar100"))
    assert "s18" in shown(replace(c100, optimizer=OptimizerConfig.of(rho=0.1))) and "s18" in shown(c100)
    assert "s18" not in shown(replace(c100, optimizer=OptimizerConfig.of(rho=0.2)))


def test_ids_are_unique() -> None:
    text = published.CSV.read_text(encoding="utf-8")
    ids = re.findall(r"^(\w+),", text, flags=re.MULTILINE)[1:]
    assert len(ids) == len(set(ids)) == len(published._load())
