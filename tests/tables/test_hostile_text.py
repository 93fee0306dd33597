"""Text of files in tables: it is shown, and nothing in it acts, in any of the forms that a table is written in."""

import csv
import dataclasses
import io
import re
from xml.etree import ElementTree

import made_up
import pytest

from sam.config import ConfigError
from sam.evaluation.settings import EvaluateConfig
from sam.optimizers.settings import OptimizerConfig
from sam.report import drawing, figures
from sam.report.panels import panel_csv
from sam.schema import from_dict
from sam.tables import render
from sam.tables import table as tables
from sam.tables.conditions import conditions
from sam.tables.latex import latex, latex_full
from sam.tables.render import inert
from sam.tables.settings import TableConfig
from sam.text import printable, sentence

HOSTILE = {
    "escape": "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "eight bits": "\x9b31m",
    "control": "a\rb\bc\x00d\x7fe",
    "lines": "one\n# two\n\n![x](y)\u2028three",
    "direction": "\u202eevil\u2066 \u200b",
    "surrogate": "\udce9",
    "link": "[click](https://example.org) ![i](https://example.org/i.png) [a][b] [b]: https://example.org www.example.org a@example.org",
    "html": "<img src=x onerror=alert(1)> <!-- --> &lt;",
    "pipes": "a | b || `c` **d** __e__ ~~f~~ $x$ # g",
    "latex": r"\input{/etc/passwd} %x &y_z^{2} ~ #1 $\frac{$",
    "formula": '=HYPERLINK("http://x")',
    "plus": "+1+cmd|' /C calc'!A0",
    "minus": "-1+1",
    "at": "@SUM(1)",
    "blank": " =1",
    "star": "*x",
    "box": "[ ] done",
}
ACTIVE = re.compile(r"(?<!\\)\]\(|(?<!\\)\]\[|(?<!\\)\]:|(?<!\\)<(?!br>)|(?<!\\)!\[[^\]]*[^\\]\]\(|(?<=\w)://|www\.|(?<!\\)@|(?<!\\)[`*$#]")


@pytest.fixture(params=HOSTILE)
def text(request: pytest.FixtureRequest) -> str:
    return HOSTILE[request.param]


def blocks_with(text: str) -> tuple[list, list]:
    """The text wherever a file's may stand: title, source, headers, labels, notes, protocol, data notes, folder."""
    raw = {"title": text, "source": text, "notes": [text], "row_header": text, "shows": text}
    raw |= {"rows": [{"label": text, "match": {"method": "sgd"}}, {"label": "SAM", "match": {"method": "sam"}}], "baseline": text}
    raw |= {"columns": [{"key": "k", "header": text, "measure": "test_accuracy", "compare": True}], "primary": "k"}
    runs = []
    for method in ("sgd", "sam"):
        for seed in (0, 1):
            run = made_up.run(OptimizerConfig.of(method=method), seed, 90.0 + seed + len(method) * (seed + 1))
            protocol = dataclasses.replace(run.config.protocol, name=text, notes=[text])
            config = dataclasses.replace(run.config, protocol=protocol)
            runs.append(dataclasses.replace(run, config=config, data_notes=(text,), folder=f"runs/{text}/{method}{seed}"))
    return tables.build(from_dict(TableConfig, raw), runs, [0.05]), runs


def test_nothing_acts_in_any_form(text: str) -> None:
    blocks, _ = blocks_with(text)
    forms = {"terminal": render.terminal(blocks), "md": render.markdown(blocks), "csv": render.csv(blocks)}
    forms["tex"] = latex(blocks, "t").replace("% \\usepackage{booktabs}", "") + latex_full(blocks).split("\n", 1)[1]
    for name, form in forms.items():
        form.encode()
        assert all(line.isprintable() for line in form.split("\n")), name
    for line in forms["md"].split("\n"):
        assert not ACTIVE.search(re.sub(r"^#+ |(?<=\| )\*\*(?=\d)|(?<=\d)\*\*(?=<br>)|<br>", "", line)), line
    tabular = [line for line in forms["md"].split("\n") if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in tabular}) == 1
    for row in csv.DictReader(io.StringIO(forms["csv"])):
        for name, cell in row.items():
            number = re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?|[+-][\d.]+ .*", cell)  # or a difference, which is made here
            assert not re.match(r"\s*[=+\-@]", cell) or number, (name, cell)
    assert not re.search(r"(?<!\\)[&%#_](?!\s)|\\(input|frac)", forms["tex"].replace(" & ", " "))
    assert not re.search(r"\\\\\s*(\*|\[)", forms["tex"])


def test_a_figure_takes_any_label(text: str) -> None:
    """matplotlib would read "$" as mathematics, and fail at half a formula; in the page's SVG it is text, and its CSV acts nowhere."""
    (condition,) = conditions(blocks_with(text)[1])
    anchors = {row.folder: "run-1" for row in condition.runs}
    panels = figures.sections(dataclasses.replace(condition, label=text), anchors, {})[0][1]
    for panel in panels:
        styles = [dataclasses.replace(series.style, label=f"{text}.") for series in panel.series]
        series = [dataclasses.replace(own, style=style) for own, style in zip(panel.series, styles, strict=True)]
        hostile = dataclasses.replace(panel, title=text, series=series, y=dataclasses.replace(panel.y, label=text))
        assert drawing.draw(hostile, "pdf") and re.fullmatch(r"[a-z0-9.-]+", panel.name)
        root = ElementTree.fromstring(drawing.svg(hostile, "a"))
        assert {node.tag for node in root.iter()} <= {"svg", "g", "path", "use", "text", "title", "desc", "a", "defs", "clipPath", "rect"}
        assert printable(text).strip() in "".join(root.itertext())
        assert not re.search(r"(^|,)[=+@]", panel_csv(hostile), re.MULTILINE)


def test_numbers_stay_numbers_for_a_spreadsheet() -> None:
    for number in ("-0.5", "+1", "1e-3", "-.5", "", "nan"):
        assert inert(number) == number
    assert inert("-x") == "'-x" and inert("=1") == "'=1" and inert("\uff1d1") == "'\uff1d1"


def test_what_is_printed_is_one_line_of_some_length(text: str) -> None:
    assert printable(text).isprintable() and sentence(f"a\n  {text}").startswith("a ")
    assert printable("ρ × 10³, naïve, 模型") == "ρ × 10³, naïve, 模型"
    assert len(sentence("x" * 10**6)) < 2100


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "", ".", "a.b", "a b", "a\nb", "é", "x" * 101, "-\x1b"])
def test_a_table_is_named_like_a_file(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(EvaluateConfig, {"tables": {name: {}}})
    assert "tables." in str(caught.value) and "A-Z a-z 0-9 _ -" in str(caught.value)
    assert from_dict(EvaluateConfig, {"tables": {"Table_2-b": {}}}).tables
