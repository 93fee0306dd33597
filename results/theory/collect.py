"""Long tables and figures of the notions `direction` and `rounding` from what evaluate_sharpness.py wrote.

python results/theory/collect.py direction OUT "ResNet-20=FILE.sharpness.json" "digits=RUNS/tables/kept.csv" ...
python results/theory/collect.py rounding OUT "ResNet-20=FILE.sharpness.json" "digits=RUNS/tables/runs.csv" ...
python results/theory/collect.py planes OUT "plane_xsam[rho=0.5,subset=512]" "SAM=RUN_FOLDER" "SAM, N = 5=RUN_FOLDER" ...
"""

import csv
import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sam.report import drawing, sheets
from sam.report.directions import WAYS, X, curves, exact
from sam.report.looks import Style
from sam.report.panels import Axis, Panel, Series, averaged, panel_csv, stem, wide
from sam.report.planes import AXES, plane_of
from sam.tables.statistics import is_finite

Net = tuple[str, str, str, dict[str, float | None]]  # name, run, epoch, measures
METHODS = {"sgd": "SGD", "sam": "SAM", "rand_sam": "Rand-SAM", "xsam": "XSAM"}


def nets(argument: str) -> list[Net]:
    """The networks of one argument NAME=FILE."""
    name, _, file = argument.rpartition("=")
    if file.endswith(".json"):
        rows = json.loads(Path(file).read_text())["rows"].values()
        return [(name, "", "", {k: v for row in rows for k, v in row.get("values", row.get("measures", {})).items()})]
    found = []
    for row in csv.DictReader(Path(file).read_text().splitlines()):
        steps, rho = row.get("optimizer.ascent_steps", ""), row.get("optimizer.rho", "")
        method = METHODS[row["optimizer.method"]] + (f" N={steps}" if steps not in ("", "1") else "") + (f" rho {rho}" if rho else "")
        measured = {k: float(v) if v else None for k, v in row.items() if re.match(r"(direction|rounding)_", k) and v is not None}
        found.append((f"{name}, {method}", f"seed {row['seed']}", row.get("epoch", ""), measured))
    return found


def write(panels: list[Panel], out: Path) -> None:
    for panel in panels:
        (out / f"{panel.name}.csv").write_text(panel_csv(panel))
        for form in ("pdf", "png"):
            (out / f"{panel.name}.{form}").write_bytes(drawing.draw(panel, form))


def long_table(found: list[Net], kind: str, file: Path) -> None:
    """A line a number: net, run, epoch, measure, and the keys in its brackets."""
    keys = ("v", "to", "along", "rho", "reach", "k", "bn", "subset")
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["net", "run", "epoch", "measure", *keys, "value", "stderr"])
        for name, run, epoch, measures in found:
            for full, value in measures.items():
                if not full.startswith(f"{kind}_") or "_stderr" in full or value is None:
                    continue
                base, _, inside = full.removesuffix("]").partition("[")
                parts = dict(part.split("=") for part in inside.split(",") if part)
                error = measures.get(full.replace(base, f"{base}_stderr", 1))
                writer.writerow([name, run, epoch, base, *(parts.get(key, "") for key in keys), value, "" if error is None else error])


def panel(title: str, x: Axis, y: Axis, series: list[Series], z: Axis | None = None) -> Panel:
    return Panel(stem(title), title, title, x, y, series, z)


