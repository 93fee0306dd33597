"""Weights as people save them: bare, wrapped, prefixed, beside anything; which are taken, what is said, and what is refused."""

import argparse
import enum
import os
import pickle
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sam.training.weights import CheckpointError, grouped, load, read

PLAIN = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.tensor([1.0, -1.0])}
OTHER = {name: value + 10 for name, value in PLAIN.items()}


def prefixed(prefix: str, state: dict[str, Tensor] = PLAIN) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def loaded(path: Path, wanted: str | None = None) -> tuple[dict[str, Tensor], str]:
    model = nn.Sequential(nn.Linear(3, 2))
    return model.state_dict(), " ".join(load(model, path, read(path), wanted=wanted))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SAVED: dict[str, Any] = {
    "bare": PLAIN,
    "ordered": OrderedDict(PLAIN),
    "parameters": {name: nn.Parameter(value) for name, value in PLAIN.items()},
    "state_dict": {"epoch": 3, "state_dict": PLAIN, "optimizer": {"state": {0: {"momentum_buffer": PLAIN["0.weight"]}}}},
    "model": {"format": 1, "model": PLAIN, "fingerprint": "x"},
    "wrapped twice": {"net": {"model_state_dict": PLAIN, "acc": 94.2}},
    "under anybody's keys": {"trainer": {"algorithm": {"policy": PLAIN}}},
    "data parallel": prefixed("module."),
    "compiled and parallel": {"model": prefixed("_orig_mod.module.")},
    "any prefix": {"weights": prefixed("encoder.backbone_q.")},
    "lightning": {"state_dict": prefixed("model."), "epoch": 2},
}


@pytest.mark.parametrize("form", SAVED)
def test_every_wrapping_is_taken_off(form: str, tmp_path: Path) -> None:
    torch.save(SAVED[form], tmp_path / "weights.pt")
    state, said = loaded(tmp_path / "weights.pt")
    assert same(state, PLAIN) and said == ""


def test_safetensors(tmp_path: Path) -> None:
    save_file(prefixed("module."), tmp_path / "weights.safetensors")
    assert same(loaded(tmp_path / "weights.safetensors")[0], PLAIN)


class Kind(enum.Enum):
    A = 1


class Settings(dict[str, Any]):
    """As Lightning's AttributeDict."""


class Anything:
    def __init__(self, **what: Any) -> None:
        vars(self).update(what)


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["SAM_TEST_HOSTILE"],)


class HostileState:
    def __reduce__(self) -> Any:
        return eval, ("__import__('os').mkdir(__import__('os').environ['SAM_TEST_HOSTILE'])",), {"a": 1}, iter([1, 2]), iter([(1, 2)])


