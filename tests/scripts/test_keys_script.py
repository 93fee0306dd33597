"""scripts/keys.py renews docs/keys.md and the table in docs/methods.md, and nothing else of that page."""

from pathlib import Path

import keys
import pytest

from sam.runs.help import markdown, methods


def test_it_writes_both_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "methods.md").write_text("# Before\n\n| method | old |\n| --- | --- |\n| gone | 1 |\n\n## After | method\n")
    monkeypatch.setattr(keys, "ROOT", tmp_path)
    assert keys.main([]) == 0
    assert (tmp_path / "docs" / "methods.md").read_text() == f"# Before\n\n{methods()}\n\n## After | method\n"
    assert (tmp_path / "docs" / "keys.md").read_text() == markdown()
