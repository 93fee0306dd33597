#!/usr/bin/env bash
# The campaign of PLAN.md, from beginning to end, with one command that skips what is finished and continues what is not:
#
#   nice -n 19 bash results/campaign/campaign.sh            # all stages in the plan's order
#   nice -n 19 bash results/campaign/campaign.sh stage1     # one of them: stage0 stage1 stage3 stage2 ...
#
# It runs from the root of a checkout at the campaign's tag, with cifar10-16.npz, cifar10-32.npz, cifar100-16.npz and resnet20-12fca82f.th in
# datasets/, two processes of one thread each. SIGTERM and Ctrl-C end it cleanly. PYTHON: the interpreter. ROWS: the branch whose
# committed rows are unpacked first, so that what they hold is neither trained nor measured again. PROCESSES: how many at a time; the sweeps
# up to the next measuring are then one queue (one_queue.py), for a machine with many cores or a GPU that the runs share (amendment 3);
# CUDA_GRAPHS=1 launches their steps as CUDA graphs (amendment 7).
# All processors compute in AVX2, so that a seed's runs have the same digits on whichever machine they are trained (amendment 10).
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
python=${PYTHON:-.venv/bin/python}
here=results/campaign

waiting="" # sweeps of the queue, a line each

train() { sweep experiment=campaign "$@"; }
resnet() { sweep experiment=campaign_resnet20 "$@"; }
sweep() {
    if [ -n "${PROCESSES:-}" ]; then waiting+="$*"$'\n'; else "$python" train.py -m "$@"; fi
}
train_waiting() {
    local sweeps=$waiting
    waiting=""
    [ -z "$sweeps" ] || "$python" $here/one_queue.py "$PROCESSES" <<<"$sweeps"
}
measure() { # measure FOLDER ARGUMENTS: a sweep's own tables come later, from the committed rows
    local folder=$1
    shift
    train_waiting
    # Exit code 1: something was left out, a run of a later grid that was preempted, say; the picks refuse where a row of theirs is missing.
    "$python" evaluate_sharpness.py "runs_dir=runs/$folder" table=none threads=1 "processes=${PROCESSES:-2}" "$@" || [ $? -eq 1 ]
}
pick() { "$python" "$here/picks.py" "$@"; }
picked() { # sets the plan's names (lr, decay, R, R_half, ...); the campaign stops where a grid must be extended first
    local lines
    lines=$(pick "$1")
    eval "$lines"
}

stage0() {
    local out=runs_dir=runs/campaign/stage0 seeds=seed=900,901
    local val="sharpness.notions=[gap] sharpness.batchnorm=[eval,recalibrated] sharpness.gap.splits=[val]"
    train $out $seeds optimizer=sgd optimizer.lr=0.05,0.1,0.2 optimizer.weight_decay=0.0005,0.002
    measure campaign/stage0 $val
    extend sgd $out $seeds optimizer=sgd optimizer.lr=0.4 optimizer.weight_decay=0.0005,0.002
    extend sgd $out $seeds optimizer=sgd optimizer.lr=0.05,0.1,0.2 optimizer.weight_decay=0.008
    extend sgd $out $seeds optimizer=sgd optimizer.lr=0.8 optimizer.weight_decay=0.0005,0.002  # amendment 1
    extend sgd $out $seeds optimizer=sgd optimizer.lr=0.8 optimizer.weight_decay=0.000125  # amendment 2, from here
    local more
    for more in 1.6 3.2 6.4; do
        extend sgd $out $seeds optimizer=sgd optimizer.lr=$more optimizer.weight_decay=0.000125,0.0005
    done
    picked sgd
    local base="optimizer.lr=$lr optimizer.weight_decay=$decay"
    train $out $seeds $base optimizer=sam,sam_n5,xsam optimizer.rho=0.05,0.1,0.2,0.3,0.5,0.8
    train $out $seeds $base optimizer=rand_sam optimizer.rho=0.05,1,3,10,20,30
    measure campaign/stage0 $val
    extend sam $out $seeds $base optimizer=sam optimizer.rho=1.2,2
    extend sam_n5 $out $seeds $base optimizer=sam_n5 optimizer.rho=1.2,2
    extend xsam $out $seeds $base optimizer=xsam optimizer.rho=1.2,2
    extend rand_sam $out $seeds $base optimizer=rand_sam optimizer.rho=60,100
    picked sam
    train $out $seeds $base optimizer=xsam "optimizer.rho=$R" optimizer.alpha=0.5,0.75,1.25,1.5,2,2.5
    measure campaign/stage0 $val
    extend alpha $out $seeds $base optimizer=xsam "optimizer.rho=$R" optimizer.alpha=3,4
    # The rise of the loss around SAM(R)'s final weights, in SAM's direction and in random ones (training images alone).
    local folder
    for folder in $(pick folders); do
        measure "$folder" 'sharpness.notions=[ascent,average]' 'sharpness.batchnorm=[eval]' "sharpness.rho=[$R,1,2,4,8,16,32,64]"
    done
    pick all >/dev/null
}
extend() { # extend PICK TRAINING...: by the plan's further values, where the pick is the largest of its grid
    local name=$1
    shift
    local status=0
    pick "$name" >/dev/null || status=$?
    # 3: the pick is at the edge; 1: runs are missing, those of an extension that was begun, since the grid itself is done.
    [ "$status" -eq 3 ] || [ "$status" -eq 1 ] || return "$status"
    train "$@"
    measure campaign/stage0 'sharpness.notions=[gap]' 'sharpness.batchnorm=[eval,recalibrated]' 'sharpness.gap.splits=[val]'
}

