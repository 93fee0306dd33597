"""What the family's README shows is what `results/family/tables.sh` wrote."""

import re
from pathlib import Path

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
