"""The page that sets the campaign beside the papers: which runs it compares, and when it says that signs agree."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import pytest

from sam.optimizers.settings import OptimizerConfig
from sam.tables.conditions import RunRow


@pytest.fixture(scope="module")
def beside() -> Any:
    return made_up.program("campaign/beside.py")


def run(accuracy: float, seed: int, sharp: float = 1.0, epochs: int = 40, **keys: Any) -> RunRow:
    row = made_up.run(OptimizerConfig.of(**keys), seed, accuracy, epochs=epochs)
    return replace(row, measures={"test_accuracy[bn=recalibrated]": accuracy, "sharpness[rho=0.2,bn=eval,batch=all]": sharp, "gap": 0.1})


def rows(gain: float) -> list[RunRow]:
    """SGD, SAM a `gain` above it, and what must not be taken for them: another radius, another length, a drawn radius."""
    found = [run(50.0 + seed, seed, method="sgd") for seed in range(4)]
    found += [run(50.0 + gain + seed + 0.02 * seed, seed, sharp=0.5, rho=0.2) for seed in range(4)]
    found += [run(99.0, s, method="sgd", epochs=80) for s in range(4)] + [run(10.0, s, rho=0.1) for s in range(4)]
    return found + [run(10.0, s, rho=0.2, radius="uniform") for s in range(4)]


@pytest.mark.parametrize(("gain", "sign"), [(2.0, 1), (-2.0, -1), (0.0, 0)])
def test_a_sign_counts_where_the_interval_leaves_zero(beside: Any, gain: float, sign: int) -> None:
    found = rows(gain) if gain else [*rows(0.0)[:4], *(run(50.0 + s + (-1) ** s, s, rho=0.2) for s in range(4))]
    text, n, own = beside.ours(found, beside.sam(), [beside.SGD], beside.ACCURACY, 0.2)
    assert (n, own) == (4, sign) and (gain == 0 or text.startswith(f"{gain + 0.03:+.2f} ["))
    if gain:  # SGD of twice the epochs has 99 in `rows`
        longer, n, _ = beside.ours(found, beside.sam(), [beside.SGD | {"times": 2}], beside.ACCURACY, 0.2)
        assert n == 4 and longer.startswith(f"{gain + 50 + 1.5 + 0.03 - 99:+.2f} [")


def test_the_mean_of_several_arms_in_logarithms(beside: Any) -> None:
    found = [run(50.0, s, sharp=0.5, rho=0.2) for s in range(2)]
    found += [run(50.0, s, sharp=float(n), rho=0.2, ascent_steps=n) for s in range(2) for n in (2, 3, 5)]
    text, n, own = beside.ours(found, beside.sam(), [beside.sam(k) for k in (2, 3, 5)], "sharpness", 0.2)
    assert text == "-1.83" and (n, own) == (2, 0)  # log 0.5 - (log 30) / 3; two seeds have no interval
    assert beside.ours(found, beside.RAND, [beside.SGD], beside.ACCURACY, 0.2) == ("–", 0, 0)


def test_a_difference_that_is_equal_in_all_seeds_has_no_interval_and_no_sign(beside: Any) -> None:
    found = [run(50.0 + 0.1 * keys.get("rho", 0) + s, s, **keys) for s in range(4) for keys in ({"method": "sgd"}, {"rho": 0.2})]
    assert beside.ours(found, beside.sam(), [beside.SGD], beside.ACCURACY, 0.2) == ("+0.02", 4, 0)


def test_two_settings_of_one_name_are_not_one_arm(beside: Any) -> None:
    found = [run(50.0, s, method="sgd", weight_decay=decay) for s in range(2) for decay in (0.0, 1e-3)]
    with pytest.raises(ValueError, match="SGD: 4 runs of 2 seeds"):
        beside.of_arm(found, beside.SGD, 0.2)


def test_the_gap_is_in_the_papers_unit(beside: Any) -> None:
    found = [replace(run(50.0, s, rho=0.2, ascent_steps=n), measures={"gap": 0.1 + 0.004 * (n == 5)}) for s in range(2) for n in (1, 5)]
    assert beside.ours(found, beside.sam(5), [beside.sam()], "gap", 0.2)[0] == "+4.00"


def test_the_printed_values_are_those_of_the_source(beside: Any) -> None:
    theirs = {name: beside.printed(*published, log=measure == "sharpness") for name, _, _, measure, *published in beside.ROWS}
    assert theirs["SAM minus SGD, accuracy"] == ("+0.8 (Foret et al. 2021, Table 1: 97.3 against 96.5)", 1)
    assert {name: sign for name, (_, sign) in theirs.items() if sign < 0}.keys() == {
        "Rand-SAM minus SAM, accuracy",
        "Rand-SAM minus SAM, accuracy, CIFAR-100",
        "N = 1 minus N = 2, 3, 5, log sharpness",
        "N = 5 minus N = 1, generalisation gap",
    }


@pytest.mark.parametrize(("gain", "said"), [(2.0, "agree"), (-2.0, "differ")])
def test_the_page_says_whether_the_signs_are_the_same(
    beside: Any, gain: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stage1").mkdir()
    monkeypatch.setattr(beside, "stored_runs", lambda config, problems: rows(gain))
    (line,) = [line for line in beside.page(tmp_path, {"stage1": 0.2}).splitlines() if "minus SGD, accuracy" in line]
    assert line.startswith("| SAM minus SGD, accuracy | +0.8 (Foret") and line.endswith(f"] | stage1, R = 0.2 | 4 | {said} |")
