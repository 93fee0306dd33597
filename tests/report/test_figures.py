"""Figures as data against what they are made of, and as pictures: in words, deterministic, drawn once, without style in the page."""

import csv
import dataclasses
import io
import itertools
import math
import random
import re
import statistics
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import made_up
import numpy as np
import pytest
from matplotlib.figure import Figure

from data.settings import DatasetConfig
from models.settings import ModelConfig
from sam.optimizers.settings import METHODS as REGISTERED
from sam.optimizers.settings import MultiStepConfig, OptimizerConfig, PerturbingConfig
from sam.registry import Row
from sam.report import drawing, figures
from sam.report.looks import COLOURS, LINES, MARKERS, ORDER, Style, looks, method_name
from sam.report.panels import Axis, Panel, Series, averaged, counts, in_words, panel_csv, stem
from sam.report.planes import landscapes, plane_of
from sam.settings import ProtocolConfig, TrainConfig
from sam.tables.conditions import Condition, RunRow, conditions
from sam.tables.statistics import paired_difference

SHARPNESS = "sharpness[rho={},bn=eval,batch=all]"

METHODS = [
    OptimizerConfig.of(method="sgd"),
    OptimizerConfig.of(method="rand_sam"),
    *(OptimizerConfig.of(ascent_steps=n) for n in (1, 2, 3, 5)),
    OptimizerConfig.of(method="xsam"),
]


def runs_of(noise: float, optimizers: list[OptimizerConfig], seeds: int, sign: float = 1.0) -> list[RunRow]:
    rows = []
    for i, optimizer in enumerate(optimizers):
        for seed in range(seeds):
            data = DatasetConfig(name="digits", label_noise=noise)
            config = TrainConfig(optimizer, ModelConfig.of(depth=10, width=1), data, protocol=ProtocolConfig("demo"), epochs=5, seed=seed)
            value = random.Random(f"{i}{seed}{noise}").random()
            measures = {
                "test_accuracy": 95 + value,
                "gap": 0.1 * value,
                SHARPNESS.format(0.05): sign * value * 1e-3,
                SHARPNESS.format(0.5): None,
            }
            epochs = [{"epoch": e, "test_accuracy": 90 + value * e} for e in range(1, 6)]
            lost = seed == 2
            status, when = ("diverged", 3) if lost else ("finished", None)
            rows.append(RunRow(config, f"{optimizer}", status, when, measures, epochs, f"runs/{i}-{seed}", "f", "d", ()))
    return rows


def test_methods_have_a_fixed_order() -> None:
    assert tuple(method_name(o) for o in METHODS) == ORDER
    assert method_name(OptimizerConfig.of(method="xsam", ascent_steps=2)) == "XSAM k=2"


def styles(optimizers: list[OptimizerConfig]) -> dict[str, tuple[int, int, int]]:
    (only,) = conditions(runs_of(0, optimizers, 1))
    return {look.row.label: (look.style.colour, look.style.dash, look.style.marker) for look in looks(only)}


def test_methods_that_are_not_known_here_have_looks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
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
    for panel in panels_of(runs_of(0, [*new, *METHODS], 2)):
        assert drawing.draw(panel, "svg")


def one(rows: list[RunRow]) -> Condition:
    (condition,) = conditions(rows)
    return condition


def by_title(panels: list[Panel], words: str) -> Panel:
    (found,) = [panel for panel in panels if words in panel.title]
    return found


def panels_of(rows: list[RunRow], kept: figures.Kept | None = None) -> list[Panel]:
    return list(figures.every(figures.gallery(rows, kept or {})))


# ---------------------------------------------------------------------------------------------------------------- panel data


def test_differences_are_the_paired_ones_with_their_interval() -> None:
    rows = runs_of(0, METHODS, 5)
    panel = by_title(panels_of(rows), "Difference in test accuracy")
    accuracy = {(method_name(r.config.optimizer), r.config.seed): r.measures["test_accuracy"] for r in rows if r.is_finished}
    dots = [series for series in panel.series if series.kind == "whiskers"]
    assert [series.style.label for series in dots] == list(panel.y.names) == list(ORDER[1:])
    for i, series in enumerate(dots):
        own, base = ({seed: v for (name, seed), v in accuracy.items() if name == wanted} for wanted in (series.style.label, "SGD"))
        d = paired_difference(own, base)
        assert (list(series.x), list(series.y), list(series.low), list(series.high)) == ([d.mean], [i], [d.ci_low], [d.ci_high])


