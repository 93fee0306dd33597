"""State_dicts as people save them: bare, wrapped, prefixed, in both formats; and what is refused, in one sentence."""

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sam.training.checkpoint import CheckpointError
from sam.training.weights import read

PLAIN = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.tensor([1.0, -1.0])}


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in PLAIN.items()}


SAVED: dict[str, Any] = {
    "bare": PLAIN,
    "ordered": OrderedDict(PLAIN),
    "state_dict": {"epoch": 3, "state_dict": PLAIN, "optimizer": {"state": {}}},
    "model": {"format": 1, "model": PLAIN, "fingerprint": "x"},
    "wrapped twice": {"net": {"model_state_dict": PLAIN, "acc": 94.2}},
    "data parallel": prefixed("module."),
    "compiled and parallel": {"model": prefixed("_orig_mod.module.")},
    "lightning": {"state_dict": prefixed("model."), "epoch": 2},
    "averaged": {"n_averaged": torch.tensor(7), **prefixed("module.")},
}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("form", SAVED)
def test_every_wrapping_is_taken_off(form: str, tmp_path: Path) -> None:
    torch.save(SAVED[form], tmp_path / "weights.pt")
    assert same(read(tmp_path / "weights.pt"), PLAIN)


def test_safetensors(tmp_path: Path) -> None:
    save_file(prefixed("module."), tmp_path / "weights.safetensors")
    assert same(read(tmp_path / "weights.safetensors"), PLAIN)


def test_a_prefix_that_only_some_names_have_stays() -> None:
    """A model of one's own may well have a part called `model`."""
    from sam.training.weights import _unprefixed

    state = {"model.weight": PLAIN["0.weight"], "head.weight": PLAIN["0.bias"]}
    assert _unprefixed(state).keys() == state.keys()


def test_python_objects_are_not_loaded_and_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    for name, content in (("module", nn.Linear(2, 3)), ("options", {"state_dict": PLAIN, "args": argparse.Namespace(lr=1)})):
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(
            CheckpointError, match=r"Python objects.*not loaded.*torch.save\(model.state_dict\(\), 'weights.pt'\)"
        ) as caught:
            read(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:300])
    (tmp_path / "text.pt").write_text("hello, I am a text")
    (tmp_path / "text.safetensors").write_text("hello, I am a text")
    torch.save({"epoch": 3, "weights_of_mine": PLAIN}, tmp_path / "other.pt")
    torch.save([PLAIN], tmp_path / "list.pt")
    cases = {
        "nowhere.pt": "there is no such file",
        "cut.pt": "cannot be read by torch.load",
        "text.pt": "cannot be read by torch.load",
        "text.safetensors": "cannot be read as safetensors",
        "other.pt": "holds no state_dict, neither itself nor under state_dict, model.*found: epoch, weights_of_mine",
        "list.pt": "holds a list, not a state_dict",
    }
    for name, words in cases.items():
        with pytest.raises(CheckpointError, match=words) as caught:
            read(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
