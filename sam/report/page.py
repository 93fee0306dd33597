"""The report: one self-contained page that opens with what was found; then tables, figures, notes and runs. It loads nothing.

Every number links to its runs, every table to its notes.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sam.optimizers.settings import METHODS
from sam.report import drawing, figures, html_tables
from sam.report.figures import Gallery, Section
from sam.report.html import Html, el, join
from sam.sharpness.settings import SharpnessConfig
from sam.tables.cells import Block
from sam.tables.conditions import Condition, RunRow, data_label, grouped
from sam.text import counted

FEW = 4  # conditions whose figures stand open, entries of an open group of the contents, clauses of a finding
Record = Mapping[str, Any]
Part = tuple[str, Sequence[tuple[str, str]], Html]  # of the page: name, (id, words) of its sections, all of it
Measuring = SharpnessConfig | None  # None: nothing was measured for this page


def _pairs(pairs: Mapping[str, object]) -> Html:
    return el("dl", *(join(el("dt", name), el("dd", value)) for name, value in pairs.items()))


def _counted(values: Iterable[str]) -> str:
    """Count equal values: "a", or "a (39 runs); b (3 runs)"."""
    found = Counter(values)
    return next(iter(found)) if len(found) == 1 else "; ".join(f"{value} ({counted(n, 'run')})" for value, n in found.most_common())


def _made(record: Record) -> dict[str, str]:
    """Commit, versions and hardware that run.json records."""
    if len(sessions := record.get("segments", [])) > 1:
        each = [_made(session) for session in sessions]
        return {name: "; then ".join(dict.fromkeys(one[name] for one in each)) for name in each[0]}
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


def title(runs: Sequence[RunRow]) -> str:
    """What was swept: "SGD, SAM on digits: 57 runs"."""
    used = {run.config.optimizer.method for run in runs}
    plain = lambda data: replace(data, label_noise=0.0, train_size=None, sample="fixed")
    data = dict.fromkeys(data_label(plain(run.config.dataset), run.data_fingerprint) for run in runs)
    images = " and ".join(data) if len(data) <= FEW else f"{len(data)} data sets"
    return f"{', '.join(row.label for name, row in METHODS.items() if name in used)} on {images}: {counted(len(runs), 'run')}"


def _span(numbers: Iterable[int]) -> str:
    """ "5", or "3 to 5"."""
    found = sorted(numbers)
    return " to ".join(f"{n:,}" for n in dict.fromkeys((found[0], found[-1]))) if found else "unknown"


def facts(runs: Sequence[RunRow]) -> Html:
    """Scale, seeds and code, for a reader who asks how far the finding can be trusted."""
    models = ", ".join(dict.fromkeys(run.config.model.label for run in runs))
    images = _span(size for run in runs if (size := run.record.get("data", {}).get("train_images")))
    lost = sum(not run.is_finished for run in runs)
    found = {
        "Scale": f"{models}; {images} training images; {_span(run.config.epochs for run in runs)} epochs",
        "Seeds": f"{_span(Counter(run.setting for run in runs).values())} for each setting",
        "Runs": f"{len(runs) - lost} finished, {lost} diverged",
        "Commit": _counted(re.sub(r"\b(\w{12})\w{28}\b", r"\1", _made(run.record)["Commit"]) for run in runs),
    }
    return _pairs(found)


def how_made(runs: Sequence[RunRow], found: Sequence[Condition], sharpness: Measuring, command: str) -> Html:
    """Settings, measurement, dates, commit, versions, hardware, data; folded."""
    made = [_made(run.record) for run in runs]
    at = lambda s: f"{', '.join(s.chosen)}; at ρ {', '.join(f'{r:g}' for r in s.rho)}; batches of {s.m}"
    seeds = lambda c: ", ".join(map(str, sorted({run.config.seed for run in c.runs})))
    pairs = {
        "Settings": el("ul", *(el("li", f"{c.label}: {counted(len(c.runs), 'run')}, seeds {seeds(c)}") for c in found)),
        "Measured": at(sharpness) if sharpness else "whatever is stored beside the runs",
        "Measure again": el("code", command),
        "Trained": _when([run.record for run in runs]),
        **{name: _counted(one[name] for one in made) or "not recorded" for name in _made({})},
        "Data fingerprint": _counted(run.data_fingerprint or "unknown" for run in runs),
    }
    return el("details", el("summary", "Settings, versions and hardware"), _pairs(pairs))


def entry(run: RunRow, anchor: str) -> Html:
    """Entry of one run: how it ended, its files, the command that repeats it, and all its measures at full precision."""
    lost_at = "unknown" if run.diverged_epoch is None else run.diverged_epoch
    ended = "finished" if run.is_finished else f"diverged in epoch {lost_at}"
    pairs = {
        "Ended": ended,
        "Seed": run.config.seed,
        "Command": el("code", run.command, class_="command"),
        "Started as": el("code", run.record.get("segments", [run.record])[0].get("environment", {}).get("command") or "not recorded"),
        "Folder": el("code", run.folder),
        **{name: el("code", run.files[name]) if run.is_finished else "none: the run diverged" for name in ("Checkpoint", "Measures")},
        "Fingerprint": el("code", run.fingerprint),
        "Data fingerprint": el("code", run.data_fingerprint),
        **_made(run.record),
        "Trained": _when([run.record]),
    }
    numbers = [el("tr", el("th", name, scope="row"), el("td", "none" if v is None else repr(v))) for name, v in run.measures.items()]
    table = el("details", el("summary", f"{len(numbers)} measures, at full precision"), el("div", el("table", *numbers), class_="scroll"))
    accuracy = run.measures.get("test_accuracy")
    ending = f"{accuracy:.2f}% test accuracy" if accuracy is not None and run.is_finished else ended
    line = join(el("b", Path(run.folder).name or run.folder), " ", ending)
    return el("details", el("summary", line), _pairs(pairs), table if numbers else None, id=anchor, class_="run")


def _figure(section: Section, where: str, at: str, fold: bool) -> Html:
    """A section's panels with legend and caption below its heading. where: what the heading says besides; at: start of its ids."""
    heading, panels, caption, folded = section
    charts = [el("div", el("h4", p.title), drawing.svg(p, f"{at}-{j}"), class_="panel") for j, p in enumerate(panels)]
    figure = el("figure", el("div", *charts, class_="charts"), drawing.legend(panels), el("figcaption", caption))
    if folded or fold:
        return el("details", el("summary", heading, where), figure, class_="more")
    return el("section", el("h3", heading, where), figure)


