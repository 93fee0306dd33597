"""report.html as text: self-contained, escaped, every number with the way back to its runs; and the geometry of its charts."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

import made_up
import pytest

from sam.evaluation.settings import EvaluateConfig
from sam.optimizers.settings import OptimizerConfig
from sam.report import html_tables
from sam.report.figures import every, gallery
from sam.report.html import Html, el
from sam.report.page import report
from sam.runs.command import train_command
from sam.sharpness.settings import SharpnessConfig
from sam.tables import render
from sam.tables.cells import Block
from sam.tables.conditions import RunRow
from sam.tables.settings import RowConfig
from sam.tables.table import build

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


def test_no_element_has_a_style_of_its_own(tree: Node) -> None:
    assert not [node for node in tree.all() if "style" in node.attributes] and len(list(tree.all("style"))) == 1


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
    assert there.text.startswith("SGD") and [{"-sgd-" in a.text for a in side.all("a")} for side in (here, there)] == [{False}, {True}]


def test_the_line_of_a_run_ends_with_its_test_accuracy(tree: Node) -> None:
    lines = [next(entry.all("summary")).text for entry in tree.all("details", class_="run")]
    reached = [f"{r.measures['test_accuracy']:.2f}% test accuracy" if r.is_finished else "diverged in epoch 4" for r in made_up.runs()]
    assert [line.partition(" ")[2] for line in lines] == reached


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
    made = next(n for n in tree.all("section") if n.attributes.get("id") == "made").text
    for words in ("9 runs, seeds 0, 1, 2", "a7befeea9c86, unmodified", "torch 2.13.0+cpu", "a processor", "b17d6df724a37303"):
        assert words in made
    assert "2026-01-02 03:04 to 2026-01-02 04:05 (UTC)" in made
    assert "python evaluate_sharpness.py runs_dir=runs/demo 'sharpness.rho=[0.05,0.5]'" in made
    assert "<dd>whatever is stored beside the runs</dd>" in report(made_up.runs(), [], None, "", (), gallery(made_up.runs(), {}))
    problems = next(n for n in tree.all("section"))
    assert problems.text == "Problemsdigits-x: not finished, left out."  # before all else


# ---------------------------------------------------------------------------------------------------------- the first screen


def made(*blocks: Block, runs: Sequence[RunRow] = ()) -> Node:
    config = EvaluateConfig(runs_dir="runs/demo", sharpness=SharpnessConfig.of(rho=made_up.RHOS))
    runs = runs or made_up.runs()
    return parsed(report(runs, blocks, config.sharpness, "python evaluate_sharpness.py", (), gallery(runs, {})))


def table3(**changes: Any) -> list[Block]:
    return [replace(block, **changes) for block in build(made_up.load("table3"), made_up.runs(), made_up.RHOS)]


def test_the_page_is_named_after_what_was_swept_at_which_scale(tree: Node) -> None:
    assert next(tree.all("title")).text == next(tree.all("h1")).text == "SGD, SAM, XSAM on digits: 9 runs"
    facts = {t.text: d.text for t, d in zip(*(next(tree.all("header")).all(name) for name in ("dt", "dd")), strict=True)}
    assert facts["Scale"] == "WRN-10-1; unknown training images; 12 epochs" and facts["Seeds"] == "1 to 3 for each setting"
    assert facts["Runs"] == "8 finished, 1 diverged" and facts["Commit"] == "a7befeea9c86, unmodified"


def test_it_opens_with_what_each_table_found_and_a_figure() -> None:
    (block,) = table3(finding="SAM is above SGD.")
    again = replace(block, table="All measures", title="All measures, digits demo", finding="The gap is equal.")
    other = replace(block, about="digits elsewhere", finding="Nothing was shown.")
    main = next(made(block, again, other).all("main"))
    assert [h.text for h in main.all("h2")][:2] == ["What was found", "Table 3 layout"]
    (findings,) = main.all("div", class_="findings")
    assert [n.text for n in findings.all() if n.name in ("h3", "li")] == [
        *("digits demo", "SAM is above SGD. (Table 3 layout)", "The gap is equal. (All measures)"),
        *("digits elsewhere", "Nothing was shown. (Table 3 layout)"),
    ]
    assert [a.attributes["href"] for a in findings.all("a")] == ["#table-1", "#table-2", "#table-3"]
    (opening,) = main.all("div", class_="openings")
    assert list(opening.all("figure")) and "No table states a finding" in made(*table3(finding="")).text


def test_conditions_that_found_nothing_do_not_crowd_the_opening() -> None:
    """SGD tuned over six learning rates, the other methods run at one of them: its finding stands open, the rest is below."""
    tuned = [
        made_up.run(OptimizerConfig.of(method="sgd", lr=lr), seed, 90.0 + seed) for lr in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6) for seed in (0, 1)
    ]
    swept = [made_up.run(OptimizerConfig.of(lr=0.3, rho=rho), seed, 91.0 + rho) for rho in (0.1, 0.4) for seed in (0, 1)]
    shown = made(runs=[*tuned, *swept])
    (opening,) = shown.all("div", class_="openings")
    (heading,) = opening.all("h3")
    assert heading.text.startswith("The finding") and "0.3" in heading.text and not list(opening.all("details"))
    assert [h.text for h in opening.all("h4")][-1] == "Test accuracy, minus SGD's over the ρ of training"
    assert len(list(shown.all("summary"))) > 6  # the others are there, folded or not, after the tables
    (alone,) = made(runs=tuned).all("div", class_="openings")
    assert len(list(alone.all("details"))) == 6  # where nobody found anything, all open it


def test_every_note_stands_once_and_leads_there_and_back(tree: Node) -> None:
    blocks = {node.attributes["id"]: node for node in tree.all("section", class_="block")}
    notes = {f"#{n.attributes['id']}": n for n in next(tree.all("ol", class_="notes")).all("li")}
    texts = [note.text.replace("↩", "").strip() for note in notes.values()]
    assert len(texts) == len(set(texts)) > 10 and list(notes) == [f"#note-{i}" for i in range(1, len(notes) + 1)]
    there = {(at, a.attributes["href"]) for at, block in blocks.items() for a in block.all("a") if a.attributes["href"] in notes}
    back = {((a.attributes["href"] or "")[1:], at) for at, note in notes.items() for a in note.all("a")}
    assert there == back and {at for at, _ in there} == set(blocks)
    assert all(
        a.text == (a.attributes["href"] or "").removeprefix("#note-") for b in blocks.values() for a in b.all("a") if a.text.isdigit()
    )


def test_the_caveat_of_raw_sharpness_is_a_note_of_its_columns_unless_the_table_has_it() -> None:
    (block,) = table3()
    page = made(block)
    caveat = next(n for n in page.all("li") if n.text.startswith("Sharpness: raw sharpness shrinks with the training loss"))
    marked = {next(th.all("button")).text: [a.text for a in th.all("a")] for th in page.all("th") if list(th.all("button"))}
    number = str(len(block.notes) + 1)
    assert caveat.attributes["id"] == f"note-{number}"
    assert number in marked["Sharpness ×10³ (ρ 0.05)"] and number not in marked["Accuracy (%)"]
    told = "Raw sharpness falls with the loss."
    assert "raw sharpness shrinks" not in made(replace(block, notes=(*block.notes, told))).text
    plain = [i for i, header in enumerate(block.header) if not header.startswith("Sharpness")]
    without = replace(block, header=tuple(block.header[i] for i in plain), rows=tuple(tuple(r[i] for i in plain) for r in block.rows))
    assert "raw sharpness shrinks" not in made(replace(without, correlations=())).text


def test_a_short_table_stands_above_its_folded_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(block: Block) -> Block:
        best = replace(block.rows[0][3], parts=("91.00 ± 1.00",), best=True)
        return replace(block, header=block.header[:4], rows=((*block.rows[0][:3], best),), correlations=())

    (block,) = table3()
    monkeypatch.setattr(html_tables, "compact", lambda block: block)
    (section,) = made(block).all("section", class_="block")
    assert not list(section.all("details", class_="more"))  # nothing was left out
    monkeypatch.setattr(html_tables, "compact", short)
    (section,) = made(block).all("section", class_="block")
    first, *_ = section.all("table")
    (folded,) = section.all("details", class_="more")
    assert [n.text for n in first.all("b")] == ["91.00 ± 1.00"] and "open" not in folded.attributes
    assert first not in list(folded.all("table")) and f"{block.rows[0][3].parts[1]}" in folded.text


@pytest.mark.slow
def test_contents_name_every_part_and_fold_what_is_many(tree: Node) -> None:
    (nav,) = tree.all("nav")
    assert [n.text for n in nav.all("a")][:3] == ["Problems", "What was found", "Table 2 layout"]
    assert [n.text for n in nav.all("a")][-4:] == ["Figures", "Notes", "Runs", "How this was made"]
    runs = [replace(row, folder=f"{row.folder}-{e}", config=replace(row.config, epochs=e)) for e in range(1, 7) for row in made_up.runs()]
    blocks = build(made_up.load("table3"), runs, made_up.RHOS)
    many = made(*blocks, runs=runs)
    groups = {next(d.all("summary")).text: d for d in next(many.all("nav")).all("details")}
    assert list(groups) == ["Table 3 layout", "Figures"] and all("open" not in group.attributes for group in groups.values())
    assert [a.text for a in groups["Figures"].all("a")] == [f"digits demo, epochs={e}" for e in range(1, 7)]
    ids = {f"#{node.attributes['id']}" for node in many.all() if "id" in node.attributes}
    assert {a.attributes["href"] for a in next(many.all("nav")).all("a")} <= ids
    assert len(list(many.all("details", class_="more"))) >= 12  # opening figures and all others, folded


# ----------------------------------------------------------------------------------------------------------------- escaping

EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(2)>&lt;\udce4'


def test_names_are_text_and_never_html() -> None:
    rows = [replace(row, folder=f"runs/{EVIL}/{i}{EVIL}", data_notes=(EVIL,), fingerprint=EVIL) for i, row in enumerate(made_up.runs())]
    record = made_up.RECORD | {"environment": made_up.ENVIRONMENT | {"command": EVIL}}
    rows = [replace(row, series={EVIL: made_up.runs()[0].series["line_gradient[subset=512]"]}, record=record) for row in rows]
    label = RowConfig(label=EVIL, match={"method": "sgd"})
    text = made_up.page(rows, (EVIL,), rows=[label], baseline=EVIL, title=EVIL, notes=[EVIL, f"{EVIL}: a note"])
    tree = parsed(text.encode().decode())  # encodes: the lone surrogate is gone
    assert len(list(tree.all("script"))) == 1 and not list(tree.all("img"))
    assert all(not key.startswith("on") for node in tree.all() for key in node.attributes)
    assert sum(EVIL[:-1] in node.text for node in tree.all("li")) >= 3


def test_elements_escape_what_is_not_html() -> None:
    assert el("p", "<b>", Html("<i></i>"), data_x='"&', hidden=True, id=None) == '<p data-x="&quot;&amp;" hidden>&lt;b&gt;<i></i></p>'


# ------------------------------------------------------------------------------------------------------------------ figures


def test_every_kind_of_data_has_its_figure_with_caption_and_words(tree: Node) -> None:
    titles = {node.text for node in tree.all("h3")}
    expected = {"The finding", "Over training", "Sharpness against gap", "Sharpness over the measured ρ"}
    assert expected | {"Results over the ρ of training", "XSAM's α", "Spectra", "Loss along lines", "Loss over planes"} <= titles
    drawn = list(tree.all("figure"))
    assert drawn and all(len(next(f.all("figcaption")).text) > 30 for f in drawn)
    assert all(list(svg.all("title")) or svg.attributes.get("aria-hidden") for svg in tree.all("svg"))
    assert any("SAM N=1 (rho 0.05) (n = 2, 1 diverged and left out)" in f.text for f in drawn)


def test_only_losses_are_called_nats() -> None:
    names = {"n_step": True, "maximum_ascent": True, "n_step_length": False, "n_step_cosine": False, "alpha_star": False, "psi": False}
    for name, nats in names.items():
        measured = replace(made_up.runs()[0], measures={"gap": 0.1, f"{name}[rho=0.05]": 1.0})
        axes = [p.x.label for p in every(gallery([measured], {})) if "gap" in p.title]
        assert len(axes) == 1 and axes[0].endswith(" (nats)") == nats
    squared = [replace(row, config=replace(row.config, loss="mse")) for row in made_up.runs()]
    sections = [section for _, own in gallery(squared, {}) for section in own]
    assert any("nats" in str(section) for _, own in gallery(made_up.runs(), {}) for section in own) and "nats" not in str(sections)


def test_a_legend_counts_the_runs_that_are_shown() -> None:
    rows = [replace(row, series={}) if row.config.seed == 1 else row for row in made_up.runs()]
    rows[0].series["line_gradient[subset=512]"]["loss"][3] = None  # type: ignore[index]
    sections = {
        next(section.all("h3")).text: section
        for section in parsed(made_up.page(rows)).all("section")
        if list(section.all("figure")) and list(section.all("h3"))
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


def test_methods_differ_in_colour_marker_or_dash(tree: Node) -> None:
    figure = [s for s in tree.all("section") if any(h.text == "Over training" for h in s.all("h3"))][-1]  # the innermost
    looks = [tuple(str(p.attributes) for p in li.all("path")) for li in next(figure.all("ul")).all("li")]
    assert len(looks) == len(set(looks)) == 4


def test_a_run_of_two_sessions_is_of_both_commits() -> None:
    later = made_up.ENVIRONMENT | {"commit": "0123456789ab" + "0" * 28, "command": "python train.py again"}
    record = made_up.RECORD | {"environment": later, "segments": [{"environment": made_up.ENVIRONMENT}, {"environment": later}]}
    page = made(*table3(), runs=[replace(row, record=record) for row in made_up.runs()])
    header = next(page.all("header")).text
    assert "a7befeea9c86, unmodified; then 0123456789ab, unmodified" in header
    assert "python train.py -m experiment=demo" in page.text and "train.py again" not in page.text
