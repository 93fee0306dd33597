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
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^\| method .*?(?=\n\n)", lambda _: methods(), text, flags=re.MULTILINE | re.DOTALL)
    page.write_text(text, encoding="utf-8")
    return 0
