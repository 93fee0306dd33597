"""Published values (paper_values.csv): which may be shown with a run; printed as the source prints them, never converted or rounded."""

import csv
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.settings import DATASETS
from sam.config import ConfigError
from sam.optimizers.settings import OptimizerConfig
from sam.settings import TrainConfig
from sam.tables.conditions import grouped

CSV = Path(__file__).with_name("paper_values.csv")

_UNCERTAINTY = {"std": "std", "std?": "std?", "ci95": "95% CI", "ci68": "68% CI", "median": "median", "unstated": "± unstated"}
# Keys that make another method of the same name; a published value belongs to the plain one.
_VARIANT_KEYS = ("step_rule", "descent_gradient", "perturb", "norm_scope", "radius")
# Beside crop and flip. Any other wording matches nothing ("autoaugment" too: Foret's policy is not torchvision's), "unstated" everything.
_CUTOUT_AND_POLICY = {"basic": (0, "none"), "cutout": (16, "none")}  # pixels


@dataclass(frozen=True)
class Published:
    """One line of paper_values.csv. `value` and `unc` are text, as printed in the source (97.30 is not 97.3, and "<0.1" is a bound).

    metric    acc and err in percent; "... x1e3" already multiplied by 1000.
    unc_kind  what the source's ± is: std | ci95 | ci68 | median (the value is one; there is no ±) | unstated; "std?" where inferred.
    check     V: read in the source itself; S: read in a secondary page only, and printed with that mark.
    """

    id: str
    paper: str
    method: str
    dataset: str
    arch: str
    epochs: str
    augmentation: str
    metric: str
    value: str
    unc: str
    unc_kind: str
    n_runs: str
    note: str
    check: str

    @property
    def parts(self) -> tuple[str, str]:
        """("97.3 ± <0.1", "(std, n unstated; s01)")."""
        number = self.value + (f" ± {self.unc}" if self.unc else "") + (" err" if self.metric == "err" else "")
        kind = _UNCERTAINTY[self.unc_kind] if self.unc or self.unc_kind == "median" else ""
        runs = "n unstated" if self.n_runs in ("", "unstated") else f"n = {self.n_runs}"
        about = ", ".join(filter(None, (kind, runs)))
        return number, f"({about}; {self.id}{', secondary source' if self.check == 'S' else ''})"


def citations(published: Sequence[Published]) -> list[str]:
    """Source and note of the published values shown, one line per source and setup."""
    setup = lambda p: f"{p.paper}, {p.dataset}, {p.arch}, {p.epochs} epochs, augmentation {p.augmentation}"
    by_text = grouped(published, lambda p: setup(p) + (f": {p.note}" if p.note else ""))
    methods = {text: "; ".join(dict.fromkeys(p.method for p in same)) for text, same in by_text.items()}
    return [f"{', '.join(sorted(p.id for p in same))} ({methods[text]}): {text}." for text, same in by_text.items()]


@functools.cache
def _load() -> Mapping[str, Published]:
    with CSV.open(newline="", encoding="utf-8") as file:
        return {line["id"]: Published(**line) for line in csv.DictReader(file)}


def lookup(ids: Sequence[str]) -> list[Published]:
    """Published values by id, in this order. Raises ConfigError for an unknown or unchecked id."""
    known = _load()
    for key in ids:
        if key not in known:
            raise ConfigError(f"published: {key}: no such id in {CSV.name}.")
        if known[key].check not in ("V", "S"):
            raise ConfigError(f"published: {key}: check={known[key].check} in {CSV.name}: only V and S rows may be shown.")
    return [known[key] for key in ids]


def matches(published: Published, config: TrainConfig) -> bool:
    """True if the value may be shown with this run: same architecture, data set, epochs, and, where stated, augmentation and radius. Batch
    size, learning rate and schedule are not compared: most sources do not state them."""
    data, optimizer, plain = config.dataset, config.optimizer, OptimizerConfig.of(method=config.optimizer.method)
    whole = data.label_noise == 0 and data.train_size is None and data.val_fraction == 0 and data.val_size is None
    same_data = whole and data.name in ("cifar10", "cifar100") and published.dataset == DATASETS[data.name].label
    same_model = published.arch == config.model.label and getattr(config.model, "dropout", 0) == 0 and "dropout" not in published.method
    same_training = published.epochs == str(config.epochs) and config.init_from is None
    variant = any(key in optimizer.used_keys and getattr(optimizer, key) != getattr(plain, key) for key in _VARIANT_KEYS)
    same_method = not variant and ("rho" not in optimizer.used_keys or optimizer.rho in _radii(published))
    stated, ours = published.augmentation, config.augmentation
    cut = ours.cutout * ours.cutout_probability
    same_images = ours.crop_padding == 4 and ours.flip and _CUTOUT_AND_POLICY.get(stated) == (cut, ours.policy)
    return same_data and same_model and same_training and same_method and (same_images or stated == "unstated")


def _radii(published: Published) -> tuple[float, ...]:
    """Training radii that the value is valid for: the one in `method`; else 0.05, the radius of every row of Tiwary & Aananth 2024, and the
    one in `note` (they copy a CIFAR-100 value tuned at 0.1)."""
    named, noted = (tuple(map(float, re.findall(r"\brho ?0?(\.\d+)", text))) for text in (published.method, published.note))
    return named or (0.05, *noted)
