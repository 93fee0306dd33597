"""Claims as documents: a YAML file each, typed, checked when it is read, without expressions. `sam.tables.verdicts` judges them.

docs/claims.md tells what the kinds, arms, gates and picks are, and how a document is written; `Claim` lists its keys. An arm holds keys of
the optimizer, and others of train.py by dotted names (epochs): a number or a pick ("@R"); `measure` is in place of the claim's.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from data.known import BY_FINGERPRINT
from data.settings import AugmentationConfig
from sam.config import ConfigError, Settings, check_number, key
from sam.optimizers.settings import METHODS, OptimizerConfig
from sam.schema import check_setting, from_dict, schema
from sam.settings import TrainConfig
from sam.tables.columns import check_measure
from sam.tables.conditions import RunRow, data_label, may_vary

KINDS = ("difference", "log_contrast", "no_gain", "retained_fraction", "equivalence", "tolerance", "correlation", "descriptive")
MARGINLESS = ("retained_fraction", "descriptive")
PICK = re.compile(r"@(\w+)")
Arm = Mapping[str, Any]
GATES: dict[str, tuple[str, ...]] = {  # gate -> the keys that it needs
    "training_accuracy": ("arm", "measure", "at_least"),  # in the mean, in percent
    "pick_inside_grid": ("pick",),
    "positive_control": ("treatment", "control", "above"),  # mean difference of the claim's measure
    "rising_limb": ("treatment", "control", "at_least"),
    "precision": ("is",),
    "diverged": ("at_most",),  # runs of the claim's arms
}


@dataclass(frozen=True)
class Tuned:
    """A pick by name: the value of `key` that validation picks among the runs of `match`, divided by `part`; `changed`: how the condition
    of the tuning runs differs from the claim's; `rise`: the radius at which random directions raise the loss as the picked ascent does."""

    match: Arm
    key: str = "optimizer.rho"
    part: float = 1.0
    changed: Mapping[str, Any] = field(default_factory=dict)
    rise: bool = False


_BASE = {"dataset.train_size": 4000, "epochs": 40, "dataset.label_noise": 0.0, "augmentation.flip": False, "augmentation.crop_padding": 0}
_SAM: Arm = {"method": "sam", "ascent_steps": 1, "radius": "fixed"}
PICKS = {
    **{name: Tuned(_SAM, part=part) for name, part in (("R", 1), ("R_half", 2), ("R_sqrt3", 3**0.5), ("R_third", 3), ("R_twice", 0.5))},
    "alpha": Tuned({"method": "xsam", "rho": "@R"}, "optimizer.alpha"),
    "rho_rand": Tuned({"method": "rand_sam", "radius": "fixed"}),
    "rho_rise": Tuned(_SAM, rise=True),
    "R3": Tuned(_SAM, changed={"dataset.val_size": 10_000}),
    "R_base": Tuned(_SAM, changed=_BASE),
}


def _images(run: RunRow) -> str:
    plain = replace(run.config.dataset, label_noise=0.0, train_size=None, sample="fixed")
    known = BY_FINGERPRINT.get(run.data_fingerprint)
    return known.name if known else data_label(plain, run.data_fingerprint)


def _augmentation(a: AugmentationConfig) -> str:
    crop = f"crop {a.crop_padding} ({a.padding_mode})" if a.crop_padding else ""
    more = ["flip" * a.flip, a.policy if a.policy != "none" else "", f"cutout {a.cutout}" if a.cutout else ""]
    return ", ".join(filter(None, [crop, *more])) or "none"


WHERE: dict[str, Callable[[RunRow], Any]] = {
    "model": lambda run: run.config.model.label,
    "data": _images,
    "train_size": lambda run: run.record.get("data", {}).get("train_images", run.config.dataset.train_size),
    "sample": lambda run: run.config.dataset.sample,
    "val_size": lambda run: run.config.dataset.val_size,
    "augmentation": lambda run: _augmentation(run.config.augmentation),
    "init_from": lambda run: run.started_from,
}


@dataclass(frozen=True)
class SettingConfig(Settings, prefix="setting."):
    name: str = key("", "in the ledger")
    stage: int | None = key(None, "of a plan")
    where: dict[str, Any] = field(default_factory=dict)  # of WHERE, or dotted names of train.py -> value, or list of them; {}: anywhere


