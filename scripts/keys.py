"""Renew what the docs list of the code: docs/keys.md, and the table of methods in docs/methods.md.

python scripts/keys.py
"""

import re

from arguments import ROOT, parse, script

from sam.core.files import write_atomic
from sam.runs.help import markdown, methods


@script
def main(arguments: list[str]) -> int:
    parse({}, arguments)
    page = ROOT / "docs" / "methods.md"
    table = re.compile(r"^\| method .*?(?=\n\n)", re.MULTILINE | re.DOTALL)
    write_atomic(page, table.sub(lambda _: methods(), page.read_text(encoding="utf-8")))
    write_atomic(page.with_name("keys.md"), markdown())
    return 0
