"""Any timm architecture, and one sentence when it is not to be had."""

import sys

import pytest
import torch

from models import ModelError, build


def build_timm(timm_name: str | None, **options) -> torch.nn.Module:
    return build("timm", **{"classes": 10, "channels": 3, "image_size": 32, "init": "torch", "timm_name": timm_name, **options})


def test_convolutional_model() -> None:
    model = build_timm("resnet18").eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_transformer_is_told_the_image_size_and_channels() -> None:
    model = build_timm("vit_tiny_patch16_224", channels=1, classes=7).eval()
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


def test_our_init_applies_to_timm_models_too() -> None:
    torch.manual_seed(0)
    convolution = build_timm("resnet18", init="fan_out").layer4[1].conv2
    assert convolution.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_unknown_name_suggests_close_ones() -> None:
    with pytest.raises(ModelError, match=r"timm_name resnet81: timm .* has no such model; did you mean .*resnet18"):
        build_timm("resnet81")
    with pytest.raises(ModelError, match="has no such model"):
        build_timm("hf-hub:timm/resnet18.a1_in1k")  # must not reach for the network


def test_no_name() -> None:
    with pytest.raises(ModelError, match="name the architecture with timm_name"):
        build_timm(None)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("timm_name", "size", "reason"),
    [
        ("xcit_nano_12_p16_224", 30, "`patch_size` should divide"),
        ("gmlp_s16_224", 8, ""),
        ("test_convnext", 8, "Kernel size can't be greater than actual input size"),
        ("vit_tiny_patch16_224", 8, "its patches are larger than the image"),
    ],
)
def test_impossible_size_is_one_error(timm_name: str, size: int, reason: str) -> None:
    with pytest.raises(ModelError, match=f"timm_name {timm_name} cannot be built for 3 x {size} x {size} images: .*{reason}"):
        build_timm(timm_name, image_size=size)


def test_timm_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # an import of it now raises ImportError
    with pytest.raises(ModelError, match="pip install timm torchvision"):
        build_timm("resnet18")
