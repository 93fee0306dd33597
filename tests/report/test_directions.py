"""Figures of the notion `direction`: one panel a rho, the exact quadratic drawn in; and several maps as one figure."""

from dataclasses import replace

import pytest
from made_up import runs
from matplotlib.axes import Axes

from sam.report import planes, sheets
from sam.report.directions import curves, directions
from sam.report.looks import looks
from sam.report.panels import Axis, Panel, panel_csv
from sam.tables.conditions import conditions


def measured(lift: float, k: int = 1) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for reach in (2.0, 0.5, 1.0):  # in any order
        where = f"rho=0.1,reach={reach:g},k={k}]"
        found |= {f"direction_wins[{where}": float(reach > 0.5), f"direction_alpha[{where}": lift * reach}
        found |= {f"direction_share[v={v},{where}": lift / (1 + reach) for v in ("g0", f"g{k}", "arc", "plane", "random")}
        found |= {f"direction_share_stderr[v=g0,{where}": 0.01, f"direction_cosine[v=g0,{where}": 0.5}
    return found


def test_names_become_curves_over_the_radius() -> None:
    found = curves(measured(1.0, k=3) | {"sharpness[rho=0.1,bn=eval,batch=all]": 1.0})
    assert found["alpha", "", "0.1", 3, ""] == ((0.5, 1.0, 2.0), (0.5, 1.0, 2.0))
    assert found["share", "gk", "0.1", 3, ""] == ((0.5, 1.0, 2.0), (1 / 1.5, 1 / 2, 1 / 3))


@pytest.mark.parametrize("k", [1, 2])
def test_panels_hold_the_methods_and_the_exact_quadratic(k: int) -> None:
    condition = next(c for c in conditions(runs()) if len(looks(c)) > 1)
    made = replace(condition, runs=tuple(replace(run, measures=dict(run.measures) | measured(0.5, k)) for run in condition.runs))
    of = [look for look in looks(made) if look.row.finished]
    wins, alpha, *shares = directions(made, of)
    labels = [one.style.label for one in alpha.series]
    assert labels == [*(look.style.label for look in of), "exact quadratic, ρ → 0"]
    assert list(alpha.series[-1].y) == ([0.5, 1, 2] if k == 1 else [pytest.approx(x) for x in (1 / 3, 1.0, 7 / 3)])
    assert ("exact quadratic, ρ → 0" in [one.style.label for one in wins.series]) == (k == 1)  # the threshold is of one step
    assert k > 1 or (wins.series[-1].x, wins.series[-1].y) == ([0.0, 0.5, 0.5, 2.0], [0.0, 0.0, 1.0, 1.0])
    assert list(alpha.series[0].y) == [pytest.approx(x) for x in (0.25, 0.5, 1.0)]
    assert len(shares) == len(of) and all(len(panel.series) == 5 for panel in shares)
    assert directions(condition, looks(condition)) == []  # nothing was measured


def test_maps_side_by_side_are_one_figure() -> None:
    axis = [-1.0, 0.0, 1.0]
    plane = {"x": axis * 3, "y": [y for y in axis for _ in axis], "loss": [1.0 + k for k in range(9)]}
    arc = {"x": [1.0, 0.9, 0.7, 0.5], "y": [0.0, 0.3, 0.6, 0.9], "loss": [1.0] * 4}
    marks = {"x": [0.0, 0.5, 0.7], "y": [0.0, 0.0, 0.6], "loss": [1.0] * 3}
    series = {"plane_xsam[rho=0.5]": plane, "arc_xsam[rho=0.5]": arc, "marks_xsam[rho=0.5]": marks}
    one = planes.plane_of(series, "plane_xsam[rho=0.5]")
    panel = Panel("name", "title", "words", Axis("x"), Axis("y"), one, Axis("Loss", log=True, low=1.0, high=9.0))
    for form, start in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        picture = sheets.sheet([panel, panel, panel], ["SAM", "N = 5 <&>", "$x$"], form)
        assert picture.startswith(start) and picture == sheets.sheet([panel, panel, panel], ["SAM", "N = 5 <&>", "$x$"], form)
    assert panel_csv(panel).count("\n") == 1 + 9 + 4 + 3


def test_each_share_has_the_name_of_its_direction() -> None:
    condition = next(c for c in conditions(runs()) if len(looks(c)) > 1)
    found = {f"direction_share[v={v},rho=0.1,reach=1,k=1]": i / 8 for i, v in enumerate(("g0", "g1", "arc", "plane", "random"))}
    made = replace(condition, runs=tuple(replace(run, measures=found) for run in condition.runs))
    panel, *_ = directions(made, [look for look in looks(made) if look.row.finished])
    names = ("g_0, at w", "g_k, at the ascent point", "XSAM's arc (α*)", "the plane's best", "random")
    assert {one.style.label: list(one.y) for one in panel.series} == {name: [i / 8] for i, name in enumerate(names)}


def test_train_mode_batchnorm_has_curves_of_its_own() -> None:
    found = curves(measured(0.5) | {name.replace("]", ",bn=train]"): value for name, value in measured(1.0).items()})
    assert [found["alpha", "", "0.1", 1, said][1] for said in ("", ",bn=train")] == [(0.25, 0.5, 1.0), (0.5, 1.0, 2.0)]


def test_each_map_stands_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[Axes, Panel]] = []
    monkeypatch.setattr(sheets, "plot", lambda *drawn: met.append(drawn))
    maps = [Panel(name, "t", "w", Axis("x"), Axis("y"), [], Axis("Loss", low=1.0, high=9.0)) for name in "abc"]
    sheets.sheet(maps, ["A", "B", "C"], "png")
    in_order = sorted(met, key=lambda drawn: drawn[0].get_position().x0)
    assert [(axes.get_title(), panel.name) for axes, panel in in_order] == [("A", "a"), ("B", "b"), ("C", "c")]