def sweep(seeds: int) -> list[RunRow]:
    """SGD, and SAM at four radii whose accuracy is 90 + 10 rho + seed / 10."""
    rows = [made_up.run(OptimizerConfig.of(method="sgd"), seed, 90.0 + seed / 10) for seed in range(seeds)]
    return rows + [made_up.run(OptimizerConfig.of(rho=r), s, 90 + 10 * r + s / 10) for r in (0.02, 0.1, 0.2, 0.5) for s in range(seeds)]


@pytest.mark.parametrize("seeds", [2, 5])
def test_a_sweep_has_a_line_a_method_bands_or_single_seeds_a_level_and_the_papers_radius(seeds: int) -> None:
    rows = sweep(seeds)
    panel = by_title(panels_of(rows), "Test accuracy over the ρ of training")
    by_kind = {series.kind: series for series in panel.series}
    line, level = by_kind["line" if seeds >= 5 else "thin"], by_kind["level"]
    assert panel.x.log and list(line.x) == [0.02, 0.1, 0.2, 0.5]
    assert line.y == pytest.approx([90 + 10 * rho + (seeds - 1) / 20 for rho in line.x])
    values, seed_values = [90 + s / 10 for s in range(seeds)], [s / 10 for s in range(seeds)]
    deviation = statistics.stdev(seed_values)
    if seeds >= 5:
        assert "points" not in by_kind and list(line.low) == pytest.approx([y - deviation for y in line.y if y is not None])
        assert (level.low[0], level.high[0]) == pytest.approx((statistics.mean(values) - deviation, statistics.mean(values) + deviation))
    else:
        assert len(by_kind["points"].x) == 4 * seeds and not line.low
        assert (level.low[0], level.high[0]) == (min(values), max(values))
    assert list(level.y) == pytest.approx([statistics.mean(values)]) and list(by_kind["mark"].x) == [0.05]
    assert {"Training loss L(w) over the ρ of training", "Sharpness, ρ 0.05 over the ρ of training"} <= {p.title for p in panels_of(rows)}


@pytest.mark.parametrize("measure", ["test_accuracy", "val_accuracy[bn=recalibrated]"])
def test_a_sweep_shows_differences_from_sgd_over_common_seeds(measure: str) -> None:
    rows = [replace(row, measures={**row.measures, measure: row.measures["test_accuracy"]}) for row in sweep(2)]
    rows = [row for row in rows if (row.config.optimizer.method, row.config.seed) != ("sgd", 1)]  # seed 1 has no partner
    rows += [replace(made_up.run(OptimizerConfig.of(rho=0.9), 0, 40.0), measures={measure: 40.0})]
    panel = by_title(panels_of(rows), "minus SGD's over the ρ of training")
    level, line, points = panel.series[:3]
    assert (
        panel.y.label == f"{'Validation accuracy, BatchNorm recalibrated' if 'val' in measure else 'Test accuracy'} minus SGD's (points)"
        and panel.y.low == -10
    )
    assert (level.kind, list(level.y)) == ("level", [0.0]) and list(line.x) == [0.02, 0.1, 0.2, 0.5, 0.9]
    assert line.y == pytest.approx([10 * 0.02, 1.0, 2.0, 5.0, -50.0]) and points.n == 1  # seed that both have
    alone = [row for row in rows if row.config.optimizer.method != "sgd"]
    assert not any("minus" in panel.title for panel in panels_of(alone))


def test_conditions_whose_names_are_the_same_once_cut_are_named_by_what_differs() -> None:
    rows = [
        replace(
            row,
            config=replace(
                row.config, optimizer=replace(row.config.optimizer, lr=lr), protocol=replace(row.config.protocol, name=58 * "x")
            ),
        )
        for lr in (0.1, 0.2)
        for row in sweep(2)
    ]
    names = [panel.name for panel in figures.every(figures.gallery(rows, {}))]
    assert len(set(names)) == len(names) and {name.partition("-test")[0] for name in names if "test-accuracy-over" in name} == {
        "optimizer.lr-0.1",
        "optimizer.lr-0.2",
    }


def test_the_papers_radius_is_marked_only_where_it_is_in_range() -> None:
    rows = [row for row in sweep(2) if getattr(row.config.optimizer, "rho", 1) > 0.02]
    assert all(series.kind != "mark" for series in by_title(panels_of(rows), "Test accuracy over the ρ").series)


