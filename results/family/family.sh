#!/usr/bin/env bash
# The family's comparison of PLAN.md, from beginning to end, with one command that skips what is finished and continues what is not:
#
#   LR=0.8 DECAY=0.0005 nice -n 19 bash results/family/family.sh          # tuning, final runs, measures, tables
#   TRY=1 LR=0.8 DECAY=0.0005 bash results/family/family.sh sam asam      # these arms, tiny runs in runs/try_family: to see it work
#
# LR and DECAY: SGD's pick of the campaign's stage 0 (python results/campaign/picks.py sgd), for every arm. It runs from the root of a
# checkout with datasets/cifar10-16.npz, two processes of one thread each. SIGTERM and Ctrl-C end it cleanly. PYTHON: the interpreter.
# ROWS: the branch whose committed rows are unpacked first, so that what they hold is neither trained nor measured again. All processors
# compute in AVX2, so that an arm's runs have the same digits on whichever machine they are trained.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
python=${PYTHON:-.venv/bin/python}
base="optimizer.lr=${LR:?SGDs pick} optimizer.weight_decay=${DECAY:?SGDs pick}"
out=family TRY=${TRY:-0} tuning_seeds=seed=900,901 seeds="seed=range(6000,6005)"
if [ "$TRY" -ne 0 ]; then
    out=try_family base="$base dataset.train_size=64 dataset.val_size=200 epochs=1" seeds="seed=6000,6001"
fi

# Every arm, the option's name first; the radii of its six trials; what its option does not say.
arms=(
    "sam 0.05,0.1,0.2,0.3,0.5,0.8"
    "asam 0.1,0.25,0.5,1,2,4"
    "gsam 0.05,0.1,0.2,0.3,0.5,0.8"
    "friendly_sam 0.05,0.1,0.2,0.3,0.5,0.8"
    "looksam 0.05,0.1,0.2,0.3,0.5,0.8"
    "momentum_sam 0.1,0.3,0.5,1,2,3"
    "late_sam 0.05,0.1,0.2,0.3,0.5,0.8"
    "sam_on 0.5,1,2,5,10,20"
    "rwp 0.003,0.01,0.02,0.03,0.05,0.1"
    "m_arwp 0.005,0.015,0.03,0.05,0.1,0.2"
    "vasso 0.05,0.1,0.2,0.3,0.5,0.8"
    "usam 0.03,0.1,0.2,0.5,1,2"
    "gradient_norm 0.05,0.1,0.2,0.3,0.5,0.8"
    "wsam 0.01,0.02,0.05,0.1,0.2,0.3"
    "mean_n3 0.05,0.1,0.2,0.3,0.5,0.8 optimizer=sam_n3 optimizer.descent_gradient=mean"
)
if [ $# -gt 0 ]; then
    chosen=()
    for arm in "${arms[@]}"; do [[ " $* " == *" ${arm%% *} "* ]] && chosen+=("$arm"); done
    arms=("${chosen[@]}")
fi

train() { "$python" train.py -m experiment=family $base "$@"; }
measure() { # measure FOLDER ARGUMENTS. Exit code 1: something was left out, a diverged run, say; the picks refuse where a row is missing.
    local folder=$1
    shift
    "$python" evaluate_sharpness.py "runs_dir=runs/$folder" threads=1 processes=2 "$@" || [ $? -eq 1 ]
}

final() { # final ARGUMENTS: trained and measured at once, since weights may not outlive a sitting
    train "runs_dir=runs/$out/final" "$seeds" "$@"
    measured table=none
}
measured() {
    measure "$out/final" "$@" 'sharpness.notions=[gap,ascent,hessian]' 'sharpness.batchnorm=[eval,recalibrated]' 'sharpness.rho=[0.05]' \
        sharpness.hessian.subset=512 sharpness.hessian.eigenvalues=1 sharpness.hessian.tolerance=0.01 sharpness.hessian.probes=3
}

[ "$TRY" -ne 0 ] || "$python" scripts/rows.py unpack=results/family/rows branch="${ROWS:-main}" runs_dir=runs/family
final optimizer=sgd
final optimizer=sgd epochs=$((TRY ? 2 : 80))
for arm in "${arms[@]}"; do
    read -r name grid rest <<<"$arm"
    train "runs_dir=runs/$out/tuning/$name" $tuning_seeds ${rest:-optimizer=$name} "optimizer.rho=$grid"
    measure "$out/tuning/$name" table=none 'sharpness.notions=[gap]' 'sharpness.batchnorm=[eval,recalibrated]' \
        'sharpness.gap.splits=[val]'
    rho=$("$python" results/family/picks.py "$name" "runs/$out/tuning")
    final ${rest:-optimizer=$name} "optimizer.rho=$rho"
done
"$python" results/family/picks.py radii "runs/$out/tuning"
measured table=family
