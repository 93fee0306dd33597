"""The keys of `model`, and the table of models."""

from dataclasses import dataclass

from sam.config import ConfigError, Settings, key
from sam.registry import Registry

MODELS = Registry("model", by="name")
INITS = ("fan_out", "foret", "torch")  # `models.networks.initialise` has their definitions
SHORTCUTS = ("conv", "zero_pad")
NORMS = {"batch": "", "group": ", GroupNorm", "none": ", no norm"}  # of the WideResNet, and what its label adds


@dataclass(frozen=True)
class Sizes:
    """The image sizes (height = width) that a model takes, and why those, as a clause for an error message."""

    smallest: int = 1
    largest: int | None = None
    multiple: int = 1
    reason: str = ""


@dataclass(frozen=True)
class ModelConfig(Settings, prefix="model.", rows=MODELS):
    """What every model reads. A model's own class adds its own keys."""

    name: str = key("wide_resnet", "the network", among=MODELS)
    init: str = key("fan_out", "He-normal; foret: linear layer of U(+-1/sqrt(classes)); torch: its own", among=INITS)

    @property
    def label(self) -> str:
        """Its name in tables."""
        return MODELS[self.name].label


@dataclass(frozen=True)
class DropoutConfig(ModelConfig):
    dropout: float = key(0.0, "of the WideResNet and of VGG", low=0, high=0.99)


@dataclass(frozen=True)
class WideResNetConfig(DropoutConfig):
    depth: int = key(28, "of the WideResNet: 6n + 4")
    width: int = key(10, "of the WideResNet", low=1)
    shortcut: str = key("conv", "of the WideResNet where widths change", among=SHORTCUTS)
    norm: str = key("batch", "of the WideResNet; group: 8 channels each; none: nothing in its place", among=NORMS, late=True)

    def relate(self) -> None:
        if not 10 <= self.depth <= 10_000 or (self.depth - 4) % 6:
            raise ConfigError(f"model.depth={self.depth}: a WideResNet has depth 6n + 4: 10, 16, 22, 28, 34, 40, ..., 10000 at most.")

    @property
    def label(self) -> str:
        return f"WRN-{self.depth}-{self.width}{NORMS[self.norm]}"


@dataclass(frozen=True)
class TimmConfig(ModelConfig):
    timm_name: str | None = key(None, "of the timm model, with model=timm")

    def relate(self) -> None:
        if not self.timm_name:
            raise ConfigError("model.timm_name=null: name the timm model, for example model=timm model.timm_name=resnet18.")

    @property
    def label(self) -> str:
        return f"timm {self.timm_name}"


_HALVES = Sizes(8, multiple=8, reason="it halves the image three times")
_POOLS = Sizes(32, 32, reason="five max-pools must leave the 1x1x512 that its head takes")
_WIDE = Sizes(8, multiple=4, reason="it halves the image twice")
MODELS.add("wide_resnet", "models.networks:WideResNet", WideResNetConfig, "WideResNet", about=_WIDE)
MODELS.add("resnet18", "models.networks:ResNet18", label="ResNet-18", about=_HALVES)
MODELS.add("resnet20", "models.networks:ResNet20", label="ResNet-20")
MODELS.add("resnet32", "models.networks:ResNet32", label="ResNet-32")
MODELS.add("resnet56", "models.networks:ResNet56", label="ResNet-56")
MODELS.add("vgg11_bn", "models.networks:VGG11BN", DropoutConfig, "VGG-11-BN", about=_POOLS)
MODELS.add("densenet121", "models.networks:DenseNet121", label="DenseNet-121", about=_HALVES)
MODELS.add("timm", "models.networks:build_timm", TimmConfig, "timm")
