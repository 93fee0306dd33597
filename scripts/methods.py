"""Renew the table in docs/methods.md: every method, its options, the keys that it reads, its cost.

python scripts/methods.py
"""

import re

from arguments import parse, script

from sam.runs.help import ROOT, methods


@script
def main(arguments: list[str]) -> int:
    parse({}, arguments)
    page = ROOT / "docs" / "methods.md"
    page.write_text(
        re.sub(r"^\| method .*?(?=\n\n)", lambda _: methods(), page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL), "utf-8"
    )
    return 0
