"""What the family's README shows is what `results/family/tables.sh` wrote."""

import csv
import re
import shutil
from pathlib import Path

import made_up
import pytest
from matplotlib.figure import Figure

FAMILY = Path(__file__).resolve().parents[2] / "results" / "family"


def rows(page: str, header: str) -> dict[str, list[str]]:
    """Method -> cells of the table with this header, of each cell the first line."""
    table = page[page.index(f"| {header} |") :].partition("\n\n")[0]
    cells = [[re.sub(r"<br>.*|\*\*", "", cell).strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]
    return {first: rest for first, *rest in cells if rest[0] != "not run"}


def test_the_pages_rows_are_the_tables() -> None:
    page, table = (FAMILY / "README.md").read_text("utf-8"), (FAMILY / "family.md").read_text("utf-8")
    picks = re.findall(r"^\w+: (\S+?)(?:;| \()", (FAMILY / "picks.txt").read_text("utf-8"), re.M)
    shown, whole = rows(page, "method"), rows(table, "Method")
    assert shown.keys() == whole.keys() and len(shown) == 2 + len(picks)
    assert sorted(filter(None, (cells[0].split(" (")[0] for cells in shown.values()))) == sorted(picks)
    for name, (_, cost, accuracy, difference, *rest) in shown.items():
        assert [accuracy, cost, *rest] == [whole[name][0], *whole[name][2:3], *whole[name][4:7]], name
        assert difference.split(" [")[0] == whole[name][7].replace("baseline", ""), name


def test_the_figure_shows_the_tables_means_and_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, met = made_up.program("family/figure.py"), dict[str, Figure]()
    shutil.copy(FAMILY / "family.csv", tmp_path)
    monkeypatch.setattr(program, "HERE", tmp_path)
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: met.setdefault(path.suffix, self))
    program.main()
    left, *beside = met[".png"].axes
    names = [text.get_text().rpartition("  ")[0] for text in left.get_yticklabels()]
    with (FAMILY / "family.csv").open(encoding="utf-8", newline="") as file:
        lines = {(line["column"], line["row"]): line for line in csv.DictReader(file)}
    for axes, column, own in [(left, program.ACCURACY, "difference_"), *((axes, axes.get_title(), "") for axes in beside)]:
        number = lambda name, end, column=column, own=own: float(lines[column, name][own + end])
        dots = {names[int(y)]: x for line in axes.lines if line.get_marker() == "o" for x, y in line.get_xydata()}
        bars = {names[int(y)]: (low, high) for drawn in axes.collections for (low, y), (high, _) in drawn.get_segments()}
        assert len(dots) >= len(names) - 4 and dots == {name: number(name, "mean") for name in dots}
        least = program.CUT if own else 0.0  # the axis ends there
        assert bars == {name: (max(number(name, "ci_low"), least), number(name, "ci_high")) for name in dots}
