"""What Hydra and OmegaConf refuse, said by key, value and what is allowed."""

import pytest
from hydra.errors import HydraException
from hydra.types import RunMode

from sam.runs import sweep
from sam.runs.hydra_schema import in_our_words

LIST = "--help lists all keys, --cfg hydra Hydra's own."


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("optimizer.roh=0.1", f"optimizer.roh=0.1: unknown key; did you mean optimizer.rho? {LIST}"),
        ("optimzer=sam", f"optimzer=sam: unknown key; did you mean optimizer? {LIST}"),
        ("zzz=1", f"zzz=1: unknown key. {LIST}"),
        ("rho=0.1", f"rho=0.1: unknown key; did you mean optimizer.rho? {LIST}"),
        ("radius=uniform", f"radius=uniform: unknown key; did you mean optimizer.radius? {LIST}"),
        ("seeds=[1]", f"seeds=[1]: unknown key for this command. {LIST}"),
        ("hydra.launcher.procesess=4", f"hydra.launcher.procesess=4: unknown key. {LIST}"),
        ("optimizer.rho=small", "optimizer.rho=small: must be a number."),
        ("seed=1.5", "seed=1.5: must be a whole number."),
        ("force=perhaps", "force=perhaps: must be true or false."),
        ("keep_checkpoints=3", "keep_checkpoints=3: must be a list, such as keep_checkpoints=[3]."),
        ("epochs=null", "epochs=null: must be set, not null."),
        ("protocol.name=[1]", "protocol.name=[1]: must be text."),
    ],
)
def test_a_refused_override_is_one_sentence(argument: str, says: str) -> None:
    with pytest.raises(HydraException) as refused:
        sweep.planned([argument])
    assert in_our_words(refused.value) == says


@pytest.mark.parametrize(
    ("argument", "a_list"),
    [
        ("optimizer=sgd,sam", ""),
        ("dataset=digits,arrays", ""),
        ("m=8,16", ""),
        ("seed=range(3)", ""),
        ("keep_checkpoints=1,2", "; a list is keep_checkpoints=[1,2]"),
        ("dataset.mean=0,1", "; a list is dataset.mean=[0,1]"),
    ],
)
def test_several_values_without_m(argument: str, a_list: str) -> None:
    made, name, overrides, _ = sweep.opened([argument], "train")
    with pytest.raises(HydraException) as refused:
        made.compose_config(name, overrides, run_mode=RunMode.RUN, with_log_configuration=False)
    assert in_our_words(refused.value) == f"{argument}: several values are a sweep, which -m starts{a_list}."


def test_an_unknown_option_names_all_that_there_are() -> None:
    with pytest.raises(HydraException) as refused:
        sweep.planned(["optimizer=smam"])
    said = in_our_words(refused.value)
    assert said.startswith("optimizer=smam: must be one of asam, ") and said.endswith(", xsam.") and "search path" not in said


@pytest.mark.parametrize(
    "text", ["runs_dir=läufe", "dataset.path=~/x.npz", "tracking.notes=was it? yes!", "runs_dir=runs/a(1)", "seed=range(3"]
)
def test_what_hydras_grammar_cannot_read_is_quoted(text: str) -> None:
    with pytest.raises(HydraException) as refused:
        sweep.planned([text])
    key, _, value = text.partition("=")
    assert in_our_words(refused.value).startswith(f"{text}: cannot be read; must be KEY=VALUE, ")
    assert in_our_words(refused.value).endswith(f"""in quotes: '{key}="{value}"'.""")


def test_any_other_error_stays_as_it_is() -> None:
    assert in_our_words(ValueError("lr=-1: must be >= 0.")) == "lr=-1: must be >= 0."
