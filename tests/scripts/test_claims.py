"""scripts/claims.py: the ledger of committed rows, of one's own documents, and of a page between its markers."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from sam.tables import ledger
from sam.tables.claims import read
from scripts import claims

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "results" / "campaign" / "rows"


def test_the_committed_rows_give_the_ledger_in_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"a\n{ledger.BEGIN}\n{ledger.END}\nb\n")
    assert claims.main([f"rows={ROWS}", f"out={tmp_path / 'out'}", f"readme={page}"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 and "Holm over 10 tests at 5%" in printed
    lines = json.loads((tmp_path / "out" / "ledger.json").read_text())
    planned = {line["id"] for line in lines if line["confirmatory"]}
    assert planned == {"2", "2-resnet20", "3", "3-resnet20", "4", "5", "6a", "6b", "7", "12b"}
    assert page.read_text().startswith(f"a\n{ledger.BEGIN}\n\n### Planned claims") and page.read_text().endswith(f"{ledger.END}\nb\n")
    assert all(f"\n| {name}. " in page.read_text() for name in planned)
    assert all((tmp_path / "out" / f"ledger.{suffix}").stat().st_size for suffix in ("csv", "tex"))


def test_the_readme_and_the_committed_ledger_are_what_the_committed_rows_give(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text((ROOT / "README.md").read_text())
    assert claims.main([f"rows={ROWS}", f"out={tmp_path}", f"readme={page}"]) == 0
    assert page.read_text() == (ROOT / "README.md").read_text()
    for file in (ROOT / "results" / "campaign" / "ledger").iterdir():
        assert file.read_text() == (tmp_path / file.name).read_text(), file.name


def test_own_documents_and_the_one_that_the_docs_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "claims.md").read_text(), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    assert read(tmp_path / "mine.yaml").seeds == [0, 4]
    assert claims.main([f"rows={ROWS}", f"claims={tmp_path}"]) == 0
    assert "descriptive" in capsys.readouterr().out
    assert ledger.documents(tmp_path, None, {})[0][1] == "in no plan"


def test_given_picks_and_a_plan_of_ones_own_count(tmp_path: Path) -> None:
    own, plan = tmp_path / "mine.yaml", tmp_path / "plan.sha256"
    own.write_text(
        "{id: x, statement: s, source: ours, kind: tolerance, margin: 1, n: 2, seeds: [0, 1], family: {name: mine, tests: 1},"
        " measure: {name: test_accuracy}, arms: {treatment: {method: sam, ascent_steps: 2, rho: '@R'}}}"
    )
    plan.write_text(f"{hashlib.sha256(own.read_bytes()).hexdigest()}  mine.yaml\n")
    given = [f"runs_dir={ROOT / 'tests/fixtures/runs/finished'}", f"claims={tmp_path}", f"hashes={plan}", "picks={R: 0.05}"]
    assert claims.main([*given, f"out={tmp_path / 'out'}"]) == 0
    (line,) = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert (line["verdict"], line["confirmatory"], line["n"]) == ("open: 1 of 2", True, 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give runs_dir=FOLDER or rows=FOLDER"),
        (["runs_dir=a", "rows=b"], "give runs_dir=FOLDER or rows=FOLDER"),
        (["rows=nowhere"], "rows=nowhere: unpack=nowhere: there is no such folder"),
        (["runs_dir=nowhere"], "runs_dir=nowhere: holds no finished run"),
        (["rows=x", "picks={R: wide}"], "picks={R: wide}: must hold names and numbers"),
        (["rows=x", "picks=0.2"], "picks=0.2: must hold names and numbers"),
        (["rows=x", "claims=nowhere"], "claims=nowhere: holds no claim"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_sentence(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert claims.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {told}") and error.count("\n") == 1
