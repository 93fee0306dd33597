"""The overview is drawn, at any number of conditions, methods and seeds, and with values that a logarithm cannot show."""

import random
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from data.settings import DatasetConfig
from models.settings import ModelConfig
from sam.optimizers.settings import METHODS as REGISTERED
from sam.optimizers.settings import MultiStepConfig, OptimizerConfig, PerturbingConfig
from sam.registry import Row
from sam.report.chart import MARKERS
from sam.report.looks import COLOURS, ORDER, looks, method_name
from sam.report.overview import overview, sharpness_key
from sam.settings import ProtocolConfig, TrainConfig
from sam.tables.conditions import RunRow, conditions

METHODS = [
    OptimizerConfig.of(method="sgd"),
    OptimizerConfig.of(method="rand_sam"),
    *(OptimizerConfig.of(ascent_steps=n) for n in (1, 2, 3, 5)),
    OptimizerConfig.of(method="xsam"),
]


def made_up(noise: float, optimizers: list[OptimizerConfig], seeds: int, sign: float = 1.0) -> list[RunRow]:
    rows = []
    for i, optimizer in enumerate(optimizers):
        for seed in range(seeds):
            data = DatasetConfig(name="digits", label_noise=noise)
            config = TrainConfig(optimizer, ModelConfig.of(depth=10, width=1), data, protocol=ProtocolConfig("demo"), epochs=5, seed=seed)
            value = random.Random(f"{i}{seed}{noise}").random()
            measures = {"test_accuracy": 95 + value, "gap": 0.1 * value, sharpness_key(0.05): sign * value * 1e-3, sharpness_key(0.5): None}
            epochs = [{"epoch": e, "test_accuracy": 90 + value * e} for e in range(1, 6)]
            lost = seed == 2
            status, when = ("diverged", 3) if lost else ("finished", None)
            rows.append(RunRow(config, f"{optimizer}", status, when, measures, epochs, f"runs/{i}-{seed}", "f", "d", ()))
    return rows


def test_methods_have_a_fixed_order() -> None:
    assert tuple(method_name(o) for o in METHODS) == ORDER
    assert method_name(OptimizerConfig.of(method="xsam", ascent_steps=2)) == "XSAM k=2"


def styles(optimizers: list[OptimizerConfig]) -> dict[str, tuple[int, int, int]]:
    (only,) = conditions(made_up(0, optimizers, 1))
    return {look.row.label: (look.style.colour, look.style.dash, look.style.marker) for look in looks(only)}


def test_methods_that_are_not_known_here_have_looks_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever else is shown with them; those of the known methods stay."""
    before = styles(METHODS)
    assert list(before.values()) == [(i, 0, i) for i in range(7)]
    monkeypatch.setitem(REGISTERED, "zeta", Row("nowhere:Zeta", PerturbingConfig, "Zeta"))
    monkeypatch.setitem(REGISTERED, "beta", Row("nowhere:Beta", MultiStepConfig, "Beta"))
    new = [OptimizerConfig.of(method="beta", ascent_steps=n) for n in (3, 1)]
    new += [OptimizerConfig.of(method="zeta", rho=r) for r in (0.1, 0.05)]
    others = [OptimizerConfig.of(ascent_steps=n) for n in (4, 7)]  # of a known method, grey
    found = styles([*new, *METHODS, *others])
    assert list(found) == [*ORDER, "SAM N=4", "SAM N=7", "Zeta (rho 0.05)", "Zeta (rho 0.1)", "Beta", "Beta N=3"]  # rows in their order
    assert found | before == found and len(set(found.values())) == len(found)
    colours, dashes, markers = zip(*(found[name] for name in ("SGD", "Zeta (rho 0.05)", "Beta")), strict=True)
    assert len(set(colours)) == len(set(dashes)) == 3 and max(colours) < len(COLOURS) and max(markers) < len(MARKERS) == 12
    assert styles(new[:1])["Beta N=3"][0] == found["Beta N=3"][0]
    overview(made_up(0, [*new, *METHODS], 1), [0.05], tmp_path / "a.png")


def test_overview(tmp_path: Path) -> None:
    path = tmp_path / "overview.png"
    sweep = [*METHODS, OptimizerConfig.of(rho=0.2), OptimizerConfig.of(ascent_steps=7)]
    overview(made_up(0, sweep, 3) + made_up(0.2, METHODS[:1], 1), [0.05, 0.5], path)
    head = path.read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:24])
    assert head[1:4] == b"PNG" and width == 3000 and height > 2 * 600


@pytest.mark.parametrize("rhos", [[], [0.05], [0.7]])
def test_overview_without_anything_positive_to_show(tmp_path: Path, rhos: list[float]) -> None:
    overview(made_up(0, METHODS[:2], 1, sign=-1.0), rhos, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_overview_of_runs_whose_test_set_was_seldom_or_never_evaluated_in_training(tmp_path: Path) -> None:
    for kept in ((), (4, 5)):
        rows = [replace(run, epochs=[row for row in run.epochs if row["epoch"] in kept]) for run in made_up(0, METHODS[:2], 2)]
        overview(rows, [0.05], tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 0


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no runs"):
        overview([], [0.05], tmp_path / "a.png")