def test_the_number_of_steps_is_swept_where_no_radius_is() -> None:
    rows = [made_up.run(OptimizerConfig.of(ascent_steps=n), s, 90.0 + n) for n in (1, 2, 5) for s in range(2)]
    condition = one(rows)
    assert figures.swept_key(condition) == "ascent_steps"
    panel = by_title(panels_of(rows), "Test accuracy over the number of ascent steps")
    assert [(s.kind, s.style.label) for s in panel.series] == [("thin", "SAM"), ("points", "SAM")] and panel.series[1].n == 2  # seeds
    assert list(panel.series[0].x) == [1, 2, 5] and list(panel.series[0].y) == [91, 92, 95]


def test_a_mean_is_of_finite_values_and_says_how_many_were_not() -> None:
    curve = averaged(Style("a"), [([1, 2], [1.0, None]), ([1, 2], [3.0, 5.0]), ([1, 2], [float("inf"), None])])
    assert (list(curve.x), list(curve.y), curve.n, curve.lost) == ([1, 2], [2.0, 5.0], 2, 3)
    assert list(curve.low) == [pytest.approx(2 - 2**0.5), None] and list(curve.high) == [pytest.approx(2 + 2**0.5), None]


def test_no_band_falls_to_zero_on_a_logarithmic_axis() -> None:
    """Mean and deviation are of the logarithms there: 1 and 100 have the mean 10, whose band ends above 0."""
    curve = averaged(Style("a"), [([1], [1.0]), ([1], [100.0])], log=True)
    factor = math.exp(statistics.stdev([0, math.log(100)]))
    assert (curve.y[0], curve.low[0], curve.high[0]) == pytest.approx((10, 10 / factor, 10 * factor))
    for panel in panels_of(made_up.runs() + sweep(5)[5:]):
        if panel.y.log:
            assert all(v is None or v > 0 for series in panel.series for v in (*series.low, *series.high))


def test_in_a_crowd_each_method_is_shown_at_the_setting_that_validation_picks() -> None:
    rows = [made_up.run(OptimizerConfig.of(rho=0.01 * r), s, 90.0 + r) for r in range(1, 10) for s in range(2)]
    validated = [replace(r, measures={**r.measures, "val_accuracy": -(r.config.optimizer.rho)}) for r in rows]  # type: ignore[attr-defined]
    for given, picked, words in ((rows, "SAM N=1 (rho 0.09)", "test accuracy"), (validated, "SAM N=1 (rho 0.01)", "validation accuracy")):
        of, note = figures.shown(one(given))
        assert [look.style.label for look in of] == [picked] and words in note


def test_kept_checkpoints_have_curves() -> None:
    rows = made_up.runs()[:2]
    measures = {"eigenvalue[k=1,subset=64]": 3.0, "trace[subset=64]": 9.0, "cos_gradient_top[subset=64]": 0.5, "train_loss": 1.0}
    kept = {r.folder: {e: {**measures, SHARPNESS.format(0.05): 1 + 0.1 * e + r.config.seed} for e in (1, 4, 12)} for r in rows}
    titles = {panel.title: panel for panel in panels_of(rows, kept)}
    sharpness = titles["Sharpness, ρ 0.05 over kept checkpoints"].series[0]
    assert list(sharpness.x) == [1, 4, 12] and list(sharpness.y) == pytest.approx([1.6, 1.9, 2.7])
    assert {"λ1 of the Hessian, 64 images over kept checkpoints", "Trace, 64 images over kept checkpoints"} <= set(titles)
    way = titles["Sharpness against L(w) over training, a line a run"]
    assert [(list(s.x), len(s.y)) for s in way.series] == [([1.0] * 3, 3)] * 2
    del kept[rows[0].folder][4]["train_loss"]
    way = next(panel for panel in panels_of(rows, kept) if panel.title.startswith("Sharpness against"))
    assert [(len(s.x), len(s.y)) for s in way.series] == [(2, 2), (3, 3)]
    for of in kept.values():  # losses were not measured there
        for measured in of.values():
            measured.pop("train_loss", None)
    assert not any(panel.title.startswith("Sharpness against") for panel in panels_of(rows, kept))
    assert not any("kept" in panel.title for panel in panels_of(rows))


def test_spectra_are_small_multiples_with_common_axes_and_no_band() -> None:
    panels = [panel for panel in panels_of(made_up.runs()) if panel.title.startswith("Spectral density")]
    assert len(panels) == 4 and len({(panel.x, panel.y) for panel in panels}) == 1 and panels[0].y.log
    assert all(series.kind == "thin" and not series.low for panel in panels for series in panel.series)