@dataclass(frozen=True)
class MeasureConfig(Settings, prefix="measure."):
    name: str = key("", "as in docs/measures.md, with @R for a pick")
    unit: str = key("", "of the effect")
    transform: str = key("none", "of the values; a log_contrast needs log", among=("none", "log"))


@dataclass(frozen=True)
class ArmsConfig(Settings, prefix="arms."):
    treatment: dict[str, Any] = field(default_factory=dict)
    controls: list[dict[str, Any]] = key([])
    reference: dict[str, Any] | None = None

    @property
    def named(self) -> dict[str, Arm]:
        """Arms by where they stand in the file."""
        listed = {f"controls[{i}]": arm for i, arm in enumerate(self.controls)}
        return {"treatment": self.treatment} | listed | ({"reference": self.reference} if self.reference else {})


@dataclass(frozen=True)
class FamilyConfig(Settings, prefix="family."):
    name: str = key("", "of the tests that are corrected together")
    tests: int = key(1, "how many were planned", low=1)
    correction: str = key("holm", among=("holm",))
    level: float = key(0.05, above=0, high=0.5)


@dataclass(frozen=True)
class Claim(Settings):
    id: str = key("")
    statement: str = key("")
    stance: str = key("ours", "what the source does with the sentence", among=("states", "implies", "ours"))
    source: str = key("")
    setting: SettingConfig = key(SettingConfig)
    measure: MeasureConfig = key(MeasureConfig)
    kind: str = key("descriptive", among=KINDS)
    direction: str = key("higher", "the side on which the effect is claimed", among=("higher", "lower"))
    margin: float | None = None  # the smallest effect that matters, in the measure's unit (of logarithms: nats)
    supported_above: float = 0.5
    contradicted_below: float = 0.25
    combine: str = key("mean", among=("mean", "least_favourable"))
    arms: ArmsConfig = key(ArmsConfig)
    gates: list[dict[str, Any]] = key([])
    n: int = key(3, "how many seeds (settings of a correlation) were planned", low=2)
    seeds: list[int] = key([], "the first and the last; none: every seed", low=0)
    family: FamilyConfig | None = None  # of the confirmatory tests, if the file is in the plan's list of hashes; None: descriptive
    against: str = key("", "of a correlation: the other measure")
    given: str = key("train_loss", "and the one that is held constant")
    axes: list[str] = key([], "and the settings that are varied one at a time")
    later: bool = False  # added after the plan
    effects: list[str] = key([], "tables in place of runs (CSV files below the repository), each a setting")
    paper: dict[str, Any] = field(default_factory=dict)  # as setting.where: what a run must have to speak of the source's own setting

    def relate(self) -> None:
        for name, value in (("id", self.id), ("statement", self.statement), ("source", self.source), ("measure.name", self.measure.name)):
            if not value:
                raise ConfigError(f"{name}: is missing or empty; a claim needs it.")
        positive = self.margin is None or 0 < self.margin < float("inf")
        if (self.margin is None) != (self.kind in MARGINLESS) or not (positive or self.kind == "tolerance"):
            raise ConfigError(f"margin={self.margin}: kind={self.kind} needs {'null' if self.kind in MARGINLESS else 'a number > 0'}.")
        if self.seeds and (len(self.seeds) != 2 or self.seeds[0] > self.seeds[1]):
            raise ConfigError(f"seeds={self.seeds}: must hold the first and the last seed.")
        alone, correlation = self.kind == "tolerance", self.kind == "correlation"
        if not (self.arms.controls or alone or correlation) or (self.kind == "retained_fraction" and self.arms.reference is None):
            raise ConfigError(f"arms: kind={self.kind} needs controls{' and a reference' if self.kind == 'retained_fraction' else ''}.")
        if (self.combine != "mean" and self.kind not in ("difference", "log_contrast")) or (
            self.kind == "log_contrast" and self.measure.transform != "log"
        ):
            raise ConfigError(f"combine, measure.transform: kind={self.kind} takes combine=mean; log_contrast any, and transform=log.")
        if correlation and not (self.against and self.axes):
            raise ConfigError("against, axes: kind=correlation needs a measure to correlate with, and the axes to do it in.")
        if not self.effects:
            check_measure(PICK.sub("1", self.measure.name), "measure.name")
        for name in (self.against, self.given) if correlation else ():
            check_measure(name, "against, given")
        keys = {f"optimizer.{name}" for name in schema(OptimizerConfig)}
        if unknown := [axis for axis in self.axes if axis not in keys and not may_vary(axis)]:
            raise ConfigError(f"axes={unknown[0]}: unknown key; known are keys of train.py such as optimizer.lr, epochs.")
        for at, arm in self.arms.named.items():
            if self.effects and list(arm) != ["arm"]:
                raise ConfigError(f"arms.{at}={arm}: must be {{arm: NAME}}, a name in the tables of effects.")
            if not self.effects:
                check_arm(arm, f"arms.{at}", empty=correlation)
        for i, gate in enumerate(self.gates):
            check_gate(gate, f"gates[{i}]")
            if self.effects or (correlation and gate["gate"] not in ("precision", "diverged")):
                what = "effects take none" if self.effects else "kind=correlation takes precision and diverged"
                raise ConfigError(f"gates[{i}].gate={gate['gate']}: {what}.")
        if correlation and (self.arms.controls or self.picks or any(f"optimizer.{name}" not in keys for name in self.arms.treatment)):
            raise ConfigError("arms: kind=correlation takes a treatment of the optimizer's keys, no controls and no picks.")
        for at, where in (("setting.where", self.setting.where), ("paper", self.paper)):
            if unknown := [name for name in where if name not in WHERE and not may_vary(name)]:
                raise ConfigError(f"{at}.{unknown[0]}: unknown key; known here: {', '.join(WHERE)}, and keys of train.py such as epochs.")

    @property
    def picks(self) -> list[str]:
        """Names of the picks that it stands on."""
        gates = [str(gate["pick"]) for gate in self.gates if "pick" in gate]
        return list(dict.fromkeys([*PICK.findall(repr((self.measure.name, self.arms, self.gates))), *gates]))


