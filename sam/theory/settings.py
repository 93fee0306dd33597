"""The keys of the experiments in conf/theory, which `scripts/theory.py` runs."""

from dataclasses import dataclass, field

from sam.config import ConfigError, Settings, key
from sam.optimizers.settings import METHODS

ASCENT = "ascent"  # gradient descent on L^Asc itself; the other methods are those of `optimizer.method`


@dataclass(frozen=True)
class ArmConfig(Settings, prefix="arm."):
    """A method, and how it walks: with plain SGD steps, without momentum, decay or schedule."""

    method: str = key("sgd", "a method of train.py, or ascent: gradient descent on L^Asc", among=(*METHODS, ASCENT))
    batch: int | None = key(None, "samples a step, drawn anew; null: all", low=1)
    lr: float = key(0.05, "learning rate", above=0)
    rho: float = key(0.0, "radius", low=0)
    steps: int = key(1000, "steps", low=1)


@dataclass(frozen=True)
class TheoryConfig(Settings):
    """Keys of both experiments; the toys have no others."""

    arms: dict[str, ArmConfig] = field(default_factory=dict)
    records: int = key(50, "points of a trajectory that are measured, beside the start", low=2)
    part: float = key(1.0, "of every arm's steps: a short edition", above=0, high=1)

    def relate(self) -> None:
        if not self.arms:
            raise ConfigError("arms={}: must hold at least one arm.")

    def steps(self, arm: str) -> int:
        return max(self.records, round(self.part * self.arms[arm].steps))


@dataclass(frozen=True)
class NetworkConfig(TheoryConfig):
    """Regression of ±1 by a network with one hidden layer of tanh."""

    starts: int = key(6, "starting points: each has its own inputs, targets and initial weights", low=2)
    samples: int = key(16, "training samples", low=2, high=64)
    hidden: int = key(32, "hidden units", low=1)
    inputs: str = key(
        "digits", "centred digits of norm 1, odd or even; gaussian: noise of 64 dimensions, random signs", among=("digits", "gaussian")
    )
    kick: float = key(0.01, "norm of the random step off the interpolating point: at it every gradient is zero", above=0)
