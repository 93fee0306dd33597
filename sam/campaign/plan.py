"""Which runs a campaign holds, in which order, and their configurations, composed from the documents in conf/ without Hydra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sam.config import METHODS, ConfigError, OptimizerConfig, TrainConfig, from_dict

CONF = Path(__file__).resolve().parents[2] / "conf"
TABLE3 = ("sgd", "rand_sam", "sam", "xsam")
TABLE2 = ("sam_n2", "sam_n3", "sam_n5")  # its N = 1 is Table 3's SAM
AUGMENTATION = "basic"
MEASURED = ("ascent", "gap", "average", "hessian")


@dataclass(frozen=True)
class Planned:
    """One run of a campaign: a file of conf/optimizer, a data set and a seed; everything else is the campaign's."""

    dataset: str
    optimizer: str
    seed: int

    @property
    def label(self) -> str:
        return f"{self.dataset}/{self.optimizer}/s{self.seed}"

    @property
    def table(self) -> str:
        return "Table 3" if self.optimizer in TABLE3 else "Table 2"


def runs(datasets: Sequence[str], seeds: int) -> list[Planned]:
    """Table 3, then Table 2, of the first data set; the same of the next one; then all of it with the next seed."""
    return [Planned(name, optimizer, seed) for seed in range(seeds) for name in datasets for optimizer in (*TABLE3, *TABLE2)]


@cache
def document(group: str, name: str) -> dict[str, Any]:
    """One file of conf/ that stands for itself. ConfigError if it is not there, or needs Hydra to be put together. Not to be changed."""
    import yaml

    path = CONF / group / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ConfigError(f"{group}={name}: must be one of {known}.")
    values = yaml.safe_load(path.read_text())
    if "defaults" in values:
        raise ConfigError(f"{group}={name}: is put together from other files, which needs Hydra; a campaign takes only files without that.")
    return dict(values)


def compose(planned: Planned, model: str, protocol: str, dataset: Mapping[str, Any], **keys: Any) -> TrainConfig:
    """What `train.py optimizer=.. model=.. protocol=.. dataset=..` composes, with `keys` of the run on top. Raises ConfigError.

    dataset: the fields of `dataset` beside its name (path, root). Nothing is ever downloaded.
    """
    values: dict[str, Any] = {
        "augmentation": document("augmentation", AUGMENTATION),
        "optimizer": document("optimizer", planned.optimizer),
        "model": document("model", model),
        "dataset": {"name": planned.dataset, "download": False, **dataset},
    }
    for layer in (document("protocol", protocol), {key: value for key, value in keys.items() if value is not None}):
        values = _over(values, layer)
    return from_dict(TrainConfig, values | {"seed": planned.seed})


def _over(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """`layer` over `base`, dictionaries key by key."""
    merged = dict(base)
    for key, value in layer.items():
        merged[key] = _over(base[key], value) if isinstance(value, Mapping) and isinstance(base.get(key), Mapping) else value
    return merged


def measures(subset: int, rho: float) -> dict[str, Any]:
    """How every run of a campaign is measured, as what differs from the defaults of `sharpness`: L^Asc and the gap over the full set,
    L^Avg and the largest eigenvalue on a subset.

    The number of draws and of Hessian-vector products is small, because all of it is in float32; standard error and residual stand beside.
    """
    return {
        "notions": list(MEASURED),
        "rho": [rho],
        "batchnorm": ["eval"],
        "average": {"subset": subset, "draws": 4},
        "hessian": {"subset": subset, "eigenvalues": 1, "steps": 8, "tolerance": 0.01, "probes": 3},
    }


def method_label(optimizer: OptimizerConfig) -> str:
    """SGD, Rand-SAM, SAM, SAM (N = 3), XSAM."""
    name = METHODS[optimizer.method].label
    return f"{name} (N = {optimizer.ascent_steps})" if optimizer.ascent_steps > 1 else name
