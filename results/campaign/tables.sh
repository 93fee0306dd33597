#!/usr/bin/env bash
# Tables, figures and verdicts from the committed rows, without checkpoints or images: bash results/campaign/tables.sh
# PYTHON: the interpreter. Bytes repeat with the same versions of torch, NumPy and matplotlib.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python} here=results/campaign runs=runs/campaign

"$python" scripts/rows.py unpack=$here/rows runs_dir=$runs
tables() { # tables STAGE ARGUMENTS: what is shown of a stage, of all that was measured of it
    local stage=$1
    shift
    [ -d "$runs/$stage" ] || return 0
    "$python" evaluate_sharpness.py "runs_dir=$runs/$stage" "out=$here/$stage" stored=true "$@"
}
tables stage0 table=sweep
for stage in stage1 stage4; do tables $stage 'sharpness.rho=[0.05,0.5]'; done
tables stage3_tuning table=sweep
tables stage3 'sharpness.rho=[0.05,0.1]'
radii=() # of stages whose tuning is done
if eval "$("$python" $here/picks.py sam 2>/dev/null)" && [ -n "${R:-}" ]; then radii+=("stage1=$R" "stage4=$R"); fi
if eval "$("$python" $here/picks.py resnet20 2>/dev/null)" && [ -n "${R3:-}" ]; then radii+=("stage3=$R3"); fi
[ ! -d "$runs/stage1" ] || "$python" $here/arms.py $runs/stage1 $here/stage1/arms.md
if [ -d "$runs/stage2" ]; then # its cells in one table and figure; the page and figures of each cell stay with the runs (12 MB)
    "$python" evaluate_sharpness.py "runs_dir=$runs/stage2" stored=true table=table3 'sharpness.rho=[0.05,0.5]'
    "$python" $here/cells.py $runs/stage2 $here/stage2/cells
    cp $runs/stage2/tables/{runs.csv,table3.md} $here/stage2/
fi
if eval "$("$python" $here/picks.py sgd 2>/dev/null)" && [ -n "${lr:-}" ]; then "$python" $here/opening.py $runs $here/opening "$lr" "$decay"; fi
"$python" $here/beside.py $runs docs/beside-the-papers.md "${radii[@]}"
"$python" scripts/claims.py rows=$here/rows readme=README.md out=$here/ledger