def test_a_plane_is_a_full_grid_with_its_marks_in_their_places() -> None:
    series = made_up.runs()[0].series
    surface, arc, marks = plane_of(series, "plane_xsam[rho=0.05,subset=512]")
    assert (surface.kind, arc.kind, marks.kind) == ("surface", "thin", "named")
    assert sorted(set(surface.x)) == sorted(set(surface.y)) == made_up.GRID  # type: ignore[type-var]
    assert dict(zip(zip(surface.x, surface.y, strict=True), surface.z, strict=True))[1.0, 1.0] is None
    assert list(zip(marks.names, marks.x, strict=True)) == [("w", 0.0), ("ascent point", None), ("α*", 0.5)]
    assert plane_of(series, "arc_xsam[rho=0.05,subset=512]") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("line_n_step[rho=0.05,subset=128]", "along the N-step perturbation, ρ 0.05, 128 images"),
        ("n_step[rho=0.05,n=3,subset=1024]", "3-step ascent, ρ 0.05, 1,024 images"),
        (SHARPNESS.format(0.5), "sharpness, ρ 0.5"),
        ("sharpness[rho=0.05,bn=train,batch=m]", "sharpness, ρ 0.05, train-mode BatchNorm, batches of m"),
        ("eigenvalue[k=1,subset=256]", "λ1 of the Hessian, 256 images"),
        ("a_new_measure[kind=x_y]", "a new measure, kind x y"),
        ("plain", "plain"),
        ("a[b", "a, "),
    ],
)
def test_names_in_words(name: str, words: str) -> None:
    assert in_words(name) == words.removesuffix(", ")


def test_titles_and_axes_are_in_words() -> None:
    for panel in panels_of(made_up.runs()):
        for words in (panel.title, panel.x.label, panel.y.label):
            assert not re.search(r"[\[\]]|\w_\w", words), words


# ------------------------------------------------------------------------------------------------------------------ pictures

POINTS = Series(Style("a", 1), "points", [1.0, 2.0], [3.0, None], names=["one <b>", "two"], links=["#run-1", "#run-2"])
LINE = Series(Style("SAM N=1, x", 2), "line", [1.0, 2.0], [1.0, 0.1], [0.5, None], [1.5, None], n=3)
PANEL = Panel("n", "T & t", "words", Axis("X"), Axis("Y (nats)"), [POINTS, LINE, Series(Style(""), "mark", [1.5], [None])])


def test_the_csv_holds_every_number() -> None:
    assert panel_csv(PANEL) == (
        "series,kind,n,X,Y (nats),low,high,name\n"
        "a,points,1,1.0,3.0,,,one <b>\na,points,1,2.0,,,,two\n"
        '"SAM N=1, x",line,3,1.0,1.0,0.5,1.5,\n"SAM N=1, x",line,3,2.0,0.1,,,\n'
        ",mark,1,1.5,,,,\n"
    )
    plane = by_title(panels_of(made_up.runs()), "XSAM's search, ρ 0.05, 512 images, SGD")
    rows = list(csv.DictReader(io.StringIO(panel_csv(plane))))
    assert [row["Loss"] for row in rows[:25]] == ["" if v is None else repr(v) for v in plane.series[0].z]


def test_the_page_s_svg_has_no_style_prefixed_ids_and_links_with_titles() -> None:
    for panel in panels_of(made_up.runs()):
        source = drawing.svg(panel, "fig-1")
        root = ElementTree.fromstring(source)
        nodes = list(root.iter())
        assert not any(node.tag in ("style", "metadata", "script", "image") for node in nodes)
        assert not any(key == "style" or key.startswith(("on", "{")) for node in nodes for key in node.attrib)
        ids = [node.attrib["id"] for node in nodes if "id" in node.attrib]
        assert len(ids) == len(set(ids)) and all(name.startswith("fig-1-") for name in ids)
        used = set(re.findall(r"url\(#([^)]*)\)", source)) | {node.attrib["href"][1:] for node in nodes if node.tag == "use"}
        assert used == set(ids)
        assert root.attrib["role"] in ("img", "group") and [node.tag for node in root[:2]] == ["title", "desc"]
        colours = {v for node in nodes for k, v in node.attrib.items() if k in ("fill", "stroke")} - {"none"}
        if panel.z is None:
            assert all(re.fullmatch(r"var\(--(c\d+|text|soft|grid|page)\)", colour) for colour in colours), colours


