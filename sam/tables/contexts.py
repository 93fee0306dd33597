"""Runs as the tables see them, and the *contexts* they fall into.

A context is everything but the seed and the keys of the method (rho, ascent steps, ...). Learning rate, momentum and weight decay belong
to it, so that two rows of a block differ in the method alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.known import BY_FINGERPRINT, is_genuine
from sam.config import BASE_KEYS, DATASETS, MODELS, DatasetConfig, ModelConfig, OptimizerConfig, TrainConfig, counted, flat, to_dict
from sam.runs.records import CHECKPOINT


@dataclass(frozen=True)
class RunRow:
    """One run as the tables see it; `measures` in plain units (accuracy in percent, cross-entropies in nats), None where not measured.

    setting  identity of everything but the seed: runs with equal `setting` are replicas over seeds.
    status   finished | diverged.
    epochs   the rows of metrics.csv (epoch, test_accuracy, train_loss, ...).
    series   curves of the notions (spectra, landscapes), by name.
    init_from  hash of the file of weights that it started from, or None.
    """

    config: TrainConfig
    setting: str
    status: str
    diverged_epoch: int | None
    measures: Mapping[str, float | None]
    epochs: Sequence[Mapping[str, float]]
    folder: str
    fingerprint: str
    data_fingerprint: str
    data_notes: tuple[str, ...]
    series: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)
    init_from: str | None = None

    @property
    def data_label(self) -> str:
        return data_label(self.config.dataset, self.data_fingerprint)

    @property
    def genuine(self) -> bool:
        """Whether its images are known to be those of the data set that it names."""
        return is_genuine(self.config.dataset.name, self.config.dataset.path, self.data_fingerprint)


@dataclass(frozen=True)
class Context:
    """Runs that differ in method and seed only. `config` is the first run's; `label` tells contexts apart; `key`: their common settings,
    by dotted names."""

    label: str
    config: TrainConfig
    runs: tuple[RunRow, ...]
    key: Mapping[str, Any] = field(default_factory=dict)

    @property
    def noisy(self) -> bool:
        return self.config.dataset.label_noise > 0


def settings(c: TrainConfig) -> dict[str, Any]:
    """A run's settings, by dotted names, without seed, method, names and places; a model's idle keys count for nothing."""
    neutral = replace(
        c,
        optimizer=OptimizerConfig(**{key: getattr(c.optimizer, key) for key in BASE_KEYS} | {"method": "sgd"}),
        model=ModelConfig(**{key: getattr(c.model, key) for key in ("name", "init", *MODELS[c.model.name])}),
        dataset=replace(c.dataset, path="file" if c.dataset.path else None, root=DatasetConfig.root, download=False),
        protocol=replace(c.protocol, notes=[]),
        **{key: getattr(TrainConfig(), key) for key in _NEUTRAL},
    )
    return flat(to_dict(neutral))


_NEUTRAL = (
    *("seed", "runs_dir", "run_dir", "force", "device", "threads", "tracking"),
    *("eval_batch_size", "eval_interval", "checkpoint_interval", "checkpoint_steps", "keep_checkpoints"),
)


def may_vary(name: str) -> bool:
    """Whether this is the dotted name of a setting, other than the method's, that tells contexts apart."""
    alike = (*_NEUTRAL, "protocol.notes", "dataset.path", "dataset.root", "dataset.download")
    return name in flat(to_dict(TrainConfig())) and name not in alike and not name.startswith(("optimizer.", "tracking."))


def word(value: Any) -> str:
    """A setting's value as a label prints it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(word, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def data_label(dataset: DatasetConfig, fingerprint: str) -> str:
    """Label of a data set; images from a file are named by their fingerprint where it is known."""
    if is_genuine(dataset.name, dataset.path, fingerprint) and dataset.name != "arrays":
        return dataset.label
    alien = "arrays" if dataset.name == "arrays" else f"images not known to be {DATASETS[dataset.name]}"
    return dataset.named(BY_FINGERPRINT[fingerprint].name if fingerprint in BY_FINGERPRINT else alien)


def context_label(run: RunRow) -> str:
    """ "digits demo", or "CIFAR-10, WRN-28-10, 200 epochs, protocol tiwary2024"; with what it started from, if that was a file."""
    config = run.config
    if config.dataset.name == "digits" and config.protocol.name.startswith("demo"):
        label = config.dataset.named("digits demo")
    else:
        label = f"{run.data_label}, {config.model.label}, {counted(config.epochs, 'epoch')}, protocol {config.protocol.name}"
    if config.loss != "cross_entropy":
        label += f", loss {config.loss}"
    if config.init_from is None:
        return label
    file = Path(config.init_from)
    started = file.parent.name if file.name == CHECKPOINT else ""  # every run's checkpoint has this name; its folder says which one it is
    return f"{label}, started from {started or file.name}"


def contexts(runs: Sequence[RunRow]) -> list[Context]:
    """The runs by context, in the order of their labels; where labels would collide, the settings that differ are appended."""
    groups: dict[str, list[RunRow]] = {}
    for run in runs:
        if run.status not in ("finished", "diverged"):
            raise ValueError(f"{run.folder}: status {run.status}: only finished and diverged runs belong in a table.")
        files = {"init_from": run.init_from, "data": run.data_fingerprint}  # by their bytes, not by their paths
        known = settings(run.config) | files
        groups.setdefault(json.dumps(known, sort_keys=True), []).append(run)
    by_label: dict[str, list[str]] = {}
    for key, members in groups.items():
        by_label.setdefault(context_label(members[0]), []).append(key)
    found = []
    for label, keys in by_label.items():
        parsed = [json.loads(key) for key in keys]
        differing = [name for name in parsed[0] if len({repr(s.get(name)) for s in parsed}) > 1]
        for key, setting in zip(keys, parsed, strict=True):
            members = groups[key]
            suffix = "".join(f", {name}={str(setting[name])[:12] if name == 'data' else word(setting[name])}" for name in differing)
            found.append(Context(label + suffix, members[0].config, tuple(members), setting))
    return sorted(found, key=lambda context: context.label)  # runs that start at once would come in either order
