"""What a call says at its start and end, and the README that states where the rows come from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam.campaign.campaign import Campaign
from sam.campaign.plan import Planned
from sam.campaign.rows import Row
from sam.campaign.timing import seconds_to_measure
from sam.results import identity, records
from sam.sharpness.subject import place
from sam.training.progress import clock

SHOWN = 14  # runs to do that are listed one by one


def remaining(campaign: Campaign, rows: Mapping[str, Row], runs: Sequence[Planned]) -> float:
    """Seconds that training and measuring these runs are expected to need still."""
    total = 0.0
    for run in runs:
        row = rows.get(run.label)
        if row is None:
            config = campaign.config(run)
            total += (config.epochs - _epochs_done(campaign, run)) * campaign.timing.epoch(config)
        elif row["status"] == records.DIVERGED:
            continue
        unmeasured = [name for name in campaign.wanted if row is None or name not in row["measured"]]
        total += seconds_to_measure(unmeasured, campaign.sizes(run), campaign.sharpness, campaign.timing)
    return total


def _epochs_done(campaign: Campaign, run: Planned) -> int:
    return len(records.read_metrics(identity.run_folder(campaign.config(run))))


def opening(campaign: Campaign) -> str:
    names, work = ", ".join(campaign.content["data"]), clock(campaign.options.seconds)
    return f"campaign in {campaign.out}: {names}, {_settings(campaign)}; this call has {work} for work."


def _settings(campaign: Campaign) -> str:
    s = campaign.settings
    return f"{s['model']}, protocol {s['protocol']}, {s['epochs']} epochs, batch {s['batch_size']}, precision {s['precision']}"


def closing(campaign: Campaign, rows: Mapping[str, Row]) -> str:
    """A table of what is done, under way and to do, what Table 3 still needs, and the command that goes on."""
    lines, undone = [], 0
    for run in campaign.runs:
        state = _state(campaign, rows.get(run.label), run)
        undone += state == "to do"
        if state != "to do" or undone <= SHOWN:
            lines.append(f"  {run.label:<24} {state}")
    if undone > SHOWN:
        lines.append(f"  ... and {undone - SHOWN} more to do")
    table3 = [run for run in campaign.runs if run.table == "Table 3" and run.seed == 0 and run.dataset == campaign.settings["dataset"]]
    left, all_left = remaining(campaign, rows, table3), remaining(campaign, rows, campaign.runs)
    if all_left:
        lines.append(f"Table 3 (seed 0) needs about {clock(left)} more, everything planned about {clock(all_left)}.")
        lines.append(f"to go on: {command(campaign)}")
    else:
        lines.append(f"Everything planned is done and measured; more seeds: {command(campaign)} seeds={campaign.options.seeds + 1}")
    return "\n".join(lines)


def command(campaign: Campaign) -> str:
    options = campaign.options
    plain = {"minutes": f"{options.minutes:g}", "out": options.out, "seeds": str(options.seeds), "device": options.device}
    words = [f"{key}={value}" for key, value in plain.items() if key in options.given or key in ("minutes", "out")]
    return shlex.join(["python", "scripts/gpu_sitting.py", *words])


def _state(campaign: Campaign, row: Row | None, run: Planned) -> str:
    if row is None:
        done = _epochs_done(campaign, run)
        folder = identity.run_folder(campaign.config(run))
        return f"under way, in epoch {done + 1} of {campaign.settings['epochs']}" if done or records.can_continue(folder) else "to do"
    if row["status"] == records.DIVERGED:
        return f"diverged in epoch {row['diverged_epoch']}"
    unmeasured = [name for name in campaign.sharpness.chosen if name not in row["measured"]]
    return f"done, {_headline(campaign, row)}" + (f"; not measured: {', '.join(unmeasured)}" if unmeasured else "")


def _headline(campaign: Campaign, row: Row) -> str:
    accuracy = records.number(row["test_accuracy"])
    sharpness, gap = (records.number(row["measures"].get(name)) for name in (_ascent(campaign), "gap"))
    parts = ["trained" if accuracy is None else f"test accuracy {accuracy:.2f}%"]
    parts += [] if sharpness is None else [f"L^Asc - L {sharpness:.4g}"]
    parts += [] if gap is None else [f"gap {gap:.4g}"]
    return ", ".join(parts)


def _ascent(campaign: Campaign) -> str:
    return f"sharpness{place(rho=campaign.sharpness.rho[0], bn='eval', batch='all')}"


# ------------------------------------------------------------------------------------------------------------------- README


def write(campaign: Campaign, rows: Mapping[str, Row]) -> None:
    records.write_atomic(campaign.out / "README.md", readme(campaign, rows))


def readme(campaign: Campaign, rows: Mapping[str, Row]) -> str:
    """Commands, commit, versions, data, hardware, and one line a run; made from campaign.json and the rows alone."""
    content, s = campaign.content, campaign.settings
    listed = [rows[run.label] for run in campaign.runs if run.label in rows]
    versions = content["environment"]["versions"]
    commits = list(dict.fromkeys(commit for row in listed for commit in row["commit"].split("; ")))
    prints = list(dict.fromkeys(f"{row['dataset']} {row['data_fingerprint']}" for row in listed))
    devices = list(dict.fromkeys(device for row in listed for device in row["device"].split("; ")))
    facts = {
        "commands": "; ".join(dict.fromkeys(f"`{_without_folder(call['command'])}`" for call in content["calls"])),
        "calls": f"{len(content['calls'])}, the first at {content['created']}",
        "runs trained at commit": ", ".join(commits) or "none yet",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "hardware": ", ".join(devices) or content["environment"]["device"],
        "data": ", ".join(prints) or "none yet",
        "every run": _settings(campaign),
        "epochs and precision": _why(campaign),
        "measured": f"in float32 with TF32 off, BatchNorm in eval mode, rho {campaign.sharpness.rho[0]:g}: L^Asc and gap over the full "
        f"set, L^Avg and the Hessian on a fixed subset of {s['subset']} training images where the name says subset={s['subset']}",
        **{name: _outcome(content["stages"].get(name)) for name in ("tests", "benchmark")},
    }
    lines = ["# Runs of a campaign", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {_cell(value)} |" for key, value in facts.items()]
    header = ("run", "method", "seed", "status", "test accuracy (%)", "L^Asc - L", "gap", "L^Avg - L", "λ1", "seconds", "notes")
    lines += ["", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    lines += [_line(campaign, row) for row in listed]
    lines += ["", *(f"- {note}" for note in content["notes"])]
    lines += ["- A row is one run with one seed; it says nothing about the spread over seeds."]
    lines += ["- rows.csv and rows.json hold every measure with its name; curves.csv every epoch of every run."]
    return "\n".join(lines) + "\n"


def _outcome(stage: Mapping[str, Any] | None) -> str:
    return "not run" if stage is None else f"{stage['status']}; {stage['summary']}"


def _line(campaign: Campaign, row: Row) -> str:
    measures = row["measures"]
    short = [next((name for name in measures if name.startswith(start)), "") for start in ("average[", "eigenvalue[k=1")]
    numbers = [records.number(measures.get(name)) for name in (_ascent(campaign), "gap", *short)]
    accuracy = records.number(row["test_accuracy"])
    cells: list[Any] = [row["label"], row["method"], row["seed"], row["status"], "" if accuracy is None else f"{accuracy:.2f}"]
    cells += ["" if number is None else f"{number:.4g}" for number in numbers]
    cells += [f"{row['seconds']:.0f}", "; ".join(row["notes"])]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _why(campaign: Campaign) -> str:
    t, s, asked = campaign.timing, campaign.settings, campaign.content["asked"]
    chosen = [name for name in ("epochs", "precision") if asked[name] == "auto"]
    how = f"{' and '.join(chosen)} chosen" if chosen else "given by hand"
    return (
        f"{how} when the campaign was created, for {s['budget_minutes']:g} minutes of Table 3 and at least {s['min_epochs']} epochs; timed "
        f"then: {1000 * t.first:.3g} ms a step of SGD, {1000 * t.further:.3g} ms each further pass, {t.steps} steps an epoch"
    )


def _without_folder(text: str) -> str:
    """The command with the script's name as it is called from the repository's root."""
    words = text.split(" ")
    return " ".join(f"scripts/{Path(word).name}" if word.endswith("gpu_sitting.py") else word for word in words)
