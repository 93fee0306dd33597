"""The report: one self-contained page of tables and figures, with links from every number to its runs. It loads nothing."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sam.report import drawing, figures, html_tables
from sam.report.figures import Anchors, Kept
from sam.report.html import Html, el, join, text
from sam.sharpness.settings import SharpnessConfig
from sam.tables.cells import Block
from sam.tables.conditions import Condition, RunRow, conditions
from sam.text import counted

Record = Mapping[str, Any]


def _pairs(pairs: Iterable[tuple[str, object]]) -> Html:
    return el("dl", *(join(el("dt", name), el("dd", value)) for name, value in pairs))


def _counted(values: Iterable[str]) -> str:
    """Count equal values: "a", or "a (39 runs); b (3 runs)"."""
    found = Counter(values)
    return next(iter(found)) if len(found) == 1 else "; ".join(f"{value} ({counted(n, 'run')})" for value, n in found.most_common())


def _made(record: Record) -> dict[str, str]:
    """Commit, versions and hardware that run.json records."""
    here = record.get("environment", {})
    state = {True: ", modified", False: ", unmodified", None: ", unknown whether modified"}[here.get("modified")]
    found = {
        "Commit": f"{here['commit']}{state}" if here.get("commit") else "",
        "Versions": ", ".join(f"{name} {version}" for name, version in here.get("versions", {}).items()),
        "Hardware": f"{here['device']}, {here.get('cores')} cores, threads of a run: {here.get('threads')}" if here.get("device") else "",
    }
    return {name: value or "not recorded" for name, value in found.items()}


def _when(all_records: Sequence[Record]) -> str:
    times = sorted(str(r[key])[:16].replace("T", " ") for r in all_records for key in ("started", "ended") if r.get(key))
    zone = "UTC" if all(str(r.get("started", "+00:00")).endswith("+00:00") for r in all_records) else "local time"
    return f"{times[0]} to {times[-1]} ({zone})" if times else "not recorded"


def summary(runs: Sequence[RunRow], found: Sequence[Condition], sharpness: SharpnessConfig, command: str, problems: Sequence[str]) -> Html:
    """Counts, measurement settings, dates, commit, versions, hardware, data; and problems."""
    made = [_made(run.record) for run in runs]
    lost = sum(not run.is_finished for run in runs)
    pairs: list[tuple[str, object]] = [
        ("Runs", f"{len(runs)}: {len(runs) - lost} finished, {lost} diverged"),
        ("Settings", el("ul", *(el("li", f"{c.label}: {counted(len(c.runs), 'run')}, seeds {_seeds(c)}") for c in found))),
        ("Measured", f"{', '.join(sharpness.chosen)}; at ρ {', '.join(f'{r:g}' for r in sharpness.rho)}; batches of {sharpness.m}"),
        ("Measure again", el("code", command)),
        ("Trained", _when([run.record for run in runs])),
        *((name, _counted(one[name] for one in made) or "not recorded") for name in _made({})),
        ("Data fingerprint", _counted(run.data_fingerprint or "unknown" for run in runs)),
    ]
    warned = el("section", el("h3", "Problems"), el("ul", *(el("li", p) for p in problems)), class_="problems") if problems else None
    return join(_pairs(pairs), warned)


def _seeds(condition: Condition) -> str:
    return ", ".join(map(str, sorted({run.config.seed for run in condition.runs})))


def entry(run: RunRow, anchor: str) -> Html:
    """Entry of one run: how it ended, its files, the command that repeats it, and all its measures at full precision."""
    lost_at = "unknown" if run.diverged_epoch is None else run.diverged_epoch
    ended = "finished" if run.is_finished else f"diverged in epoch {lost_at}"
    pairs: list[tuple[str, object]] = [
        ("Ended", ended),
        ("Seed", run.config.seed),
        ("Command", el("code", run.command, class_="command")),
        ("Started as", el("code", run.record.get("environment", {}).get("command") or "not recorded")),
        ("Folder", el("code", run.folder)),
        *((name, el("code", run.files[name]) if run.is_finished else "none: the run diverged") for name in ("Checkpoint", "Measures")),
        ("Fingerprint", el("code", run.fingerprint)),
        ("Data fingerprint", el("code", run.data_fingerprint)),
        *_made(run.record).items(),
        ("Trained", _when([run.record])),
    ]
    numbers = [el("tr", el("th", name, scope="row"), el("td", "none" if v is None else repr(v))) for name, v in run.measures.items()]
    table = el("details", el("summary", f"{len(numbers)} measures, at full precision"), el("div", el("table", *numbers), class_="scroll"))
    accuracy = run.measures.get("test_accuracy")
    ending = f"{accuracy:.2f}% test accuracy" if accuracy is not None and run.is_finished else ended
    line = join(el("b", Path(run.folder).name or run.folder), " ", text(ending))
    return el("details", el("summary", line), _pairs(pairs), table if numbers else None, id=anchor, class_="run")


def figures_of(condition: Condition, anchors: Anchors, kept: Kept, at: str) -> Html:
    """All figures that the condition has data for; those of secondary measures are collapsed."""
    opening = ("The finding", figures.opening(condition, anchors), figures.OPENING, False)
    parts = []
    for i, (heading, panels, caption, folded) in enumerate([opening, *figures.sections(condition, anchors, kept)]):
        charts = [el("div", el("h4", p.title), drawing.svg(p, f"{at}-{i}-{j}"), class_="panel") for j, p in enumerate(panels)]
        drawn = el("figure", el("div", *charts, class_="charts"), drawing.legend(panels), el("figcaption", caption))
        closed = el("details", el("summary", heading), drawn, class_="more") if folded else None
        parts.append(closed or el("section", el("h3", heading), drawn))
    return join(*parts)


HERE = Path(__file__).parent


def report(
    runs: Sequence[RunRow],
    blocks: Sequence[Block],
    sharpness: SharpnessConfig,
    command: str,
    problems: Sequence[str] = (),
    kept: Kept | None = None,
) -> str:
    """Make the page; the same input gives the same text. sharpness, command: how the runs were measured, and how to do so again."""
    anchors = {run.folder: f"run-{i}" for i, run in enumerate(runs, 1)}
    trace = html_tables.Trace({run.folder: run for run in runs}, anchors)
    found = conditions(runs)
    every = [(f"table-{i}", block) for i, block in enumerate(blocks, 1)]
    entries = [entry(run, anchors[run.folder]) for run in runs]
    figured = [(f"figures-{i}", f"Figures: {c.label}", figures_of(c, anchors, kept or {}, f"figures-{i}")) for i, c in enumerate(found, 1)]
    hint = (
        "Click a column's header to sort by it (by the mean); click a number to see the runs behind it, and a run to see its command line."
    )
    main = join(
        el("section", el("h2", "Summary"), summary(runs, found, sharpness, command, problems), id="summary"),
        el("section", el("h2", "Tables"), el("p", hint, class_="hint"), *(html_tables.section(b, trace, p) for p, b in every), id="tables"),
        *(el("section", el("h2", title), drawn, id=at) for at, title, drawn in figured),
        el("section", el("h2", "Runs"), el("p", "Every run, with the command that makes it again.", class_="hint"), *entries, id="runs"),
    )
    links = [("#summary", "Summary"), *((f"#{p}", b.title) for p, b in every)]
    links += [*((f"#{at}", title) for at, title, _ in figured), ("#runs", "Runs")]
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
    """Hash of a script or style for the content security policy, which admits nothing else."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