def check_arm(arm: Any, label: str, empty: bool = False) -> None:
    """Refuse keys that no run of the arm's method has, and values that they cannot hold. Raises ConfigError that names `label`."""
    if not isinstance(arm, dict) or (not empty and arm.get("method") not in METHODS):
        method = arm.get("method") if isinstance(arm, dict) else arm
        raise ConfigError(f"{label}.method={method}: must be one of {', '.join(METHODS)}.")
    known = [f.name for f in fields(METHODS[arm["method"]].keys or OptimizerConfig)] if "method" in arm else list(schema(OptimizerConfig))
    for name, value in arm.items():
        if name == "measure":
            check_measure(PICK.sub("1", str(value)), f"{label}.measure")
        elif name not in known and not may_vary(name):
            raise ConfigError(f"{label}.{name}: unknown key; known here: measure, {', '.join(known)}, and keys of train.py such as epochs.")
        elif not PICK.fullmatch(str(value)):
            check_setting(TrainConfig, f"optimizer.{name}" if name in known else name, value, f"{label}.{name}")


def check_gate(gate: Mapping[str, Any], label: str) -> None:
    """Refuse a gate of another name, or with other keys, than GATES has. Raises ConfigError that names `label`."""
    needs = GATES.get(str(gate.get("gate")))
    if needs is None:
        raise ConfigError(f"{label}.gate={gate.get('gate')}: must be one of {', '.join(GATES)}.")
    if set(gate) != {"gate", *needs}:
        raise ConfigError(f"{label}: the gate {gate['gate']} holds {', '.join(needs)}, not {', '.join(sorted(set(gate) - {'gate'}))}.")
    for name in needs:
        if name in ("arm", "treatment", "control"):
            check_arm(gate[name], f"{label}.{name}")
        elif name in ("at_least", "above", "at_most"):
            check_number(f"{label}.{name}", gate[name])
        elif name == "measure":
            check_measure(PICK.sub("1", gate[name]), f"{label}.{name}")


def read(path: Path, given: Iterable[str] = ()) -> Claim:
    """Read and check a document. given: names of picks beside PICKS. Raises ConfigError that names the file."""
    try:
        claim = from_dict(Claim, yaml.safe_load(path.read_text(encoding="utf-8")))
        if unknown := [name for name in claim.picks if name not in PICKS and name not in given]:
            known = ", ".join(dict.fromkeys([*PICKS, *given]))
            raise ConfigError(f"@{unknown[0]}: is no pick; there are {known}, and picks={{NAME: VALUE}}.")
    except (OSError, UnicodeError, yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    return claim