def test_every_colour_is_one_that_the_theme_can_change() -> None:
    """matplotlib leaves out the fill of pure black."""
    for i in range(len(COLOURS)):
        drawn = [Series(Style("a", i), "points", [1.0], [1.0]), Series(Style("a", i), "level", [None], [1.0], [0.5], [2.0])]
        source = drawing.svg(Panel("n", "t", "w", Axis("X"), Axis("Y"), drawn), "a")
        assert source.count(f'fill="var(--c{i})"') >= 2 and f'stroke="var(--c{i})"' in source


def test_points_lead_to_their_runs() -> None:
    root = ElementTree.fromstring(drawing.svg(PANEL, "a"))
    links = {node.attrib["href"]: node[0].text for node in root.iter("a")}
    assert links == {"#run-1": "one <b>"}  # the other one has no place
    rows = made_up.runs()
    anchors = {row.folder: f"run-{i}" for i, row in enumerate(rows)}
    drawn = [panel for _, own, *_ in figures.sections(one(rows), anchors, {}) for panel in own]
    scatter = next(panel for panel in drawn if panel.title == "Sharpness, ρ 0.05, against the generalisation gap")
    assert {link for s in scatter.series for link in s.links} == {f"#{anchors[row.folder]}" for row in rows if row.is_finished}


@pytest.mark.parametrize("form", ["svg", "pdf", "png"])
def test_the_same_panel_gives_the_same_bytes_whatever_was_drawn_before(form: str) -> None:
    first = drawing.draw(PANEL, form)
    for panel in panels_of(made_up.runs()):
        drawing.draw(panel, form)
    assert drawing.draw(PANEL, form) == first
    assert not re.search(rb"20\d\d-\d\d-\d\d|CreationDate|ModDate", first)


def test_a_paper_s_column() -> None:
    pdf, png = drawing.draw(PANEL, "pdf"), drawing.draw(PANEL, "png")
    width, _ = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)[0]
    assert float(width) == 3.25 * 72 and b"/Type3" not in pdf
    assert int.from_bytes(png[16:20], "big") == 650


def test_a_picture_is_drawn_again_only_if_its_csv_or_its_look_changed(tmp_path: Path) -> None:
    def write(panels: list[Panel]) -> set[str]:
        found = dict(drawing.files(panels, tmp_path))
        for name, content in found.items():
            if content is None:
                (tmp_path / name).unlink()
            else:
                (tmp_path / name).write_bytes(content)
        return set(found)

    three = {"n.csv", "n.pdf", "n.png"}
    (tmp_path / "mine.png").write_bytes(b"a picture of the user's")
    assert write([PANEL]) == three and (tmp_path / "n.csv").read_text() == panel_csv(PANEL)
    assert write([PANEL]) == write([replace(PANEL, words="others")]) == set()
    assert write([replace(PANEL, series=PANEL.series[:1])]) == three and write([PANEL]) == three
    assert write([replace(PANEL, y=Axis("Y (nats)", log=True))]) == three and write([PANEL]) == three
    (tmp_path / "n.pdf").unlink()
    assert write([PANEL]) == three
    assert write([PANEL, PANEL]) == {"n-2.csv", "n-2.pdf", "n-2.png"}
    assert write([]) == three | {"n-2.csv", "n-2.pdf", "n-2.png"} and [p.name for p in tmp_path.iterdir()] == ["mine.png"]


def test_stems_are_plain() -> None:
    assert stem("digits demo, label_noise=0.2", "Sharpness over ρ") == "digits-demo-label-noise-0.2-sharpness-over-rho"
    assert stem("../../x", "模型") == "x" and stem("模型") == "figure"


def test_brighter_means_larger() -> None:
    """The colours of a surface rise evenly in lightness, which stays legible to colour-blind readers and in grey."""
    panel = next(panel for panel in panels_of(made_up.runs()) if panel.z)
    bar = re.findall(r'fill="#(\w{6})"', drawing.svg(panel, "a"))[-drawing.LEVELS + 1 :]
    light = [sum(w * int(c[i : i + 2], 16) for w, i in ((0.21, 0), (0.72, 2), (0.07, 4))) for c in bar]
    assert len(light) == drawing.LEVELS - 1 and all(a < b for a, b in itertools.pairwise(light))


