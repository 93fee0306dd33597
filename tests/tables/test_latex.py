"""The LaTeX of tables in a two-column paper: pdflatex takes it, and nothing stands out of its column."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import made_up
import pytest
from test_hostile_text import HOSTILE, blocks_with
from test_table_tests import planted

from sam.tables.cells import Block, Cell
from sam.tables.latex import latex, latex_full
from sam.tables.table import build

PAPER = r"""\documentclass[twocolumn]{article}
\usepackage[T1]{fontenc}
\usepackage[letterpaper,textwidth=6.75in,textheight=9in]{geometry}
\setlength{\columnsep}{0.25in}  %% columns of 3.25 in
\usepackage{booktabs,longtable,array}
\begin{document}
%s
\clearpage\onecolumn
%s
\end{document}
"""


def compiled(folder: Path, blocks: Sequence[Block]) -> list[str]:
    """Typeset both forms, and return what LaTeX says of boxes that are too wide by more than 2 pt, and of labels."""
    if shutil.which("pdflatex") is None:
        assert not os.environ.get("CI"), "pdflatex is missing: .ci/run installs texlive-latex-recommended"
        pytest.skip("needs pdflatex (Debian: texlive-latex-recommended)")
    (folder / "paper.tex").write_text(PAPER % (latex(blocks, "t"), latex_full(blocks)), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    log = (folder / "paper.log").read_text(errors="replace")
    assert done.returncode == 0, log[-2000:]
    wide = [line for line in log.splitlines() if (m := re.match(r"Overfull \\hbox \(([\d.]+)pt", line)) and float(m[1]) > 2]
    return wide + [line for line in log.splitlines() if "multiply" in line]


def pivot(columns: int) -> Block:
    """Methods over rho, as a sweep has them."""
    cells = [Cell("value", (f"9{i % 10}.20 ± 0.26", "n = 3"), f"c{i}", best=i == 3, folders=("a",)) for i in range(columns)]
    rows = tuple((Cell("label", (name,)), *cells) for name in ("SGD", "SAM N=1", "SAM N=5", "Rand-SAM"))
    header = ("Method", *(f"rho {0.05 * 2**i:g}" for i in range(columns)))
    return Block("s", "Test accuracy (%) by rho", 1, header, rows, finding="Largest: SAM N=5 at rho 0.4.")


def test_tables_fit_their_column(tmp_path: Path) -> None:
    shipped = [b for name in ("table2", "table3", "measures") for b in build(made_up.load(name), made_up.runs(), made_up.RHOS)]
    assert compiled(tmp_path, [planted(), *shipped, *map(pivot, (2, 4, 7, 20))]) == []


def test_any_text_can_be_typeset(tmp_path: Path) -> None:
    compiled(tmp_path, [block for text in HOSTILE.values() for block in blocks_with(text)[0]])


def test_compact_table_says_what_was_found_and_marks_it() -> None:
    text = latex([planted(), replace(planted(), title="Another")], "table3")
    assert r"\label{tab:table3}" in text and r"\label{tab:table3-2}" in text
    assert r"\caption{digits demo. SAM is above SGD by 0.80 points {[}0.76, 0.85] (Holm p 3e-6, n 5);" in text
    assert r"SAM & \textbf{96.82 $\pm$ 0.18$^{\dagger}$} & 3.00 $\pm$ 0.07" in text
    assert r"XSAM & 96.16 $\pm$ 0.42 & 4.04" in text  # not told apart from SGD, and no more the best
    assert r"$^{\dagger}$ differs from SGD, paired t test, Holm-corrected p $\le$ 0.05" in text


def test_a_wide_pivot_goes_across_both_columns() -> None:
    assert r"\begin{table}" in latex([pivot(4)], "s") and r"\begin{table*}" in latex([pivot(12)], "s")
    assert latex([pivot(12)], "s").count(r"\begin{tabular}{@{}l") == 2
    assert all(f"rho {0.05 * 2**i:g}" in latex([pivot(12)], "s") for i in range(12))


def test_the_long_form_has_a_difference_in_the_line_of_its_column() -> None:
    (line,) = [line for line in latex_full([planted()]).splitlines() if ", SAM & Accuracy" in line]
    assert line.partition(" & difference from row SGD: ")[2].startswith(r"+0.80\quad {[}+0.76, +0.85]")
