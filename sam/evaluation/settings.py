"""What is measured, and which tables are made of it: the keys of evaluate_sharpness.py beside those of `sharpness` and `tables`."""

import re
from dataclasses import dataclass, field
from typing import Any

from data.settings import AugmentationConfig, DatasetConfig
from models.settings import ModelConfig
from sam.config import ConfigError, Settings, check_number, key
from sam.core.settings import LOSSES
from sam.settings import TrackingConfig
from sam.sharpness.settings import SharpnessConfig
from sam.tables.settings import SweepConfig, TableConfig


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """Measure every finished run below `runs_dir` and print the tables, or measure one checkpoint of anybody's."""

    runs_dir: str = key("runs", "folder of the runs' folders")
    checkpoint: str | None = key(None, "a file of weights (state_dict or safetensors) of `model`, to be measured on `dataset`")
    checkpoint_key: str | None = key(None, "where the weights lie in the file (state_dict_ema, say); null: the first that fit")
    loss: str = key("cross_entropy", "that checkpoint was trained with, and is measured with", among=LOSSES)
    model: ModelConfig | None = key(None, "of checkpoint")
    dataset: DatasetConfig | None = key(None, "of checkpoint")
    augmentation: AugmentationConfig | None = key(None, "there for dataset=digits, which sets it; nothing is measured on augmented images")
    mean: list[float] | None = key(None, "short for dataset.mean: of the images that checkpoint was trained with", low=0, high=1)
    std: list[float] | None = key(None, "short for dataset.std", above=0)
    out: str | None = key(None, "folder for the tables (null: runs_dir/tables), or for checkpoint's rows (null: beside it)")
    sharpness: SharpnessConfig = key(SharpnessConfig.of, "what is measured, and how")
    tables: dict[str, TableConfig] = field(default_factory=dict, metadata={"about": "name -> table (conf/table)"})
    # Never null: a worker of an array could not compose the group into its place.
    sweep: SweepConfig = key(SweepConfig, "the table of a sweep (table=sweep)")
    tracking: TrackingConfig = key(TrackingConfig, "where the measures of runs go that were not tracked; a tracked run is joined")
    data_path: str | None = key(None, "in place of the runs' dataset.path")
    data_root: str | None = key(None, "in place of the runs' dataset.root")
    seeds: list[int] | None = key(None, "only runs with these; null: all")
    select: Any = key(None, "only runs with these settings, such as {optimizer.method: sam, seed: [0, 1]}; null: all")
    processes: int = key(1, "checkpoints measured at a time, each in a process of its own", low=1)
    part: int | None = key(None, "measure only the part-th (from 0) of `parts` equal shares of the runs, and make no tables")
    parts: int = key(1, "how many shares", low=1, high=10_000)
    stored: bool = key(False, "measure nothing: tables of what is stored beside the runs (unpacked ones, say), at sharpness.rho")
    kept: bool = key(False, "measure kept checkpoints (keep_checkpoints) too; what was found along the epochs goes to kept.csv")
    device: str = key("auto", "auto | cpu | cuda | cuda:N")
    threads: int | None = key(None, "of the CPU; null: torch's choice", low=1, high=4096)
    force: bool = key(False, "measure all anew; begun again, it begins at the first")

    def relate(self) -> None:
        for name in self.tables:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
                raise ConfigError(f"tables.{name}: names its files, and must hold 1 to 100 of A-Z a-z 0-9 _ - alone.")
        if not isinstance(self.select, dict | None):
            raise ConfigError(f"select={self.select}: must hold keys and values, as in: 'select={{optimizer.method: sam, seed: [0,1]}}'.")
        changed = lambda *names: [name for name in names if getattr(self, name) != getattr(type(self), name)]  # from its default
        if self.checkpoint is None:
            if given := changed("model", "dataset", "mean", "std", "checkpoint_key", "loss"):
                raise ConfigError(f"{given[0]}=...: belongs to checkpoint=FILE; runs below runs_dir bring their own.")
        else:
            one = f"checkpoint={self.checkpoint}"
            if missing := [name for name in ("model", "dataset") if getattr(self, name) is None]:
                raise ConfigError(f"{one}: needs {missing[0]}=... too, as in: model=resnet18 dataset=cifar10.")
            for_runs = ("runs_dir", "data_path", "data_root", "seeds", "select", "processes", "part", "parts", "stored", "kept")
            if given := changed(*for_runs) + ["tracking"] * (self.tracking.backend != "none"):
                raise ConfigError(f"{one}: is one file, and {given[0]}=... is for the runs below runs_dir; leave it out.")
            for name, value in (("mean", self.mean), ("std", self.std)):
                if value is not None and getattr(self.dataset, name) is not None:
                    raise ConfigError(f"{name}={value}: is short for dataset.{name}, which is given too; leave one of them out.")
        if self.stored and (other := changed("kept", "force", "part")):
            raise ConfigError(f"stored=true: measures nothing, and {other[0]}=... asks for it; leave one of them out.")
        if self.part is None and self.parts > 1:
            every = f"-m 'part=range({self.parts})'"
            raise ConfigError(f"parts={self.parts}: needs part=K too, from 0 to {self.parts - 1}; all of them: {every}.")
        if self.part is not None:
            check_number(f"parts={self.parts} part", self.part, low=0, high=self.parts - 1)