def _pictures(found: Gallery) -> tuple[Html, Part]:
    """The figures that open the page, those of conditions with a finding (of all, if none has one), and the part with all others."""
    first, rest, names = list[Html](), list[Html](), list[tuple[str, str]]()
    finds = [bool(sections[0][1]) for _, sections in found]
    opens = finds if any(finds) else [True] * len(found)
    for i, ((condition, sections), open_) in enumerate(zip(found, opens, strict=True), 1):
        at, where = f"figures-{i}", f", {condition.label}" if len(found) > 1 else ""
        made = [_figure(own, where, f"{at}-{k}", sum(opens) > FEW) for k, own in enumerate(sections) if own[1]]
        first += made[:open_]
        if made := made[open_:]:
            rest.append(el("section", *made, id=at))
            names.append((at, condition.label))
    return el("div", *first, class_="openings"), ("Figures", names, el("section", el("h2", "Figures"), *rest) if rest else Html(""))


def _tables(every: Mapping[str, Block], trace: html_tables.Trace) -> Iterator[Part]:
    """A part a table, with a section a block. every: block by id of its section."""
    for name, own in grouped(every.items(), lambda item: item[1].table).items():
        sections = [html_tables.section(block, trace, at) for at, block in own]
        yield name, [(at, block.title.removeprefix(f"{name}, ")) for at, block in own], el("section", el("h2", name), *sections)


