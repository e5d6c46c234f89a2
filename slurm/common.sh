# shellcheck shell=bash
# What the job scripts share: a step over all ranks, and the life of a training job: begin, preflight, train, end. What follows on an end is decided by launch/job.py (docs/measurements/survival.md).
set -u

fail() { echo "ERROR $*" >&2; exit 2; }

# shellcheck source=slurm/settings.sh
source slurm/settings.sh

# recipe=FILE becomes --config FILE; all else is passed through.
read_arguments() {
    local word
    config=()
    for word in "$@"; do
        case $word in
        recipe=*) config=(--config "${word#recipe=}" "${config[@]}") ;;
        *) config+=("$word") ;;
        esac
    done
    [ "${config[0]:-}" = --config ] || fail "recipe: none given (found '$*'). sbatch … recipe=launch/recipes/NAME.yaml"
}

# As Slurm keeps the script that was submitted, the job keeps the recipe that it began with, beside its log: who edits it
# for the next run must not change this one when it goes on.
keep_recipe() {
    local log kept
    log=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null | sed -n 's/^ *StdOut=//p')
    kept="${log%.log}.yaml"
    [ -f "$log" ] || kept="${SLURM_JOB_NAME:-job}-$SLURM_JOB_ID.yaml"
    if [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || [ ! -s "$kept" ]; then
        [ -r "${config[1]}" ] || return 0 # launch/job.py has the better words
        cp "${config[1]}" "$kept" || fail "$kept: the recipe ${config[1]} can't be copied here."
    fi
    config[1]=$kept
}

# Run a command as one task per rank and wait; code: what srun returned. -K1: a failing rank ends all. Every task sees
# all GPUs of its node (NCCL wants that), and takes the one of its number.
run_step() {
    local gpus=()
    [ "$GPUS_PER_NODE" -eq 0 ] || gpus=(--gpus-per-node="$GPUS_PER_NODE")
    srun -K1 --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node="$tasks_per_node" --cpus-per-task="$cpus_per_task" \
        "${gpus[@]}" "$@" 2> >(trap '' USR1 TERM && exec tee "$srun_errors" >&2) &
    srun_pid=$!
    # A trapped signal ends wait, not srun.
    while kill -0 "$srun_pid" 2>/dev/null; do wait "$srun_pid"; done
    wait "$srun_pid"
    code=$?
    srun_pid=
}

# The warning before the time limit or preemption reaches this script alone: hand it on to every rank, once, as a second
# one would end them in their save.
on_usr1() {
    [ -z "$asked" ] || return 0
    asked=yes
    echo "$(date +%T) asked to stop: ranks save and end, then the job goes on later"
    [ -z "$srun_pid" ] || kill -USR1 "$srun_pid" 2>/dev/null
}

# TERM: Slurm ends the job and has told every rank itself; KILL follows soon. Decide first, then let the ranks save.
on_term() {
    if [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T 2>/dev/null)" = RUNNING ]; then
        on_usr1 # a person's scancel --batch --signal=TERM
    else
        asked=yes
        finish 143
    fi
}

# End the job: finished, requeued, or stopped with the reason. The requeue brings a TERM, so that is ignored from here.
finish() {
    trap '' TERM USR1
    [ -z "$ended" ] || return 0
    ended=yes
    "$PYTHON" launch/job.py end --srun-code "$1" --srun-errors "$srun_errors" "${config[@]}"
    end_code=$?
}

train() {
    asked='' ended='' srun_pid='' code=143 end_code=0
    load_site
    set_up
    read_arguments "$@"
    keep_recipe
    # A node without a working GPU must not train on its CPU.
    [ "$GPUS_PER_NODE" -eq 0 ] || config=("${config[@]:0:2}" training.device=cuda "${config[@]:2}")
    srun_errors=$(mktemp) told=$(mktemp)
    trap 'rm -f "$srun_errors" "$told"' EXIT
    trap on_usr1 USR1 # before srun, which must not run in the foreground: bash runs traps between commands
    trap on_term TERM
    "$PYTHON" launch/job.py begin --most-attempts "$MAX_ATTEMPTS_WITHOUT_PROGRESS" --tell-run-folder "$told" \
        "${config[@]}"
    case $? in
    0) ;;
    3) exit 0 ;; # finished already
    2) exit 2 ;;
    *) [ -n "$asked" ] || exit 1 ;; # a signal ended it: below nothing starts
    esac
    NCCL_DEBUG_FILE="$(cat "$told")/logs/nccl-%h-%p.log" && export NCCL_DEBUG_FILE
    mkdir -p "${NCCL_DEBUG_FILE%/*}" # NCCL makes no folder
    if [ "$PREFLIGHT" = yes ] && [ -z "$asked" ]; then
        run_step "${rank_python[@]}" launch/preflight.py "${config[@]}" \
            --floor-node "$MIN_NODE_BANDWIDTH_GBPS" --floor-network "$MIN_NETWORK_BANDWIDTH_GBPS"
        [ "$code" -eq 0 ] || [ -n "$asked" ] || { finish "$code"; exit "$end_code"; }
    fi
    [ -n "$asked" ] || run_step "${rank_python[@]}" launch/train.py "${config[@]}"
    finish "$code"
    exit "$end_code"
}

# Run a tool as one task on one node.
run_tool() {
    srun --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_ON_NODE:-1}" "${rank_python[@]}" "$@"
}