BESIDE: dict[str, Any] = {
    "a namespace": argparse.Namespace(lr=0.1, model="resnet18"),
    "a path": Path("x"),
    "a class": Anything,
    "an enum": {Kind.A: Kind.A},
    "containers": [defaultdict(list, a=[1]), Counter("aa"), {1, 2}, frozenset("a"), 10**40, b"bytes", 1j],
    "nested": Anything(a=Settings(b=Anything(c=[Settings(d=1)]))),
    "a function": os.path.join,
    "hostile": [Hostile(), {"a": Hostile()}],
    "hostile in every way": HostileState(),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("what", BESIDE)
def test_whatever_lies_beside_the_tensors_does_nothing(
    what: str, zipped: bool, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM_TEST_HOSTILE", str(tmp_path / "ran"))
    content = {"before": BESIDE[what], "state_dict": prefixed("module."), "args": BESIDE[what]}
    torch.save(content, tmp_path / "w.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    state, said = loaded(tmp_path / "w.pt")
    assert same(state, PLAIN) and said == "" and not (tmp_path / "ran").exists()


def test_which_weights_were_taken_is_said_and_can_be_chosen(tmp_path: Path) -> None:
    timm = {"state_dict": PLAIN, "state_dict_ema": OTHER, "args": argparse.Namespace(lr=1)}
    inside = {"state_dict": {**prefixed("ema_model.module.", OTHER), **prefixed("model.")}}
    for name, content, ema in (("timm", timm, "state_dict_ema"), ("lightning", inside, "state_dict.ema_model.module")):
        path = tmp_path / f"{name}.pt"
        torch.save(content, path)
        state, said = loaded(path)
        assert same(state, PLAIN) and f"others that fit: {ema} (checkpoint_key=... chooses)" in said
        state, said = loaded(path, ema)
        assert same(state, OTHER) and f"Weights: {ema}, an average by its name." in said
        with pytest.raises(CheckpointError, match=r"checkpoint_key=ema: .* has no such key with tensors; it has state_dict"):
            loaded(path, "ema")
    torch.save({"model_ema": prefixed("module.", OTHER), "epoch": 1}, tmp_path / "ema.pt")
    state, said = loaded(tmp_path / "ema.pt")
    assert same(state, OTHER) and said == "Weights: model_ema.module, an average by its name."
    for content in ({"EMA": OTHER, "last": PLAIN}, {"modelEma": OTHER, "modelRaw": PLAIN}):
        torch.save(content, tmp_path / "camel.pt")
        assert same(loaded(tmp_path / "camel.pt")[0], PLAIN)
    first = {"ema": OTHER, "params": PLAIN, "model": {name: value + 1 for name, value in PLAIN.items()}}
    torch.save(first, tmp_path / "many.pt")
    assert same(loaded(tmp_path / "many.pt")[0], first["model"])  # as `WRAPPINGS` are ordered, not as the file is


def test_what_is_dropped_is_named(tmp_path: Path) -> None:
    metrics = {"train_acc.correct": torch.tensor(3), "loss_fn.weight": torch.ones(3)}
    torch.save({"state_dict": {**prefixed("model."), **metrics}}, tmp_path / "lightning.pt")
    state, said = loaded(tmp_path / "lightning.pt")
    assert same(state, PLAIN) and said == "Dropped, as no part of the model: train_acc.correct, loss_fn.weight."
    torch.save({"n_averaged": torch.tensor(7), **prefixed("module.")}, tmp_path / "averaged.pt")
    assert loaded(tmp_path / "averaged.pt")[1] == "Dropped, as no part of the model: n_averaged."


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_cast_with_a_word(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({name: value.to(dtype) for name, value in PLAIN.items()}, tmp_path / "w.pt")
    state, said = loaded(tmp_path / "w.pt")
    assert same(state, PLAIN) and said == f"Weights cast from {dtype} to the model's type."


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_whole_network_in_another_precision_with_its_counters(dtype: torch.dtype, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    torch.save({name: value.to(dtype) for name, value in net.state_dict().items()}, tmp_path / "w.pt")
    load(net, tmp_path / "w.pt", read(tmp_path / "w.pt"))
    torch.save({name: value.float() for name, value in net.state_dict().items()}, tmp_path / "w.pt")
    assert not load(net, tmp_path / "w.pt", read(tmp_path / "w.pt"))  # of the counters' type nothing is said


def test_one_dictionary_under_two_keys_has_both(tmp_path: Path) -> None:
    torch.save({"state_dict": PLAIN, "state_dict_ema": PLAIN}, tmp_path / "w.pt")
    assert same(loaded(tmp_path / "w.pt", "state_dict_ema")[0], PLAIN)


UNFIT: dict[str, tuple[Any, str]] = {
    "more layers": ({**PLAIN, "2.weight": torch.ones(2, 2), "4.weight": torch.ones(2, 2)}, r"unexpected: \{2,4\}\.weight \(2\)\."),
    "a layer less": ({"0.weight": PLAIN["0.weight"]}, r"missing: 0\.bias\."),
    "other names": (prefixed("a"), r"missing: 0\.weight, 0\.bias; unexpected: a0\.weight, a0\.bias\."),
    "classes": (
        {"0.weight": torch.ones(7, 3), "0.bias": torch.ones(7)},
        r"\[7, 3\] for the model's \[2, 3\]: 0\.weight; \[7\] for the model's \[2\]: 0\.bias; has 7 classes, the model's 2\.",
    ),
    "nan": ({**PLAIN, "0.bias": torch.tensor([1.0, float("nan")])}, r"0\.bias holds NaN or infinity \(1 of 2 numbers\)"),
    "inf": ({**PLAIN, "0.weight": PLAIN["0.weight"] / 0}, r"0\.weight holds NaN or infinity \(6 of 6 numbers\)"),
    "whole numbers": ({**PLAIN, "0.weight": PLAIN["0.weight"].to(torch.int8)}, "0.weight is a tensor of torch.int8"),
    "nowhere": ({**PLAIN, "0.weight": PLAIN["0.weight"].to("meta")}, "0.weight is a tensor of torch.float32"),
    "sparse": ({**PLAIN, "0.weight": PLAIN["0.weight"].to_sparse()}, "0.weight is a tensor of .*sparse"),
    "terminal": ({"0.weight\x1b[2J": torch.ones(1)}, r"unexpected: 0\.weight\?\[2J\."),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_does_not_fit_is_named_completely(kind: str, tmp_path: Path) -> None:
    content, words = UNFIT[kind]
    torch.save({"net": content}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=words) as caught:
        loaded(tmp_path / "w.pt")
    assert str(caught.value).startswith(f"checkpoint={tmp_path / 'w.pt'}: ") and "\n" not in str(caught.value)


def test_names_are_grouped_without_leaving_one_out() -> None:
    names = [f"layer{i}.{j}.conv{k}.weight" for i in (1, 2) for j in (0, 1, 2) for k in (1, 2)] + ["fc.bias", "layer1.0.bn.bias"]
    assert grouped(names) == "layer{1,2}.{0,1,2}.conv{1,2}.weight (12), fc.bias, layer1.0.bn.bias"


def test_a_file_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"a": {}, "state_dict": PLAIN}
    content["me"] = content["a"]["up"] = content
    torch.save(content, tmp_path / "w.pt")
    assert same(loaded(tmp_path / "w.pt")[0], PLAIN)


@pytest.mark.filterwarnings("ignore")  # torch's, of TorchScript
def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "cut.pt")
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[:300])
    at = whole.index(PLAIN["0.weight"].numpy().tobytes()) + 6
    (tmp_path / "flipped.pt").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    (tmp_path / "text.pt").write_text("hello, I am a text")
    (tmp_path / "text.safetensors").write_text("hello, I am a text")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps([1, 2]))
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "other.pt")
    torch.save([PLAIN], tmp_path / "list.pt")
    torch.save(nn.Linear(2, 3), tmp_path / "module.pt")
    torch.save({"model": nn.Linear(2, 3)}, tmp_path / "wrapped.pt")
    torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3)).save(str(tmp_path / "script.pt"))
    objects = r"Python objects.*not loaded.*torch.save\(model.state_dict\(\), 'weights.pt'\)"
    cases = {
        "nowhere.pt": "there is no such file",
        "cut.pt": "cannot be read by torch.load",
        "flipped.pt": "the checksum of cut.* is wrong",
        "text.pt": "cannot be read by torch.load",
        "pickle.pt": "cannot be read by torch.load",
        "script.pt": "cannot be read by torch.load .*TorchScript",
        "text.safetensors": "cannot be read as safetensors",
        "other.pt": "holds a dict and no state_dict, under whatever key .found: epoch, lr",
        "list.pt": "holds a list and no state_dict",
        "module.pt": objects,
        "wrapped.pt": objects,
    }
    for name, words in cases.items():
        with pytest.raises(CheckpointError, match=words) as caught:
            read(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