@pytest.mark.parametrize("kept", [(), (4, 5)])
def test_runs_that_were_seldom_or_never_evaluated_or_have_nothing_positive_are_drawn(kept: tuple[int, ...]) -> None:
    rows = [replace(r, epochs=[row for row in r.epochs if row["epoch"] in kept]) for r in runs_of(0, METHODS[:2], 2, sign=-1.0)]
    for panel in panels_of(rows):
        assert drawing.draw(panel, "pdf")


def test_runs_without_a_measure_have_no_figures_of_it() -> None:
    rows = [dataclasses.replace(made_up.run(OptimizerConfig.of(), 0, 90.0, series=False), measures={}, epochs=[])]
    assert panels_of(rows) == []


def test_what_is_no_number_is_a_level_and_diverged_runs_are_counted() -> None:
    """XSAM's alpha as numbers and null, which searches; one of its runs diverged, and every run of the largest alpha."""
    tried = [OptimizerConfig.of(method="xsam", alpha=alpha) for alpha in (0.5, 1.0, 2.0, None)]
    lost = lambda o, seed: 3 if o.alpha == 2.0 or (o.alpha == 1.0 and seed == 0) else None
    rows = [made_up.run(OptimizerConfig.of(method="sgd"), seed, 90.0) for seed in range(5)]
    rows += [made_up.run(o, seed, 91.0, lost_at=lost(o, seed)) for o in tried for seed in range(5)]
    line, level = by_title(panels_of(rows), "minus SGD's").series[1:3]
    assert (line.kind, line.n, line.diverged) == ("line", 5, 6) and level.kind == "level" and level.n == 5
    zero = by_title(panels_of(rows), "minus SGD's").series[0]
    assert zero.n == 5
    lost_base = [made_up.run(OptimizerConfig.of(method="sgd"), 0, 90.0, lost_at=3), *rows[5:]]
    assert not any("minus" in panel.title for panel in panels_of(lost_base))


def test_no_two_settings_of_a_method_look_alike_before_there_are_many() -> None:
    rows = [made_up.run(OptimizerConfig.of(ascent_steps=n, rho=0.01 * (1 + r)), 0, 90.0) for n in (10, 20) for r in range(8)]
    (condition,) = conditions(rows)
    assert len({(look.style.colour, look.style.dash, look.style.marker) for look in looks(condition)}) == 16


def test_in_a_crowd_methods_of_other_papers_do_not_share_a_look() -> None:
    names = ["asam", "late_sam", "gsam", "looksam", "friendly_sam", "vasso", "weighted_sam", "rwp", "momentum_sam"]
    rows = [made_up.run(OptimizerConfig.of(method=name), seed, 90.0) for name in names for seed in range(3)]
    panel = next(panel for panel in panels_of(rows) if "against the generalisation gap" in panel.title)
    assert len({(s.style.colour, s.style.marker) for s in panel.series}) == len(names)


def test_panels_whose_names_are_the_same_once_cut_are_all_written() -> None:
    titles = [f"Spectral density of the Hessian, 1,024 images, SAM N=1 (rho 0.0{i})" for i in (2, 5)]
    made = [Panel("same", title, title, Axis("x"), Axis("y"), []) for title in titles]
    assert len(list(figures.every([(one(sweep(1)), [("h", made, "", False)])]))) == 2


def test_an_accuracy_has_its_unit_whatever_its_batchnorm() -> None:
    assert figures.label("test_accuracy[bn=recalibrated]") == "Test accuracy, BatchNorm recalibrated (%)"


def test_one_method_over_many_radii_opens_with_its_accuracy() -> None:
    for count in (3, 9, 12):
        rows = [made_up.run(OptimizerConfig.of(rho=0.1 * k), seed, 90.0 + k) for k in range(1, count + 1) for seed in range(2)]
        titles = [panel.title for panel in panels_of(rows)]
        assert any(title.startswith("Test accuracy over the ρ") for title in titles), count


def test_the_panel_of_alpha_shows_the_search() -> None:
    kinds = {None: [0.5, 2.0], 1.25: [1.25, 1.25]}
    rows = [made_up.run(OptimizerConfig.of(method="xsam", rho=0.1 * k, alpha=a), 0, 90.0 + (a or 0)) for a in kinds for k in range(1, 6)]
    rows = [replace(r, epochs=[{**e, "alpha": kinds[r.config.optimizer.alpha][int(e["epoch"]) % 2]} for e in r.epochs]) for r in rows]
    panel = by_title(panels_of(rows), "α over training")
    assert panel.series and all(set(series.y) == {0.5, 2.0} for series in panel.series)