def _findings(every: Mapping[str, Block]) -> Html:
    """What the tables found, by condition, each sentence with its table: of several blocks of one table the first. every: by id."""
    found: dict[str, dict[str, Html]] = {}
    for at, block in every.items():
        if block.finding:
            line = el("li", block.finding, " (", el("a", block.table, href=f"#{at}"), ")")
            found.setdefault(block.about, {}).setdefault(block.table, line)
    parts = [join(el("h3", about), el("ul", *lines.values())) for about, lines in found.items()]
    none = None if parts else "No table states a finding for these runs; what was measured stands below."
    return el("div", *parts, none, class_="findings")


def report(
    runs: Sequence[RunRow], blocks: Sequence[Block], sharpness: Measuring, command: str, problems: Sequence[str], gallery: Gallery
) -> str:
    """Make the page; the same input gives the same text. sharpness, command: how the runs were measured (None: they were before), and how
    to do so again."""
    anchors, found = figures.anchors_of(runs), [condition for condition, _ in gallery]
    links = {folder: el("a", Path(folder).name or folder, href=f"#{at}") for folder, at in anchors.items()}
    every = {f"table-{i}": block for i, block in enumerate(blocks, 1)}
    notes = {note: i for i, note in enumerate(dict.fromkeys(n for b in blocks for n in html_tables.noted(b)), 1)}
    trace = html_tables.Trace({run.folder: run for run in runs}, links, notes)
    first, others = _pictures(gallery)
    entries = [el("section", el("h3", c.label), *(entry(run, anchors[run.folder]) for run in c.runs)) for c in found]
    hint = "Click a number to see the runs behind it, a run to see its command, and a column's header to sort by it (by the mean)."
    parts = [
        *([_part("problems", "Problems", el("ul", *(el("li", p) for p in problems)))] if problems else []),
        _part("found", "What was found", _findings(every), first, el("p", hint, class_="hint")),
        *_tables(every, trace),
        others,
        _part("notes", "Notes", html_tables.footnotes(every, notes)),
        _part("runs", "Runs", *entries),
        _part("made", "How this was made", how_made(runs, found, sharpness, command)),
    ]
    return _page(title(runs), facts(runs), parts)


def _part(at: str, name: str, *inside: Html) -> Part:
    return name, [(at, name)], el("section", el("h2", name), *inside, id=at)


def _contents(parts: Iterable[Part]) -> Html:
    """Table of contents. A part with many sections is folded."""
    items = []
    for name, sections, _ in parts:
        links = [el("li", el("a", words if len(sections) > 1 else name, href=f"#{at}")) for at, words in sections]
        items += [el("li", el("details", el("summary", name), el("ul", *links), open=len(links) <= FEW))] if len(links) > 1 else links
    return el("details", el("summary", "Contents"), el("nav", el("ul", *items), aria_label="Contents"), class_="contents")


def _page(name: str, about: Html, parts: Sequence[Part]) -> str:
    script, style = (Path(__file__).with_name(file).read_text("utf-8") for file in ("page.js", "page.css"))
    admitted = [f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'" for own in (script, style)]  # nothing else
    policy = "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'".format(*admitted)
    head = join(
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", name),
        el("link", rel="icon", href="data:,"),
        el("style", Html(style)),
    )
    theme = el("button", "Dark or light", type="button", id="theme", class_="control")
    main = el("main", *(html for *_, html in parts))
    body = el("body", el("header", el("h1", name), theme, about), _contents(parts), main, el("script", Html(script)))
    page = "<!doctype html>\n" + el("html", el("head", head), body, lang="en") + "\n"
    return page.encode("utf-8", "replace").decode()  # a folder's name may hold bytes that are no text