usual() { # usual FOLDER [SEEDS]: losses and accuracies with both kinds of statistics, the sharpness with running ones
    measure "$@" 'sharpness.notions=[gap]' 'sharpness.batchnorm=[eval,recalibrated]'
    measure "$@" 'sharpness.notions=[ascent,average]' 'sharpness.batchnorm=[eval]' "sharpness.rho=[$(pick radii)]" \
        sharpness.average.subset=512
}

stage1_arms() { # stage1_arms SEEDS [FURTHER ARGUMENTS]
    picked all
    local arms="runs_dir=runs/campaign/stage1 seed=$1 optimizer.lr=$lr optimizer.weight_decay=$decay ${2:-}"
    train $arms optimizer=sgd
    train $arms optimizer=sgd epochs=80
    train $arms optimizer=sam "optimizer.rho=$R,$R_half,$R_sqrt3,$R_twice"
    train $arms optimizer=sam,rand_sam optimizer.radius=uniform "optimizer.rho=$R"
    train $arms optimizer=rand_sam "optimizer.rho=$R,$rho_rand,$rho_rise"
    train $arms optimizer=sam_n2,sam_n3,sam_n5 "optimizer.rho=$R"
    train $arms optimizer=xsam "optimizer.rho=$R" "optimizer.alpha=null,0,$alpha"
    train $arms optimizer=sam_n5 "optimizer.rho=$rho_sam_n5"
    train $arms optimizer=xsam "optimizer.rho=$rho_xsam"
}
stage1() { # two seeds at a time, measured before the next are trained: weights may not outlive a sitting (amendment 11)
    local first seeds
    stage1_seeds 1000,1001,1002,1003,1004
    for first in 1005 1007 1009 1011 1013; do
        seeds=$first,$((first + 1))
        stage1_seeds "$seeds" "keep_checkpoints=[1,5,10,20,30,40]"
        stage1_more "$seeds"
    done
    stage1_seeds 1015,1016
    stage1_seeds 1017,1018,1019
}
stage1_seeds() {
    stage1_arms "$@"
    usual campaign/stage1 "seeds=[$1]"
    measure campaign/stage1 "seeds=[$1]" 'sharpness.notions=[outcomes]' 'sharpness.batchnorm=[eval,recalibrated]'
}
stage1_more() { # what the claims added after the plan ask of SAM's networks (amendment 5), and what is shown over training
    local seeds="seeds=[$1]" radii
    local sam="optimizer.method: sam, optimizer.rho: $R, optimizer.radius: fixed"
    measure campaign/stage1 "$seeds" "select={$sam, optimizer.ascent_steps: 1}" kept=true 'sharpness.notions=[n_step,maximum,interior]' \
        "sharpness.rho=[$R]" 'sharpness.n_step.steps=[1,2,3,5]' sharpness.n_step.subset=512 sharpness.maximum.subset=512
    measure campaign/stage1 "$seeds" "select={$sam, optimizer.ascent_steps: 1}" 'sharpness.notions=[direction]' "sharpness.rho=[$R]" \
        'sharpness.direction.ascent_steps=[1,5]'
    measure campaign/stage1 "$seeds" "select={$sam, optimizer.ascent_steps: 1}" 'sharpness.notions=[rounding]' 'sharpness.rho=[0.05]'
    radii=$(pick radii)
    case $1 in
    1005,1006)
        measure campaign/stage1 "$seeds" kept=true 'sharpness.notions=[gap,ascent]' 'sharpness.batchnorm=[eval]' "sharpness.rho=[$radii]"
        curvature "$seeds" kept=true "select={optimizer.method: sgd, epochs: 40}"
        curvature "$seeds" kept=true "select={$sam, optimizer.ascent_steps: [1, 5]}"
        curvature "$seeds"
        ;;
    1007,1008) curvature "$seeds" ;;
    esac
}
curvature() {
    measure campaign/stage1 "$@" notions=quick 'sharpness.notions=[hessian,maximum,adaptive]' 'sharpness.batchnorm=[eval]' \
        "sharpness.rho=[$radii]" sharpness.hessian.subset=512 sharpness.maximum.subset=512 sharpness.adaptive.subset=512
}

