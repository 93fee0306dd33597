"""Name, colour, dash and marker of each method in every figure."""

from dataclasses import dataclass

from sam.optimizers.settings import METHODS, OptimizerConfig
from sam.tables.conditions import Condition, TableRow, grouped, method_name, table_rows
from sam.tables.settings import RowConfig

# Okabe & Ito's colours, which stay apart for colour-blind readers; the yellow is left out, as too pale on white.
# One for each name in ORDER, grey for the other settings of those methods, and the rest for methods that are not known here. The black is
# not 0: matplotlib's SVG leaves that one out, and a page in the dark could not lighten it.
COLOURS = (
    *("#010101", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#7F7F7F"),
    *("#7B3FA0", "#8B5A2B", "#6B7A00", "#A3123A", "#008C95"),
)
ORDER = ("SGD", "Rand-SAM", "SAM N=1", "SAM N=2", "SAM N=3", "SAM N=5", "XSAM")
KNOWN = ("sgd", "rand_sam", "sam", "xsam")
LINES, MARKERS = ("-", "--", ":", "-."), "os^DvPXp><h*"  # as matplotlib names them


@dataclass(frozen=True)
class Style:
    """Label for the legend, and indices of a colour (0 to 12), a dash (0 to 3) and a marker (0 to 11)."""

    label: str
    colour: int = 0
    dash: int = 0
    marker: int = 0


@dataclass(frozen=True)
class Look:
    """One method in one setting: its runs and its style."""

    row: TableRow
    style: Style


def _slot(optimizer: OptimizerConfig) -> int:
    """Index of the method's place among the colours; independent of which other methods are shown."""
    name, others = method_name(optimizer), [method for method in METHODS if method not in KNOWN]
    if name in ORDER:
        return ORDER.index(name)
    return len(ORDER) if optimizer.method in KNOWN else len(ORDER) + 1 + others.index(optimizer.method)


def _style(label: str, slot: int, setting: int) -> Style:
    """Style of a slot's setting (from 0). Methods that are not known here start with another dash than known ones."""
    known, new = len(ORDER) + 1, slot - len(ORDER) - 1
    if new < 0:
        return Style(label, slot, setting % 4, (slot + setting + setting // 8) % 8)
    return Style(label, known + new % (len(COLOURS) - known), (new + 1 + setting) % 4, (slot + setting + setting // 12) % 12)


def looks(condition: Condition) -> list[Look]:
    """The methods of a condition in a fixed order; settings of one method share a colour and differ in dash and marker."""
    place = lambda o: (_slot(o), list(METHODS).index(o.method), getattr(o, "ascent_steps", 1), method_name(o))
    by_name = sorted(grouped(condition.runs, lambda run: place(run.config.optimizer)).items())
    found = [(slot, row) for (slot, _, _, name), runs in by_name for row in table_rows(RowConfig(label=name), runs)]
    slots = [slot for slot, _ in found]
    return [Look(row, _style(row.label, slot, slots[:i].count(slot))) for i, (slot, row) in enumerate(found)]
