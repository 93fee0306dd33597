"""Print docs/keys.md: every key of train.py and evaluate_sharpness.py, with its default, what it may be, and what it means.

python scripts/keys.py > docs/keys.md
"""

from arguments import parse, script

from sam.runs.help import markdown


@script
def main(arguments: list[str]) -> int:
    parse({}, arguments)
    print(markdown(), end="")
    return 0