def test_curves_and_points_are_the_numbers_of_their_runs() -> None:
    row = made_up.run(OptimizerConfig.of(), 0, 90.0)
    row = replace(row, epochs=[{**epoch, "val_accuracy": 1.0} for epoch in row.epochs])
    epochs, line, sharp = row.epochs, row.series["line_gradient[subset=512]"], [row.measures[SHARPNESS.format(rho)] for rho in made_up.RHOS]
    wanted = {
        "Test accuracy over training": ([e["epoch"] for e in epochs], [e["test_accuracy"] for e in epochs]),
        "Sharpness over the measured ρ": (made_up.RHOS, sharp),
        "Along the gradient, 512 images": (line["t"], line["loss"]),
        "Sharpness, ρ 0.05, against the generalisation gap": (sharp[:1], [row.measures["gap"]]),
    }
    drawn = {panel.title: panel.series[0] for panel in panels_of([row])}
    assert {title: (list(drawn[title].x), list(drawn[title].y)) for title in wanted} == wanted


def test_what_is_drawn_stands_at_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Series(Style("a"), "line", [1.0, 2.0, 4.0], [5.0, 3.0, 4.0], [4.0, 2.0, 3.0], [7.0, 5.0, 6.0])
    whiskers = Series(Style("b"), "whiskers", [2.0], [1.0], [0.5], [4.0])
    axes = Figure().add_subplot()
    drawing.plot(axes, Panel("n", "t", "w", Axis("X"), Axis("Y"), [line, whiskers]))
    (curve,), (band,), (bars, dots) = axes.lines, axes.patches, axes.collections
    assert curve.get_xydata().tolist() == [[1, 5], [2, 3], [4, 4]]
    assert band.get_xy().tolist()[:6] == [[1, 4], [2, 2], [4, 3], [4, 6], [2, 5], [1, 7]]
    assert np.array(bars.get_segments()).tolist() == [[[0.5, 1], [4, 1]]] and dots.get_offsets().tolist() == [[2, 1]]
    met: list[tuple[list[float], list[float], list[list[float]]]] = []
    monkeypatch.setattr(drawing, "_fill", lambda axes, z, xs, ys, values: met.append((xs, ys, values.tolist())))
    x, y = zip(*itertools.product([0.0, 1.0], [0.0, 1.0, 2.0]), strict=True)
    surface = Series(Style(""), "surface", x, y, z=[1 + a + 10 * b for a, b in zip(x, y, strict=True)])
    drawing.plot(axes, Panel("n", "t", "w", Axis("X"), Axis("Y"), [surface], Axis("Loss", low=1.0, high=22.0)))
    assert met == [([0, 1], [0, 1, 2], [[1, 2], [11, 12], [21, 22]])]  # a row of the picture is a y


def test_what_is_not_shown_and_what_a_legend_stands_for_is_counted() -> None:
    rows = made_up.runs()
    rows[0] = replace(rows[0], measures={**rows[0].measures, SHARPNESS.format(0.5): None})  # of 8 finished runs at two radii
    sections = {heading: (panels, caption) for _, own in figures.gallery(rows, {}) for heading, panels, caption, _ in own}
    assert sections["Sharpness against gap"][1].endswith(" Not shown, without a finite value: 1 point.")
    assert list(counts(sections["Spectra"][0]).values()) == [f"(n = {n})" for n in (3, 2, 1, 2)]  # a line a seed


def test_marks_of_another_radius_stand_on_its_own_plane() -> None:
    own, name = made_up.runs()[0].series, "plane_xsam[rho=0.05,subset=512]"
    other = {known.replace("rho=0.05", "rho=0.5"): columns for known, columns in own.items()}
    assert plane_of({**own, **other}, name) == plane_of(own, name)


def test_a_run_that_lies_twice_is_no_missing_point() -> None:
    runs = made_up.runs()
    twice = [*runs, replace(runs[0], folder=f"elsewhere/{Path(runs[0].folder).name}")]
    told = lambda of: [text for _, own in figures.gallery(of, {}) for heading, _, text, _ in own if heading == "Sharpness against gap"]
    assert told(twice) == told(runs) and "without a finite value" not in told(twice)[0]


