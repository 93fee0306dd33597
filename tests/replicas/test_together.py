"""Two processes against one. What the one process computes is held to the papers' equations in tests/optimizers."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import replica_cases as cases
import torch

PROGRAM = Path(cases.__file__)
ROOT = PROGRAM.parents[2]
Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each of two processes computed."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [folder / f"{rank}.pt" for rank in range(2)]
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("", "tests/optimizers"))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(port), str(file)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank, file in enumerate(files)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    results = [torch.load(file, weights_only=False) for file in files]
    results[1]["parting"] = files[1].with_suffix(".txt").read_text()
    return results


def assert_close(got: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def assert_same_on_both(results: Results, name: str, *keys: str) -> None:
    for key in keys:
        assert_close(results[0][name][key], results[1][name][key], 0.0)


EVERYWHERE = ("weights", "buffers", "momentum", "losses", "passes", "skipped", "alpha", "probe_losses")


@pytest.mark.parametrize("name", cases.METHODS)
def test_groups_on_two_processes_are_the_groups_of_one(two: Results, name: str) -> None:
    """Weights, momentum, BatchNorm's buffers, loss, counts, and XSAM's one alpha; statistics of a step are sums over the processes."""
    expected = cases.over_groups(name)
    got = f"groups {name}"
    for key in EVERYWHERE:
        assert_close(two[0][got][key], expected[key])
    assert_same_on_both(two, got, *EVERYWHERE)
    for step, stats in enumerate(expected["stats"]):
        for key, value in stats.items():
            parts = [result[got]["stats"][step].get(key, torch.zeros(())) for result in two]
            assert_close(sum(part.double() for part in parts), value.double(), 1e-6)


@pytest.mark.parametrize("name", cases.METHODS)
def test_halves_of_a_batch_with_one_perturbation_are_the_batch(two: Results, name: str) -> None:
    expected = cases.whole_batches(name)
    for key in (*EVERYWHERE, "totals", "stats"):
        assert_close(two[0][f"whole {name}"][key], expected[key])
    assert_same_on_both(two, f"whole {name}", *EVERYWHERE, "totals", "stats")


@pytest.mark.parametrize("name", cases.METHODS)
def test_halves_with_batchnorm_of_their_own_are_two_micro_batches(two: Results, name: str) -> None:
    """Batches of 12 in halves of 6; the last one, of 10, is halved by two processes and cut at 6 by one: compared before it."""
    for got in (two[0][f"normed {name}"], two[1][f"normed {name}"]):
        expected = cases.whole_batches(name, batchnorm=True, micro_batch=6)
        assert_close(got["losses"][:2], expected["losses"][:2])
    assert_same_on_both(two, f"normed {name}", *EVERYWHERE)


def test_micro_batches_within_a_replica_change_nothing_without_batchnorm(two: Results) -> None:
    for key in (*EVERYWHERE, "totals"):
        assert_close(two[0]["micro"][key], cases.whole_batches("sam")[key])


def test_a_step_that_is_infinite_on_one_process_is_skipped_on_both_and_unused_parameters_stay(two: Results) -> None:
    expected = cases.unused_and_non_finite()
    first, second, third = expected["weights"]
    assert expected["skipped"] == 1 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first[2], third[2])  # no weight decay for what no group used
    for result in two:
        assert result["odd"]["skipped"] == 1
        assert_close(result["odd"]["weights"], expected["weights"])


def test_an_ascent_that_is_infinite_on_one_process_is_skipped_on_both(two: Results) -> None:
    expected = cases.infinite_ascent()
    assert expected["bad"] == [False, True, False] and expected["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(*expected["weights"][:2], strict=True))
    for result in two:
        assert result["infinite ascent"]["bad"] == expected["bad"] and result["infinite ascent"]["skipped"] == 1
        assert_close(result["infinite ascent"]["weights"], expected["weights"])


@pytest.mark.parametrize("name", ["groups", "groups, rand_sam", "own perturbations", "together, without BatchNorm", "late"])
def test_a_run_on_two_processes_is_the_run_on_one(two: Results, name: str) -> None:
    """Batches of 40, 40 and 16 digits, two epochs, float32; `perturbation=replica` is m-sharpness with groups of 20."""
    config = cases.configuration(name)
    if name == "own perturbations":
        config = cases.from_dict(cases.TrainConfig, cases.to_dict(config) | {"m": 20})
    with cases.networks("without" in name):
        expected = cases.trained(config)
    for key in ("weights", "buffers"):
        assert_close(two[0][f"trained {name}"][key], expected[key], 2e-4)
    for got, row in zip(two[0][f"trained {name}"]["rows"], expected["rows"], strict=True):
        assert got.keys() == row.keys()
        for key, value in row.items():
            assert got[key] == pytest.approx(value, rel=2e-3, abs=1e-4), key


@pytest.mark.parametrize("name", cases.TRAINERS)
def test_both_processes_hold_the_same_model(two: Results, name: str) -> None:
    assert_same_on_both(two, f"trained {name}", "weights", "buffers")


def test_no_two_processes_drop_the_same(two: Results) -> None:
    seeds = [result["trained dropout"]["seeds"] for result in two]
    assert len(seeds[0]) == len(seeds[1]) == 2 and not seeds[0] & seeds[1]  # one for each epoch
    assert seeds[0] == cases.trained(cases.configuration("dropout"))["seeds"]  # the first draws what one process would


@pytest.mark.parametrize("name", ["groups, rand_sam", "dropout"])
def test_a_run_continued_in_mid_epoch_ends_bitwise_the_same(two: Results, name: str) -> None:
    for result in two:
        for key in ("weights", "buffers", "rows"):
            assert_close(result[f"continued {name}"][key], result[f"trained {name}"][key], 0.0)


def test_a_process_whose_peer_is_gone_is_told_so(two: Results) -> None:
    assert "another process of this run is gone" in two[1]["parting"]  # type: ignore[call-overload]