stage1_gpu() { stage1_arms "range(1010,1014)"; } # amendment 7
stage1_gpu_measured() {
    usual campaign/stage1
    measure campaign/stage1 'sharpness.notions=[outcomes]' 'sharpness.batchnorm=[eval,recalibrated]'
}

stage2() {
    picked all
    local out=runs_dir=runs/campaign/stage2 base="optimizer.lr=$lr optimizer.weight_decay=$decay" size arms
    for size in "dataset.train_size=1000 epochs=156" "dataset.train_size=4000 epochs=40" "dataset.train_size=16000 epochs=10"; do
        for arms in "optimizer=sgd" "optimizer=sam optimizer.rho=$R,$R_third"; do
            train $out "seed=range(2000,2005)" $base $size $arms dataset.label_noise=0,0.2
            train $out "seed=range(2000,2005)" $base $size $arms dataset.label_noise=0,0.2 \
                augmentation.flip=true augmentation.crop_padding=2
        done
        usual campaign/stage2
    done
}

stage3() {
    resnet runs_dir=runs/campaign/stage3_tuning seed=990,991 dataset.val_size=10000 optimizer=sam optimizer.rho=0.02,0.05,0.1,0.2,0.4
    measure campaign/stage3_tuning 'sharpness.notions=[gap]' 'sharpness.batchnorm=[eval,recalibrated]' 'sharpness.gap.splits=[val]'
    stage3_arms "range(3000,3005)"
    stage3_measured
}
stage3_arms() {
    picked resnet20
    local out=runs_dir=runs/campaign/stage3 seeds="seed=$1"
    resnet $out "$seeds" optimizer=sgd
    resnet $out "$seeds" optimizer=sgd epochs=4
    resnet $out "$seeds" optimizer=sam "optimizer.rho=$R3,0.05"
    resnet $out "$seeds" optimizer=rand_sam "optimizer.rho=$R3"
    resnet $out "$seeds" optimizer=xsam "optimizer.rho=$R3" optimizer.alpha=null,0
}
stage3_measured() {
    measure campaign/stage3 'sharpness.notions=[gap,ascent]' 'sharpness.batchnorm=[eval,recalibrated]' "sharpness.rho=[$(pick radii3)]" \
        sharpness.ascent.subset=5000
}
stage3_whole() { # all ten seeds and N = 5 of five, as one queue of a GPU (amendment 7); stage3_measured measures them
    picked resnet20
    resnet runs_dir=runs/campaign/stage3 "seed=range(3000,3005)" optimizer=sam_n5 "optimizer.rho=$R3"
    stage3_arms "range(3000,3010)"
}
stage3_more() {
    stage3_whole
    stage3_measured
    resnet runs_dir=runs/campaign/stage3_resnet32 "seed=range(3000,3005)" model=resnet32 init_from=datasets/resnet32-d509ac18.th \
        optimizer=sgd
    resnet runs_dir=runs/campaign/stage3_resnet32 "seed=range(3000,3005)" model=resnet32 init_from=datasets/resnet32-d509ac18.th \
        optimizer=sgd epochs=4
    resnet runs_dir=runs/campaign/stage3_resnet32 "seed=range(3000,3005)" model=resnet32 init_from=datasets/resnet32-d509ac18.th \
        optimizer=sam,rand_sam "optimizer.rho=$R3"
    measure campaign/stage3_resnet32 'sharpness.notions=[gap]' 'sharpness.batchnorm=[eval,recalibrated]'
}

stage4() {
    picked all
    train runs_dir=runs/campaign/stage4 "seed=range(4000,4005)" dataset.path=datasets/cifar100-16.npz dataset.train_size=20000 epochs=20 \
        "optimizer.lr=$lr" "optimizer.weight_decay=$decay" optimizer=sgd,rand_sam,sam,sam_n5,xsam "optimizer.rho=$R"
    usual campaign/stage4
}

stage5() {
    local out=runs_dir=runs/campaign/stage5 seeds="seed=range(5000,5005)"
    local net="model=wrn_16_1 precision=bf16 dataset=cifar10 dataset.path=datasets/cifar10-32.npz dataset.sample=fixed dataset.train_size=null"
    net="$net dataset.val_size=null augmentation=basic batch_size=128 optimizer.weight_decay=0.0005"
    train $out "$seeds" $net epochs=20 optimizer=sgd
    train $out "$seeds" $net epochs=40 optimizer=sgd
    train $out "$seeds" $net epochs=20 optimizer=sam optimizer.rho=0.05,0.1
    measure campaign/stage5 'sharpness.notions=[gap]' 'sharpness.batchnorm=[eval,recalibrated]'
}

"$python" scripts/rows.py unpack=$here/rows branch="${ROWS:-main}" runs_dir=runs/campaign
for stage in "${@:-stage0 stage1 stage3 stage2 stage4 stage3_more stage5}"; do
    for one in $stage; do
        echo "== $one"
        "$one"
    done
done
train_waiting
