"""report.html as text: self-contained, escaped, every number with the way back to its runs; and the geometry of its charts."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import made_up
import pytest

from sam.optimizers.settings import OptimizerConfig
from sam.report.chart import Axis, Curve, Dot, Scale, chart, scale
from sam.report.figures import left_out, mean_curve
from sam.report.html import Html, el
from sam.report.looks import Style
from sam.report.planes import plane_of, shade
from sam.runs.command import train_command
from sam.tables import render
from sam.tables.settings import RowConfig

VOID = ("meta", "link", "br", "col")


@dataclass
class Node:
    name: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list["Node | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, name: str = "", **attributes: str) -> Iterator["Node"]:
        """Every node below with this name and these attributes (class_ must be among the classes)."""
        for child in self.children:
            if isinstance(child, Node):
                wanted = {k.rstrip("_"): v for k, v in attributes.items()}
                if name in ("", child.name) and all(v in (child.attributes.get(k) or "").split() for k, v in wanted.items()):
                    yield child
                yield from child.all(name, **attributes)


class Tree(HTMLParser):
    """Parses strictly: what opens must close, in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.root = Node("")
        self._open = [self.root]
        self.feed(source)
        self.close()
        assert self._open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(node.attributes) == len(attrs)
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def parsed(source: str) -> Node:
    return Tree(source).root


@pytest.fixture(scope="module")
def source() -> str:
    return made_up.page(made_up.runs(), ("digits-x: not finished, left out.",))


@pytest.fixture(scope="module")
def tree(source: str) -> Node:
    return parsed(source)


# ------------------------------------------------------------------------------------------------------------ self-contained


