"""`keep_checkpoints`: the weights of earlier epochs beside the last ones, through interruptions, and gone with `force`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam.config import ConfigError
from sam.runs import checkpoint, identity
from sam.runs.run import run
from sam.settings import TrainConfig
from sam.training.loop import Trainer

Tiny = Callable[..., TrainConfig]
Make = Callable[[TrainConfig], Trainer]


class Stop(Exception):
    pass


def kept(config: TrainConfig) -> dict[int, dict[str, Any]]:
    folder = identity.run_folder(config)
    return {epoch: checkpoint.load(folder, name=path.name) for epoch, path in checkpoint.kept(folder).items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_weights_of_these_epochs_are_kept(tiny: Tiny, trainer: Make) -> None:
    """Bitwise those of the loop after so many epochs, BatchNorm's buffers among them; nothing of the optimizer."""
    config = tiny(epochs=4, keep_checkpoints=[3, 1, 4], checkpoint_interval=10)
    record, by_hand = run(config), trainer(config)
    found = kept(config)
    assert list(found) == [1, 3, 4]
    for epoch in range(1, 5):
        by_hand.run_epoch(lambda passes: None)
        if epoch in found:
            assert found[epoch].keys() == {"format", "fingerprint", "epoch", "model"}
            assert (found[epoch]["fingerprint"], found[epoch]["epoch"]) == (record["fingerprint"], epoch)
            assert equal(found[epoch]["model"], by_hand.model.state_dict())
            assert int(next(value for name, value in found[epoch]["model"].items() if "tracked" in name)) == 3 * epoch
    assert equal(found[4]["model"], checkpoint.load(identity.run_folder(config))["model"])
    assert identity.run_fingerprint(config) == identity.run_fingerprint(tiny(epochs=4))


@pytest.mark.parametrize("lost", ["the epoch's metrics", "the checkpoint"])
def test_through_an_interruption(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """In epoch 3, before or after its weights were kept: a continued run has those of the epochs that it passed, and makes the others."""
    whole, pieces = (tiny(runs=name, epochs=4, keep_checkpoints=[1, 3]) for name in ("whole", "pieces"))
    run(whole)
    save = checkpoint.save

    def failing(folder: Path, state: dict[str, Any], epoch: int | None = None) -> str:
        if (lost == "the checkpoint" and len(state.get("rows", ())) == 3) or (lost == "the epoch's metrics" and epoch == 3):
            raise Stop
        return save(folder, state, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", failing)
        with pytest.raises(Stop):
            run(pieces)
    first = checkpoint.kept(identity.run_folder(pieces))[1]
    stamp = first.stat().st_mtime_ns
    assert sorted(kept(pieces)) == ([1, 3] if lost == "the checkpoint" else [1])
    run(pieces)
    assert first.stat().st_mtime_ns == stamp
    a, b = kept(whole), kept(pieces)
    assert list(a) == list(b) == [1, 3] and all(equal(a[epoch]["model"], b[epoch]["model"]) for epoch in a)


def test_force_removes_them(tiny: Tiny) -> None:
    run(tiny(keep_checkpoints=[1, 2]))
    assert list(kept(tiny())) == [1, 2]
    run(tiny(keep_checkpoints=[2], force=True))
    assert list(kept(tiny())) == [2]


def test_an_epoch_that_diverged_is_not_kept(tiny: Tiny) -> None:
    config = tiny(epochs=4, keep_checkpoints=[1, 2, 3, 4], optimizer={"lr": 1e12})
    record = run(config)
    assert list(kept(config)) == list(range(1, record["diverged_epoch"]))


@pytest.mark.parametrize("epochs", [[0], [1, 4], [-1, 2]])
def test_other_epochs_are_refused(epochs: list[int]) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig(epochs=3, keep_checkpoints=epochs)
    assert str(error.value) == f"keep_checkpoints={epochs}: must hold epochs from 1 to epochs=3."
