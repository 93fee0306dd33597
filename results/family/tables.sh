#!/usr/bin/env bash
# The family's table and picks from the committed rows, without checkpoints or images: bash results/family/tables.sh
# PYTHON: the interpreter. Bytes repeat with the same versions.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python} here=results/family runs=runs/family

"$python" scripts/rows.py unpack=$here/rows runs_dir=$runs
"$python" $here/picks.py radii $runs/tuning >$here/picks.txt
"$python" evaluate_sharpness.py runs_dir=$runs/final table=family stored=true 'sharpness.rho=[0.05]'
cp $runs/final/tables/family.{md,csv,tex} $here/
"$python" $here/figure.py
