"""`keep_checkpoints`: the weights of earlier epochs beside the last ones, through interruptions, and gone with `force`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam.config import ConfigError
from sam.runs import checkpoint, identity, records
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


def stopped(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, epoch: int) -> list[tuple[int, int | None]]:
    """Train until an epoch's checkpoint is to be saved; what was saved by then: (epochs done, step of the next)."""
    saved, save = list[tuple[int, int | None]](), checkpoint.save

    def failing(folder: Path, state: dict[str, Any], *kept: int) -> str:
        if len(state.get("rows", ())) == epoch:
            raise Stop
        saved.append((len(state["rows"]), (state.get("epoch_so_far") or {}).get("step")))
        return save(folder, state, *kept)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoint, "save", failing)
        run(config)
    return saved


def test_epochs_that_are_over_are_not_kept_without_a_word(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(tiny(epochs=4), monkeypatch, 3)
    assert run(tiny(epochs=4, keep_checkpoints=[1, 4]))["status"] == "finished" and list(kept(tiny(epochs=4))) == [4]
    assert "warning: keep_checkpoints=[1]: are over" in capsys.readouterr().err


def test_a_checkpoint_every_so_many_steps_of_the_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps an epoch: after steps 4, 8 and 12, the last of which is an epoch's end."""
    found = stopped(tiny(epochs=5, checkpoint_interval=10, checkpoint_steps=4), monkeypatch, 5)
    assert [done for done, _ in found] == [1, 2, 3]


def test_the_arithmetic_recorded_is_that_of_the_first_steps(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(records, "NUMERICS", records.NUMERICS - 1)
        stopped(tiny(epochs=4), monkeypatch, 3)
    assert run(tiny(epochs=4))["numerics"] == records.NUMERICS - 1
    assert run(tiny(epochs=4, force=True))["numerics"] == records.NUMERICS
