#!/usr/bin/env bash
# One run per task of a SLURM job array: task t takes line t of a list that scripts/grid.py wrote, saves when it is told to leave, and comes
# back to go on. The command below, filled in, is what grid.py prints; options on the command line win over the #SBATCH lines.
#
#   sbatch --array=0-19%4 --partition=gpu --time=8:00:00 scripts/slurm_array.sh runs/table2/.slurm/1a2b3c4d/grid-0.txt
#
# Environment:  RUNS_PER_TASK=k   k lines side by side on the task's GPU, each with its own log beside the list   (1)
#               MAX_RESTARTS=n    how often a task may requeue itself                                             (20)
#               PROGRAM=file      what runs the lines                                                       (train.py)
#               PYTHON=command    the interpreter                          (the repository's .venv if there is one)
# With --ntasks=k --gpus-per-node=k each run has k processes, with one GPU each, that share every batch (replicas=k).
#
#SBATCH --job-name=sam
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=4:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.out
set -u

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    sed -n '1d; /^#SBATCH/q; s/^# \{0,1\}//p' "$0"
    exit
fi

die() {
    echo "slurm_array.sh: $1" >&2
    exit 2
}

list=${1:-}
(($# == 1)) && [[ -r $list ]] || die "$*: must be one list, readable from $PWD; give the file that scripts/grid.py wrote."
job=${SLURM_JOB_ID:-}
# The job number of an array's last task is the whole array's: a command on it would hit every task.
task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
task=${task:-$job}
[[ -n $job ]] || die "submit this script with sbatch; python scripts/grid.py prints the command."

# SLURM runs a copy of this file from its spool: only the controller knows where the repository is.
for pause in 5 10 0; do # an empty answer means that the controller is busy
    script=$(scontrol --oneliner show job "$task" | sed -n 's/.* Command=\(.*slurm_array\.sh\).*/\1/p')
    [[ -n $script ]] && break
    sleep "$pause"
done
root=$([[ -n $script ]] && cd "$(dirname "$script")/.." && pwd) || die "cannot tell where this script was submitted from ('$script')."
program=${PROGRAM:-train.py}
[[ $program == /* ]] || program=$root/$program
python=python3
[[ -x $root/.venv/bin/python ]] && python=$root/.venv/bin/python
python=("$python") && [[ -n ${PYTHON:-} ]] && read -ra python <<<"$PYTHON"

per_task=${RUNS_PER_TASK:-1}
processes=${SLURM_NTASKS:-1}
((per_task == 1 || processes == 1)) || die "RUNS_PER_TASK=$per_task with --ntasks=$processes: several GPUs for a run, or several runs on one."
first=$((${SLURM_ARRAY_TASK_ID:-0} * per_task))
mapfile -t lines <"$list"
((first < ${#lines[@]})) || die "$list has ${#lines[@]} lines, and none for this task: the array is too long."

cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
export OMP_NUM_THREADS=$((cpus > per_task ? cpus / per_task : 1))
export PYTHONUNBUFFERED=1

# Each run is a job step, because SLURM sends its signals to the steps and not to this shell. The steps overlap: they share the task's GPU,
# cores and memory. What a site sends to the shell all the same (scancel --batch, --signal=B:) is handed on as USR1: TERM would make srun
# kill its step instead of telling it.
steps=()
hand_on() {
    ((${#steps[@]})) && kill -s USR1 "${steps[@]}" 2>/dev/null
}
trap hand_on USR1 USR2 TERM

for ((i = first; i < first + per_task && i < ${#lines[@]}; i++)); do
    # xargs takes the line apart as grid.py quoted it, and expands nothing.
    mapfile -t overrides < <(xargs -n1 printf '%s\n' <<<"${lines[i]}")
    output=()
    if ((per_task > 1)); then
        log=${list%.txt}-${SLURM_ARRAY_JOB_ID:-$job}-line$i.out
        output=(--output="$log" --open-mode=append)
        echo "line $i: ${lines[i]}; log: $log"
    fi
    srun --overlap --nodes=1 --ntasks="$processes" --cpus-per-task="$cpus" "${output[@]}" "${python[@]}" "$program" "${overrides[@]}" &
    steps+=($!)
done

again=0 failed=0
for step in "${steps[@]}"; do
    while kill -0 "$step" 2>/dev/null; do # again and again: a trap ends a wait early
        wait "$step"
    done
    wait "$step" # of a process that has ended this gives the exit code once more, whatever a trap left before
    code=$?
    case $code in
        0) ;;
        75 | 138 | 140 | 143) again=1 ;; # it saved and asks to be started again; or a signal came before it could listen (128 + number)
        *) failed=$code ;;
    esac
done
((again)) || exit "$failed"

restarts=${SLURM_RESTART_COUNT:-0}
if ((restarts >= ${MAX_RESTARTS:-20})); then
    echo "slurm_array.sh: restarted $restarts times already (MAX_RESTARTS); submit it again to continue." >&2
    exit 75
fi
# scancel sends TERM too, and a requeue would bring a cancelled job back. An empty answer means that the controller is busy.
state=$(squeue --noheader --jobs="$task" --format=%T 2>/dev/null)
if [[ -z $state || $state == RUNNING ]]; then
    for pause in 5 10 0; do
        scontrol requeue "$task" && break
        sleep "$pause"
    done
fi
exit 75
