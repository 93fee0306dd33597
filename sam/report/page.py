"""One self-contained page: tables, figures, and the way from every number back to its runs. It loads nothing, from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from sam.config import EvaluateConfig
from sam.report import blocks as tables_html
from sam.report.html import Html, el, join
from sam.report.runs import entry, summary
from sam.report.sections import figures_of
from sam.tables.columns import expand
from sam.tables.table import Block, RunRow, contexts

HERE = Path(__file__).parent


def report(
    runs: Sequence[RunRow],
    blocks: Mapping[str, Sequence[Block]],
    config: EvaluateConfig,
    command: str,
    problems: Sequence[str] = (),
) -> str:
    """The page, from what the tables were made of; the same input gives the same text.

    blocks: by the name of their table, built from `config.tables` at `config.sharpness.rho`. command: measures the same way again.
    """
    anchors = {run.folder: f"run-{i}" for i, run in enumerate(runs, 1)}
    columns = {table.title: expand(table.columns, config.sharpness.rho) for table in config.tables.values()}
    measures = {title: {c.header: (c.measure, c.config.scale) for c in found} for title, found in columns.items()}
    trace = tables_html.Trace({run.folder: run for run in runs}, anchors, measures)
    groups = contexts(runs)
    every = [(f"table-{i}", block) for i, block in enumerate((b for group in blocks.values() for b in group), 1)]
    entries = [entry(run, anchors[run.folder]) for run in runs]
    titles = {f"figures-{i}": f"Figures: {group.label}" for i, group in enumerate(groups, 1)}
    drawn = [el("section", el("h2", titles[at]), figures_of(group, anchors), id=at) for at, group in zip(titles, groups, strict=True)]
    hint = (
        "Click a column's header to sort by it (by the mean); click a number to see the runs behind it, and a run to see its command line."
    )
    main = join(
        el("section", el("h2", "Summary"), summary(runs, groups, config, command, problems), id="summary"),
        el("section", el("h2", "Tables"), el("p", hint, class_="hint"), *(tables_html.section(b, trace, p) for p, b in every), id="tables"),
        *drawn,
        el("section", el("h2", "Runs"), el("p", "Every run, with the command that makes it again.", class_="hint"), *entries, id="runs"),
    )
    links = [("#summary", "Summary"), *((f"#{p}", b.title) for p, b in every)]
    links += [*((f"#{at}", title) for at, title in titles.items()), ("#runs", "Runs")]
    return _page("Sharpness report", links, main)


def _page(title: str, links: Sequence[tuple[str, str]], main: Html) -> str:
    script, style = ((HERE / name).read_text("utf-8") for name in ("page.js", "page.css"))
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    head = join(
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("link", rel="icon", href="data:,"),
        el("style", Html(style)),
    )
    theme = el("button", "Dark or light", type="button", id="theme", class_="control")
    nav = el("nav", el("ul", *(el("li", el("a", words, href=href)) for href, words in links)))
    contents = el("details", el("summary", "Contents"), nav, class_="contents")
    body = el("body", el("header", el("h1", title), theme, contents), el("main", main), el("script", Html(script)))
    page = "<!doctype html>\n" + el("html", el("head", head), body, lang="en") + "\n"
    return page.encode("utf-8", "replace").decode()  # a folder's name may hold bytes that are no text


def _hash(source: str) -> str:
    """The source as the content security policy names it: nothing else runs, and nothing else styles."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
