"""What is called exact is: eigenvalues and cosines against a dense Hessian; contrasts of made-up walks; experiments as documents."""

import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

import data
from sam.schema import from_dict
from sam.theory import figures
from sam.theory.network import Regression, branch, sam_edge, shift, starting_point
from sam.theory.settings import NetworkConfig, TheoryConfig
from sam.theory.toys import cycle

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {"wen_toy": TheoryConfig, "wen_network": NetworkConfig}
SMALL = {"samples": 6, "hidden": 4, "inputs": "gaussian"}


def network(**keys: object) -> NetworkConfig:
    return from_dict(NetworkConfig, {"arms": {"GD": {}}, **SMALL, **keys})


def whole(task: Regression, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Dense Hessian and gradient of the loss written anew, by automatic differentiation: the oracle."""
    shapes = [w.shape for w in weights]

    def loss(flat: Tensor) -> Tensor:
        w, b, a, c = (piece.view(shape) for piece, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True))
        return ((torch.tanh(task.inputs @ w.T + b) @ a + c - task.targets) ** 2).sum() / (2 * len(task.targets))

    at = torch.cat([w.detach().flatten() for w in weights])
    return torch.func.hessian(loss)(at), torch.func.grad(loss)(at)


@pytest.mark.parametrize("inputs", ["gaussian", "digits"])
def test_at_an_interpolating_point_eigenvalues_and_cosines_are_the_hessians(inputs: str) -> None:
    config = network(inputs=inputs, kick=1e-6)
    task, weights = starting_point(config, 3)
    found, (hessian, gradient) = task.measure(weights), whole(task, weights)
    values, rows = torch.linalg.eigh(hessian)
    assert set(task.targets.tolist()) <= {-1.0, 1.0} and found["loss"] < 1e-10
    assert (found["top"], found["second"]) == pytest.approx((values[-1].item(), values[-2].item()), rel=1e-5)
    assert (found["smallest"], found["trace"]) == pytest.approx((values[-6].item(), values.sum().item()), rel=1e-4)
    cosines = (rows.T @ gradient).abs() / gradient.norm()
    assert (found["cosine"], found["cosine_smallest"]) == pytest.approx((cosines[-1].item(), cosines[-6].item()), rel=1e-3)
    assert found["grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-6)


def test_near_the_top_counts_what_is_within_a_tenth_of_it() -> None:
    config = network()
    task, weights = starting_point(config, 0)
    found = task.measure(weights)
    assert found["near_top"] >= found["cosine"]
    assert (found["near_top"] == pytest.approx(found["cosine"])) == (found["second"] < 0.9 * found["top"])
    task = Regression(torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([1.0, -1.0]).double())  # eigenvalues 101 and 100
    found = task.measure([w.double() for w in (torch.zeros(1, 1), torch.zeros(1), torch.full((1,), 10.0), torch.full((1,), 0.5))])
    assert found["near_top"] == pytest.approx(1) and found["cosine"] == pytest.approx((101 / 501) ** 0.5)


def test_the_loss_of_a_sample_and_of_all() -> None:
    task, weights = starting_point(network(kick=0.5), 0)
    singles = [task.loss(weights, torch.tensor([k])).item() for k in range(6)]
    assert task.loss(weights).item() == pytest.approx(sum(singles) / 6) == pytest.approx(task.measure(weights)["loss"])


def test_digits_are_centred_of_norm_one_and_odd_or_even_by_their_own_label() -> None:
    digits = data.load(name="digits")
    images = digits.train_images.double().flatten(1)
    task, _ = starting_point(network(inputs="digits"), 0)
    nearest = (task.inputs @ torch.nn.functional.normalize(images - images.mean(0)).T).max(1)
    assert nearest.values.tolist() == pytest.approx([1] * 6)
    assert task.targets.tolist() == [1.0 if label % 2 else -1.0 for label in digits.train_labels[nearest.indices].tolist()]


def test_the_start_is_a_kick_off_the_interpolating_point() -> None:
    at, off = (torch.cat([w.detach().flatten() for w in starting_point(network(kick=kick), 0)[1]]) for kick in (1e-300, 0.3))
    assert (off - at).norm().item() == pytest.approx(0.3)


def test_a_batch_of_one_may_be_any_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, loss = set(), Regression.loss
    monkeypatch.setattr(Regression, "loss", lambda self, w, chosen: (drawn.add(int(chosen)), loss(self, w, chosen))[1])
    branch(network(arms={"SGD, batch 1": {"batch": 1}}, part=0.1), "SGD, batch 1", 0)
    assert drawn == set(range(6))


def test_arms_start_at_one_point_and_starting_points_differ() -> None:
    config = network(arms={"GD": {}, "SAM": {"method": "sam", "rho": 0.1}}, part=0.01, records=2)
    one, other = branch(config, "GD", 0), branch(config, "SAM", 0)
    assert one[0] == other[0] and one[-1] != other[-1] and branch(config, "SAM", 1)[0] != other[0]
    assert [row["step"] for row in one] == [0, 5, 10]


def test_where_nothing_interpolates_it_is_said() -> None:
    task = Regression(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64))  # one input, two targets
    weights = [torch.ones(2, 3), torch.ones(2), torch.ones(2), torch.ones(1)]
    with pytest.raises((ValueError, torch.linalg.LinAlgError)):
        task.interpolate([w.double() for w in weights])


def test_shift_goes_along_a_flat_direction() -> None:
    weights = [torch.zeros(2, 2), torch.zeros(3)]
    shift(weights, torch.arange(7.0), 2.0)
    assert weights[0].tolist() == [[0, 2], [4, 6]] and weights[1].tolist() == [8, 10, 12]


def test_the_sam_edge_is_where_a_step_along_the_top_turns_the_gradient_round() -> None:
    for norm, lr, rho in ((0.3, 0.1, 0.05), (1e-3, 0.05, 0.2)):
        edge = sam_edge(norm, lr, rho)
        assert lr * edge * (1 + rho * edge / norm) == pytest.approx(2)
    assert sam_edge(1.0, 0.1, 1e-9) == pytest.approx(20, rel=1e-6) and sam_edge(1.0, 0.1, 0.0) == 20
    radius, _ = cycle(0.1, 0.05, 1, False, steps=300)
    assert sam_edge(5 * radius, 0.1, 0.05) == pytest.approx(5, rel=1e-6)  # on the quadratic's cycle it is λ1 itself


def made_up(top: float, trace: float, cosine: float, start: int) -> list[dict[str, float]]:
    """A walk whose eigenvalues end at these multiples of their start."""
    fixed = {"second": 1.0, "near_top": cosine, "cosine_smallest": 0.1, "random_level": 0.3, "grad_norm": 1.0, "loss": 0.1}
    row = lambda step, a, b: {"step": step, "top": 2.0 * a, "trace": 5.0 * b, "smallest": 0.1 * b, "cosine": cosine, **fixed}
    return [row(0.0, 1.0, 1.0), row(1.0, top * (1 + 0.01 * start), trace)]


def test_contrasts_are_paired_over_the_starting_points() -> None:
    arms = {
        "GD": (1.0, 1.0, 0.2),
        "SAM": (0.5, 0.9, 0.8),
        "SAM, batch 1": (0.5, 0.6, 0.5),
        "SGD, batch 1": (1, 1, 0.1),
        "GD on L^Asc": (1, 0.7, 0.1),
    }
    walks = {(arm, start): made_up(*values, start) for arm, values in arms.items() for start in range(3)}
    rows = {(row["claim"], row["effect"]): row for row in figures.contrasts(walks)}
    fall, aligned, interaction = rows["8", "Δ log λ1"], rows["8", "mean |cos| with the top eigenvector"], rows["9", "Δ log Tr - Δ log λ1"]
    assert fall["mean"] == pytest.approx(math.log(0.5)) and fall["n"] == 3 and aligned["mean"] == pytest.approx(0.6)
    assert interaction["mean"] == pytest.approx(math.log(0.6 / 0.9)) and rows["10", "Δ log λ_M"]["mean"] == pytest.approx(math.log(0.7))


def test_an_end_is_the_mean_of_the_last_tenth_and_a_cosine_that_of_the_way() -> None:
    fixed = {"trace": 1.0, "near_top": 1.0, "cosine_smallest": 1.0, "random_level": 0.3, "loss": 0.1}
    rows = [fixed | {"top": math.exp(i), "smallest": math.exp(-i), "cosine": float(i > 0)} for i in range(21)]
    (found,) = figures.effects({("SAM", 0): rows})
    assert (found["top"], found["smallest"], found["cosine"]) == pytest.approx((19.5, -19.5, 1))


def test_the_panels_of_a_network_hold_its_walks() -> None:
    arms = {"SAM": (0.5, 0.9, 0.8), "GD": (1.0, 1.0, 0.2)}
    walks = {(arm, start): made_up(*values, 0) for arm, values in arms.items() for start in range(2)}
    config = network(arms={"GD": {}, "SAM": {"method": "sam", "lr": 0.1, "rho": 0.05}})
    drawn = {panel.title: panel.series for panel in figures.of_network(config, walks)}
    sam, gd = drawn["λ1 relative to the starting point"]
    assert (sam.style.label, list(sam.x), list(sam.y), list(gd.y)) == ("SAM", [0, 1], [1, 0.5], [1, 1])
    top, edge = drawn["λ1 under SAM beside the SAM edge of stability"]
    assert (list(top.y), list(edge.y)) == ([2, 1], [sam_edge(1.0, 0.1, 0.05)] * 2)
    _, fall, _ = drawn["Contrasts between methods"][:3]
    assert (fall.style.label, fall.x[0], fall.y) == ("SAM", pytest.approx(math.log(0.5)), [0])


def test_the_panels_of_the_toy_hold_its_path_and_smooth_what_jumps() -> None:
    rows = [{"step": float(i), "x1": 0.1 * i, "x2": 0.5, "cos_top": float(i), "cos_smallest": 0.0} for i in range(3)]
    path, top, smallest = (panel.series[0] for panel in figures.of_toy({("SAM", 0): rows}))
    assert (path.x, path.y) == ([0.0, 0.1, 0.2], [0.5] * 3)
    assert (top.x, top.y, smallest.y) == ([0, 0.5, 1], [1] * 3, [0] * 3)
    assert figures.smooth([float(i * i) for i in range(5)], 3) == pytest.approx([0.5, 5 / 3, 14 / 3, 29 / 3, 12.5])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_experiment_is_a_document(name: str) -> None:
    text = (ROOT / "conf/theory" / f"{name}.yaml").read_text(encoding="utf-8")
    assert all(f"# {word}:" in text for word in ("Claim", "Source", "Command", "Cost", "Confirms", "Refutes"))
    config = from_dict(DOCUMENTS[name], yaml.safe_load(text))
    assert f"experiment={name}" in text and set(config.arms) <= set(figures.LOOKS)
    times = {f"{arm.lr * arm.rho**2 * arm.steps:.4g}" for arm in config.arms.values() if arm.rho}
    if said := re.search(r"theory's flow, is (\S+) where", text):
        assert times == {said[1]}
