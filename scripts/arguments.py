"""Arguments of every script here: KEY=VALUE, plugins=MODULE, `--help`, and one sentence for a wrong one.

Import it before `sam`, `data` and `models`: it puts the repository on the path, so that a script runs from any folder.
"""

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sam.registry import load_plugins, names_plugins  # noqa: E402
from sam.text import sentence  # noqa: E402

Main = Callable[[list[str]], int]
WHAT = {int: "a whole number > 0", float: "a finite number > 0", bool: "true or false", str: "some text"}


def script(main: Main) -> Main:
    """Make `main(arguments) -> exit status` a script, and run it if its file was started: so it stands at the end of the file. `--help`
    prints the file's docstring (not after `--`, where another command follows); what a user got wrong is one sentence and status 2."""

    @functools.wraps(main)
    def guarded(arguments: list[str]) -> int:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # where ASCII is all that can be printed
        own = arguments[: arguments.index("--")] if "--" in arguments else arguments
        if {"-h", "--help"} & set(own):
            print(main.__globals__["__doc__"])
            return 0
        try:
            load_plugins(own)
            return main([word for word in own if not names_plugins(word)] + arguments[len(own) :])
        except Exception as error:
            hydras = type(error).__module__.partition(".")[0] in ("hydra", "omegaconf")  # not imported by every script
            if not hydras and not isinstance(error, (ValueError, OSError)):
                raise
            said = import_module("sam.runs.hydra_schema").in_our_words(error) if hydras else error
            print(f"error: {sentence(said)}", file=sys.stderr)
            return 2

    if main.__module__ == "__main__":
        sys.exit(guarded(sys.argv[1:]))
    return guarded


def parse(keys: Mapping[str, Any], arguments: Sequence[str], *, hydra: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Split arguments: (values of a script's own keys, the rest for Hydra, in order). ValueError, one sentence.

    keys: name -> default, whose type is the key's; or the type itself, where the default is None; or a tuple of the allowed words, the
    first of which is the default. hydra: whether other arguments are handed on.
    """
    values = {key: None if isinstance(kind, type) else kind[0] if isinstance(kind, tuple) else kind for key, kind in keys.items()}
    rest = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if key in keys and equals:
            values[key] = _value(argument, text, keys[key])
        elif hydra:
            rest += [argument] if argument not in ("-m", "--multirun") else []
        else:
            known = [f"{name}=..." for name in keys] + ["--help"]
            raise ValueError(f"{argument}: unknown argument; known here: {', '.join(known)}.")
    return values, rest


def _value(argument: str, text: str, kind: Any) -> Any:
    if isinstance(kind, tuple):
        if text not in kind:
            raise ValueError(f"{argument}: must be one of {', '.join(kind)}.")
        return text
    wanted = kind if isinstance(kind, type) else type(kind)
    try:
        value = {"true": True, "false": False}[text.lower()] if wanted is bool else wanted(text)
        if not text or (wanted in (int, float) and not (value > 0 and math.isfinite(value))):
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(f"{argument}: must be {WHAT[wanted]}.") from None
    return value