def test_nothing_is_loaded_from_anywhere(source: str, tree: Node) -> None:
    assert all("src" not in node.attributes and "srcset" not in node.attributes for node in tree.all())
    assert {node.name for node in tree.all()}.isdisjoint({"iframe", "object", "embed", "img", "base", "form"})
    links = {node.attributes["href"] for node in tree.all() if "href" in node.attributes}
    assert all(link is not None and (link.startswith("#") or link == "data:,") for link in links)
    style = next(tree.all("style")).text
    assert not re.search(r"url\(|@import|https?:", style) and not re.search(r"fetch|XMLHttp|import\(", next(tree.all("script")).text)
    policy = next(n.attributes["content"] for n in tree.all("meta") if n.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy


def test_same_runs_give_the_same_page(source: str) -> None:
    assert made_up.page(made_up.runs(), ("digits-x: not finished, left out.",)) == source


def test_ids_are_unique_and_every_link_leads_somewhere(tree: Node) -> None:
    ids = [node.attributes["id"] for node in tree.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    assert {n.attributes["href"] for n in tree.all("a")} <= {f"#{i}" for i in ids}


# ------------------------------------------------------------------------------------------------------------- the way back


def test_every_number_leads_to_its_runs(tree: Node) -> None:
    rows = {row.folder.split("/")[-1]: row for row in made_up.runs()}
    entries = {f"#{node.attributes['id']}": node.text for node in tree.all("details", class_="run")}
    assert len(entries) == len(rows)
    cells = [
        cell
        for box in tree.all("div", class_="scroll")
        for cell in box.all("td")
        if cell.attributes.get("class") in ("value", "difference", "correlation")
    ]
    counted = 0
    for cell in cells:
        if not re.match(r"[+-]?\d", cell.text):
            assert re.match("not run|not measured|no common seed|baseline|–", cell.text) or "diverged" in cell.text
            continue
        links = list(cell.all("a"))
        assert links
        for link in links:
            run, said = rows[link.text], entries[link.attributes["href"] or ""]
            assert f"runs/demo/{link.text}/checkpoint.pt" in said or run.status == "diverged"
            assert run.fingerprint in said and train_command(run.config) in said and "python train.py -m experiment=demo" in said
            counted += 1
    assert counted > 100


def test_the_runs_of_a_cell_average_to_its_mean(tree: Node) -> None:
    for box in tree.all("div", class_="scroll"):
        for cell in box.all("td", class_="value"):
            numbers = [float(x) for x in re.findall(r"seed \d: (-?[\d.e-]+) ", cell.text)]
            if numbers:
                assert float(cell.attributes["data-sort"] or "") == pytest.approx(sum(numbers) / len(numbers), rel=1e-5)
    accuracy = next(c for c in tree.all("td", class_="value") if "1 of 3 diverged" in c.text)
    assert re.search(r"seed 0: 95 .*seed 1: 95.5 .*seed 2: diverged ", accuracy.text)


def test_a_difference_shows_the_runs_of_both_rows(tree: Node) -> None:
    cell = next(c for c in tree.all("td", class_="difference") if "seed 1" in c.text)
    here, there = cell.all("div", class_="behind")
    assert here.text.startswith("this row") and len(list(here.all("a"))) and len(list(there.all("a")))
    assert {a.text for a in here.all("a")}.isdisjoint({a.text for a in there.all("a")})


def test_a_rank_correlation_shows_both_numbers_of_its_runs(tree: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(tree.all("td", class_="correlation"))  # of eight runs, none is printed
    monkeypatch.setattr(render, "MIN_RUNS", 8)
    tree = parsed(made_up.page(made_up.runs()))
    cell = next(c for c in tree.all("td", class_="correlation") if "n = 8 runs" in c.text)
    said = dict(reversed(re.findall(r"([\d.e-]+, [\d.e-]+) (\S+)", item.text)[0]) for item in cell.all("li"))
    assert len(said) == 8
    by_name = {row.folder.split("/")[-1]: row.measures for row in made_up.runs()}
    for name, pair in said.items():
        sharpness, gap = by_name[name]["sharpness[rho=0.05,bn=eval,batch=all]"], by_name[name]["gap"]
        assert sharpness is not None and gap is not None
        assert [float(v) for v in pair.split(", ")] == pytest.approx([1000 * sharpness, 1000 * gap], rel=1e-5)


def test_what_a_table_shows_and_does_not_show_stands_under_it(tree: Node) -> None:
    verdicts = [node.text for node in tree.all("p", class_="verdict")]
    assert len(verdicts) == len(list(tree.all("section", class_="block"))) and all(verdicts)


def test_the_page_says_what_was_measured_where_and_when(tree: Node) -> None:
    summary = next(n for n in tree.all("section") if n.attributes.get("id") == "summary").text
    for words in ("9: 8 finished, 1 diverged", "a7befeea9c86, unmodified", "torch 2.13.0+cpu", "a processor", "b17d6df724a37303"):
        assert words in summary
    assert "2026-01-02 03:04 to 2026-01-02 04:05 (UTC)" in summary and "digits-x: not finished" in summary
    assert "python evaluate_sharpness.py runs_dir=runs/demo 'sharpness.rho=[0.05,0.5]'" in summary


# ----------------------------------------------------------------------------------------------------------------- escaping

EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(2)>&lt;\udce4'


def test_names_are_text_and_never_html() -> None:
    rows = [replace(row, folder=f"runs/{EVIL}/{i}{EVIL}", data_notes=(EVIL,), fingerprint=EVIL) for i, row in enumerate(made_up.runs())]
    record = made_up.RECORD | {"environment": made_up.ENVIRONMENT | {"command": EVIL}}
    rows = [replace(row, series={EVIL: made_up.runs()[0].series["line_gradient[subset=512]"]}, record=record) for row in rows]
    label = RowConfig(label=EVIL, match={"method": "sgd"})
    text = made_up.page(rows, (EVIL,), rows=[label], baseline=EVIL, title=EVIL)
    tree = parsed(text.encode().decode())  # encodes: the lone surrogate is gone
    assert len(list(tree.all("script"))) == 1 and not list(tree.all("img"))
    assert all(not key.startswith("on") for node in tree.all() for key in node.attributes)
    assert sum(EVIL[:-1] in node.text for node in tree.all("li")) >= 3


def test_elements_escape_what_is_not_html() -> None:
    assert el("p", "<b>", Html("<i></i>"), data_x='"&', hidden=True, id=None) == '<p data-x="&quot;&amp;" hidden>&lt;b&gt;<i></i></p>'


# ------------------------------------------------------------------------------------------------------------------ figures


def test_every_kind_of_data_has_its_figure_with_caption_and_words(tree: Node) -> None:
    titles = {node.text for node in tree.all("h3")}
    expected = {"Over training", "Sharpness against gap", "Sharpness over the measured ρ", "Results over the ρ of training", "XSAM's α"}
    assert expected | {"Spectra", "Loss along lines", "Loss over planes"} <= titles
    figures = list(tree.all("figure"))
    assert figures and all(len(next(f.all("figcaption")).text) > 30 for f in figures)
    assert all(
        svg.attributes.get("aria-label") or svg.attributes.get("aria-hidden") for svg in tree.all("svg") if "class" in svg.attributes
    )
    assert any("SAM (rho 0.05) (n = 2, 1 diverged and left out)" in f.text.replace("SAM N=1", "SAM") for f in figures)


def test_only_losses_are_called_nats() -> None:
    names = {"n_step": True, "maximum_ascent": True, "n_step_length": False, "n_step_cosine": False, "alpha_star": False, "psi": False}
    measured = replace(made_up.runs()[0], measures={"gap": 0.1} | {f"{name}[rho=0.05]": 1.0 for name in names})
    text = parsed(made_up.page([measured])).text
    assert all((f"{name.replace('_', ' ').capitalize()} (nats) against" in text) == nats for name, nats in names.items())


def test_a_mean_is_of_finite_values_and_says_how_many_were_not() -> None:
    curve = mean_curve(Style("a"), [([1, 2], [1.0, None]), ([1, 2], [3.0, 5.0]), ([1, 2], [float("inf"), None])])
    assert (curve.x, curve.y, curve.n, curve.lost) == ([1, 2], [2.0, 5.0], 2, 3)
    assert curve.spread == [pytest.approx(2**0.5), None]
    assert left_out([curve]) == " 3 values that are not finite: in no mean." and left_out([]) == ""


def test_a_legend_counts_the_runs_that_are_shown() -> None:
    rows = [replace(row, series={}) if row.config.seed == 1 else row for row in made_up.runs()]
    rows[0].series["line_gradient[subset=512]"]["loss"][3] = None  # type: ignore[index]
    sections = {
        next(section.all("h3")).text: section for section in parsed(made_up.page(rows)).all("section") if list(section.all("figure"))
    }
    lines = sections["Loss along lines"].text
    assert "SGD (n = 2)" in lines and "XSAM (n = 1)" in lines and "1 value that is not finite: in no mean." in lines
    assert "SGD (n = 3)" in sections["Over training"].text and "not finite" not in sections["Over training"].text


def test_no_data_no_figure() -> None:
    rows = [made_up.run(OptimizerConfig.of(method="sgd"), 0, 90.0, series=False)]
    titles = {node.text for node in parsed(made_up.page(rows)).all("h3")}
    assert "Over training" in titles
    assert titles.isdisjoint({"Spectra", "Loss along lines", "Loss over planes", "XSAM's α", "Results over the ρ of training"})


def test_a_page_without_a_finished_run_still_stands() -> None:
    tree = parsed(made_up.page([made_up.run(OptimizerConfig.of(), 0, 90.0, lost_at=2)]))
    assert "1 of 1 diverged" in tree.text and not any(n.text == "Sharpness against gap" for n in tree.all("h3"))


def test_methods_differ_in_marker_or_dash_where_they_share_a_colour(tree: Node) -> None:
    figure = next(tree.all("figure"))
    looks = [
        tuple((p.attributes.get("class"), p.attributes.get("stroke-dasharray"), p.attributes["d"]) for p in li.all("path"))
        for li in figure.all("li")
    ]
    assert len(looks) == len(set(looks)) == 4


def test_points_and_lines_stand_where_their_values_are() -> None:
    assert scale([], Axis("x", low=0, high=10), 100, 200)(2.5) == 125
    assert Scale(1, 100, 0, 50, log=True)(10) == pytest.approx(25)
    axis = Axis("x", low=0, high=10)
    dots = [Dot(Style("a"), 5, 10, "middle top", "#r"), Dot(Style("a"), float("nan"), 1, "lost", "#r")]
    drawn = parsed(chart("c", axis, axis, [Curve(Style("a"), [0, 10], [0, 10], [1, None])], dots))
    (link,) = drawn.all("a")
    assert next(link.all("path")).attributes["transform"] == "translate(244 26)"  # half of 58 .. 430; the top of the plot
    line, band = (next(drawn.all("path", class_=name)).attributes["d"] for name in ("line", "band"))
    assert line == "M58 256L430 26"
    assert band == "M58 279L430 26L430 26L58 233z"  # ± 1 of 10 is ± 23 of 230 pixels


def test_a_logarithmic_axis_hides_what_it_cannot_show_and_breaks_the_line() -> None:
    curve = Curve(Style("a"), [1, 2, 3, 4, 5], [1, 10, -1, 10, 1])
    drawn = parsed(chart("c", Axis("x"), Axis("y", log=True), [curve]))
    assert len(list(drawn.all("path", class_="line"))) == 2


@pytest.mark.parametrize(
    ("low", "high", "log", "whole", "expected"),
    [
        (0, 10, False, False, "0 2 4 6 8 10"),
        (-0.1, 0.11, False, False, "-0.10 -0.05 0.00 0.05 0.10"),
        (1, 3, False, True, "1 2 3"),
        (0.9, 120, True, False, "1 3 10 30 100"),
        (0.04, 0.9, True, False, "0.05 0.1 0.2 0.5"),
        (1e-6, 1, True, False, "1e-06 1e-05 0.0001 0.001 0.01 0.1 1"),
        (2e-6, 9e-6, False, False, "2e-06 4e-06 6e-06 8e-06"),
    ],
)
def test_ticks(low: float, high: float, log: bool, whole: bool, expected: str) -> None:
    ticks = Scale(low, high, 0, 1, log, whole).ticks
    assert " ".join(words for _, words in ticks) == expected
    assert [float(words) for _, words in ticks] == pytest.approx([value for value, _ in ticks])


def test_a_plane_is_a_full_grid_with_its_marks_in_their_places() -> None:
    series = made_up.runs()[0].series
    plane = plane_of(series, "plane_xsam[rho=0.05,subset=512]")
    assert plane is not None and plane.xs == plane.ys == made_up.GRID and plane.loss[1.0, 1.0] is None
    assert plane.overlays["marks_xsam[rho=0.05,subset=512]"] == [(0.0, 0.0), None, (0.5, 0.5)]
    assert plane_of(series, "arc_xsam[rho=0.05,subset=512]") is None


def test_undefined_losses_and_marks_are_left_out_of_the_picture(tree: Node) -> None:
    planes = [svg for svg in tree.all("svg") if "plane_xsam" in (svg.attributes.get("aria-label") or "")]
    assert planes
    for svg in planes:
        fills = [rect.attributes["fill"] for rect in svg.all("rect")]
        assert len(fills) == 25 and fills.count("none") == 1
        assert [t.text for mark in svg.all("path", class_="mark") for t in mark.all("title")] == ["w", "α*"]


def test_brighter_means_larger() -> None:
    def light(colour: str) -> float:
        return sum(w * int(colour[i : i + 2], 16) for w, i in ((0.21, 1), (0.72, 3), (0.07, 5)))

    values = [light(shade(i / 50)) for i in range(51)]
    assert all(a < b for a, b in itertools.pairwise(values))
