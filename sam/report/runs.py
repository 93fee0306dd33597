"""What was measured and where: the summary at the top, and the entry of every run at the bottom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sam.config import EvaluateConfig, counted
from sam.report.html import Html, el, join, text
from sam.tables.table import Context, RunRow

Record = Mapping[str, Any]


def _pairs(pairs: Iterable[tuple[str, object]]) -> Html:
    return el("dl", *(join(el("dt", name), el("dd", value)) for name, value in pairs))


def _counted(values: Iterable[str]) -> str:
    """ "a", or "a (39 runs); b (3 runs)"."""
    found = Counter(values)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{value} ({n} run{'s' if n > 1 else ''})" for value, n in found.most_common()) or "not recorded"


def _commit(record: Record) -> str:
    here = record.get("environment", {})
    state = {True: ", modified", False: ", unmodified", None: ", unknown whether modified"}[here.get("modified")]
    return f"{here['commit']}{state}" if here.get("commit") else "not recorded"


def _versions(record: Record) -> str:
    versions = record.get("environment", {}).get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"


def _hardware(record: Record) -> str:
    here = record.get("environment", {})
    return f"{here['device']}, {here.get('cores')} cores, threads of a run: {here.get('threads')}" if here.get("device") else "not recorded"


def _when(all_records: Sequence[Record]) -> str:
    times = sorted(str(r[key])[:16].replace("T", " ") for r in all_records for key in ("started", "ended") if r.get(key))
    zone = "UTC" if all(str(r.get("started", "+00:00")).endswith("+00:00") for r in all_records) else "local time"
    return f"{times[0]} to {times[-1]} ({zone})" if times else "not recorded"


def summary(runs: Sequence[RunRow], groups: Sequence[Context], config: EvaluateConfig, command: str, problems: Sequence[str]) -> Html:
    """Counts, settings of the measurement, dates, commit, versions, hardware, data; and what went wrong."""
    own = [run.record for run in runs]
    lost = sum(not run.is_finished for run in runs)
    sharpness = config.sharpness
    pairs: list[tuple[str, object]] = [
        ("Runs", f"{len(runs)}: {len(runs) - lost} finished, {lost} diverged"),
        ("Settings", el("ul", *(el("li", f"{g.label}: {counted(len(g.runs), 'run')}, seeds {_seeds(g)}") for g in groups))),
        ("Measured", f"{', '.join(sharpness.chosen)}; at ρ {', '.join(f'{r:g}' for r in sharpness.rho)}; batches of {sharpness.m}"),
        ("Measure again", el("code", command)),
        ("Trained", _when(own)),
        ("Commit", _counted(map(_commit, own))),
        ("Versions", _counted(map(_versions, own))),
        ("Hardware", _counted(map(_hardware, own))),
        ("Data fingerprint", _counted(run.data_fingerprint or "unknown" for run in runs)),
    ]
    warned = el("section", el("h3", "Problems"), el("ul", *(el("li", p) for p in problems)), class_="problems") if problems else None
    return join(_pairs(pairs), warned)


def _seeds(context: Context) -> str:
    return ", ".join(map(str, sorted({run.config.seed for run in context.runs})))


def entry(run: RunRow, anchor: str) -> Html:
    """All that is known of a run: how it ended, where it lies, the command that makes it again, and every number at full precision."""
    ended = f"diverged in epoch {'unknown' if run.diverged_epoch is None else run.diverged_epoch}"
    ended = "finished" if run.is_finished else ended
    folder = Path(run.folder)
    recorded = str(run.record.get("environment", {}).get("command") or "not recorded")
    pairs: list[tuple[str, object]] = [
        ("Ended", ended),
        ("Seed", run.config.seed),
        ("Command", el("code", run.command, class_="command")),
        ("Started as", el("code", recorded)),
        ("Folder", el("code", run.folder)),
        *((name, el("code", run.files[name]) if run.is_finished else "none: the run diverged") for name in ("Checkpoint", "Measures")),
        ("Fingerprint", el("code", run.fingerprint)),
        ("Data fingerprint", el("code", run.data_fingerprint)),
        ("Commit", _commit(run.record)),
        ("Versions", _versions(run.record)),
        ("Hardware", _hardware(run.record)),
        ("Trained", _when([run.record])),
    ]
    numbers = [el("tr", el("th", name, scope="row"), el("td", "none" if v is None else repr(v))) for name, v in run.measures.items()]
    table = el("details", el("summary", f"{len(numbers)} measures, at full precision"), el("div", el("table", *numbers), class_="scroll"))
    accuracy = run.measures.get("test_accuracy")
    ending = f"{accuracy:.2f}% test accuracy" if accuracy is not None and run.is_finished else ended
    line = join(el("b", folder.name or run.folder), " ", text(ending))
    return el("details", el("summary", line), _pairs(pairs), table if numbers else None, id=anchor, class_="run")