def direction(found: list[Net], out: Path) -> list[Panel]:
    """Wins and alpha* of all nets at every rho; shares of each net; of several epochs, the share along g_1 over training; of several
    numbers of ascent steps, the share along g_k."""
    last = {(name, run): measures for name, run, _, measures in found}
    names = list(dict.fromkeys(name for name, _ in last))
    colours = [c for c in range(13) if c != 7]  # 7 is the exact quadratic's
    styles = {name: Style(name, colours[i % 12], i % 4, i % 8) for i, name in enumerate(names)}
    known = {key: curves(measures) for key, measures in last.items()}
    made = []
    rhos = sorted({key[2] for one in known.values() for key in one if key[3] == 1}, key=float)
    for rho in rhos:
        own = [name for name in names if any(("wins", "", rho, 1, "") in known[key] for key in known if key[0] == name)]
        kinds = {"CIFAR-10": [n for n in own if "digits" not in n], "digits": [n for n in own if "digits" in n]}
        for (what, of), kind in itertools.product(kinds.items(), ("wins", "alpha")):
            y = Axis("α*") if kind == "alpha" else Axis("Batches on which g_1 rises above g_0 (share)", low=-0.05, high=1.05)
            lines = [averaged(styles[n], [known[key][kind, "", rho, 1, ""] for key in known if key[0] == n]) for n in of]
            reaches = sorted({x for one in lines for x in one.x if x is not None})
            title = f"{'g_1 above g_0' if kind == 'wins' else 'alpha star'}, rho {rho}, {what}"
            made += [panel(title, X, y, [*lines, *exact(kind, 1, reaches)])] if reaches else []
        for n in own:
            lines = [averaged(style, [known[key]["share", way, rho, 1, ""] for key in known if key[0] == n]) for way, style in WAYS.items()]
            axis = Axis("Share of the best rise met in the ball", high=1.05, low=-0.05)
            made.append(panel(f"share of the best rise, rho {rho}, {n}", X, axis, lines))
    if len({epoch for *_, epoch, _ in found}) > 2:
        for rho in rhos:
            where = f"[v=g1,rho={rho},reach=1,k=1]"
            lines = []
            for n in names:
                of = [(float(epoch), m.get(f"direction_share{where}")) for name, _, epoch, m in found if name == n and epoch]
                lines += [averaged(styles[n], [([e], [v]) for e, v in of])] if of else []
            if any(is_finite(v) for one in lines for v in one.y):
                title = f"share along g_1 over training, rho {rho}"
                made.append(panel(title, Axis("Epoch", whole=True), Axis("Share of the best rise"), lines))
    steps = sorted({key[3] for one in known.values() for key in one if key[0] == "share"})
    for reach in (1.0, 2.0) if len(steps) > 1 else ():
        lines = []
        for name, rho in itertools.product(names, rhos):
            at = lambda key, k, rho=rho, reach=reach: dict(zip(*known[key].get(("share", "gk", rho, k, ""), ((), ())), strict=True)).get(
                reach
            )
            paths = [(steps, [at(key, k) for k in steps]) for key in known if key[0] == name]
            if any(is_finite(value) for _, values in paths for value in values):
                i = len(lines)
                lines.append(averaged(Style(f"{name}, ρ {rho}", colours[i % 12], i % 4, i % 8), paths))
        axis = Axis("Share of the best rise along g_k", high=1.05, low=0.0)
        made.append(panel(f"share along g_k after k ascent steps, radius {reach:g} rho", Axis("Ascent steps k", whole=True), axis, lines))
    return made


def rounding(found: list[Net], out: Path) -> list[Panel]:
    """The cosine over rho, a panel a number format and direction, a line a net (the mean of its runs)."""
    kinds = [(re.sub(r", (SGD|X?SAM|Rand-SAM).*", "", name), measures) for name, _, _, measures in found]  # of all methods together
    names, made = list(dict.fromkeys(name for name, _ in kinds)), []
    for to in ("bf16", "tf32"):
        for along in ("gradient", "random"):
            lines = []
            for i, name in enumerate(names):
                paths = []
                for other, measures in kinds:
                    points = [
                        (float(match[1]), value)
                        for full, value in measures.items()
                        if (match := re.match(rf"rounding_cosine\[to={to},along={along},rho=([^,\]]+)", full))
                    ]
                    if other == name and points:
                        paths.append(tuple(zip(*sorted(points), strict=True)))
                lines.append(averaged(Style(name, i % 13, i % 4, i % 8), paths))  # type: ignore[arg-type]
            papers: Any = [Series(Style(""), "mark", [0.05], [None], names=["papers' ρ"])]
            level: Any = [Series(Style("0.9"), "level", [None], [0.9], [None], [None])]
            x, y = Axis("ρ", log=True), Axis("Cosine of what a forward sees and what was meant", low=0, high=1.02)
            made.append(panel(f"cosine under rounding to {to}, {along} direction", x, y, [*lines, *papers, *level]))
    return made


def planes(name: str, arguments: list[str], out: Path) -> None:
    """Maps of one plane, of several runs, on one colour scale: one figure, and a CSV of each map."""
    maps = []
    for argument in arguments:
        label, _, folder = argument.rpartition("=")
        rows = json.loads((Path(folder) / "sharpness.json").read_text())["rows"].values()
        series = {k: v for row in rows for k, v in row.get("series", {}).items()}
        maps.append((label, plane_of(series, name)))
    values = [v for _, plane in maps for v in plane[0].z if is_finite(v)]
    z = Axis("Loss", log=wide(values, 5), low=min(values), high=max(values))
    x, y = map(Axis, AXES[name.partition("[")[0]])
    short = replace(y, label="Orthogonal part of the gradient there")
    panels = [panel(f"{name.partition('[')[0]} {label}", x, short, plane, z) for label, plane in maps]
    for one in panels:
        (out / f"{one.name}.csv").write_text(panel_csv(one))
    for form in ("pdf", "png"):
        (out / f"loss-planes.{form}").write_bytes(sheets.sheet(panels, [label for label, _ in maps], form))


if __name__ == "__main__":
    what, folder, *rest = sys.argv[1:]
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    if what == "planes":
        planes(rest[0], rest[1:], out)
    else:
        every = [net for argument in rest for net in nets(argument)]
        long_table(every, what, out / f"{what}.csv")
        write({"direction": direction, "rounding": rounding}[what](every, out), out)