def test_paths_levels_and_marks_stand_at_their_numbers() -> None:
    axes, of = Figure().add_subplot(), Style("a")
    path, level = Series(of, "thin", [1.0, 2.0], [5.0, 3.0]), Series(of, "level", [None], [3.0], [2.0], [4.0])
    mark, named = Series(of, "mark", [0.5], [None], names=["papers' ρ"]), Series(of, "named", [1.0], [2.0], names=["w"])
    drawing.plot(axes, Panel("n", "t", "w", Axis("X"), Axis("Y"), [path, level, mark, named]))
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 5], [2, 3]], [[0, 3], [1, 3]], [[0.5, 0], [0.5, 1]], [[1, 2]]]
    (band,) = axes.patches
    assert band.get_patch_transform().transform_path(band.get_path()).get_extents().intervaly.tolist() == [2, 4]
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("papers' ρ", (0.5, 0)), ("w", (1.0, 2.0))]


def test_a_paper_s_figure_has_each_method_in_its_look_and_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[Figure] = []
    monkeypatch.setattr(drawing, "saved", lambda figure, *_: met.append(figure))
    styles = [Style("SAM", 2, 0, 2), Style("XSAM", 6, 1, 6)]
    lines = [Series(style, "line", [0.0, 1.0], [i, 1.0]) for i, style in enumerate(styles)]
    dots = [Series(style, "whiskers", [5.0], [i], [4.0], [6.0]) for i, style in enumerate(styles)]
    for y, series in ((Axis("Y"), lines), (Axis("", names=("SAM", "XSAM")), dots)):
        drawing.draw(Panel("n", "t", "w", Axis("X"), y, series), "pdf")
    look = lambda of: [(one.get_color(), one.get_linestyle(), one.get_marker()) for one in of]
    (curves,), (names,), (legend,) = met[0].axes, met[1].axes, met[0].legends
    assert look(curves.lines) == look(legend.legend_handles) == [(COLOURS[s.colour], LINES[s.dash], MARKERS[s.marker]) for s in styles]
    assert [text.get_text() for text in legend.get_texts()] == ["SAM", "XSAM"]
    assert {text.get_text(): at for at, text in zip(names.get_yticks(), names.get_yticklabels(), strict=True)} == {"SAM": 0, "XSAM": 1}


def test_a_colour_is_one_loss_in_all_maps_of_a_plane() -> None:
    condition = one(made_up.runs())
    panels, _ = landscapes(condition, [look for look in reversed(looks(condition)) if look.row.finished])  # the widest last
    losses = [v for panel in panels for v in panel.series[0].z if v is not None]
    assert len(panels) == 4 and {(panel.z.low, panel.z.high) for panel in panels if panel.z} == {(min(losses), max(losses))}
    axes, surface = Figure().add_subplot(), Series(Style(""), "surface", [0.0, 0.0, 1.0, 1.0], [0.0, 1.0] * 2, z=[2.0, 3.0, 4.0, 5.0])
    drawing.plot(axes, Panel("n", "t", "w", Axis("X"), Axis("Y"), [surface], Axis("Loss", low=1.0, high=9.0)))
    assert axes.collections[0].levels.tolist()[:: drawing.LEVELS - 1] == [1.0, 9.0]


def test_two_methods_over_one_key_are_two_lines() -> None:
    swept = [OptimizerConfig.of(rho=rho, ascent_steps=n) for n in (1, 5) for rho in (0.1, 0.2, 0.4)]
    rows = [made_up.run(o, seed, 90.0 + o.ascent_steps + o.rho) for o in swept for seed in range(5)]
    found = {s.style.label: list(s.y) for s in by_title(panels_of(rows), "Test accuracy over the ρ of training").series}
    assert found == {f"SAM N={n}": pytest.approx([90 + n + rho for rho in (0.1, 0.2, 0.4)]) for n in (1, 5)}


def test_an_axis_that_is_cut_below_shows_the_last_three_quarters_whole() -> None:
    panel = by_title(panels_of(made_up.runs()), "Test accuracy over training")
    late = [v for series in panel.series for edge in (series.y, series.low) for v in edge[len(series.x) // 4 :] if v is not None]
    assert panel.y.low is not None and min(v for s in panel.series for v in s.y if v is not None) < panel.y.low < min(late)


def test_a_legend_of_several_panels_names_the_diverged_of_any() -> None:
    panel = lambda diverged: Panel("n", "t", "w", Axis("x"), Axis("y"), [Series(Style("a"), "line", [1.0], [1.0], n=2, diverged=diverged)])
    assert counts([panel(1), panel(0)]) == counts([panel(0), panel(1)]) == {Style("a"): "(n = 2, 1 diverged and left out)"}
