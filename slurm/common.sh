# shellcheck shell=bash
# What the job scripts share: settings of the site and of the job, a step over all ranks, and the life of a training
# job: begin, preflight, train, end. What follows on an end is decided by launch/job.py (docs/measurements/survival.md).
set -u

fail() { echo "ERROR $*" >&2; exit 2; }

# Settings of the site. sbatch has read its own before the job began; say so where the file has changed since.
load_site() {
    local file="${PHI3V_SITE_ENV:-slurm/site.env}" before after module
    [ -n "${SLURM_JOB_ID:-}" ] || fail "$0: this is a job script (found no Slurm job). Submit it: sbatch $0 …"
    [ -r "$file" ] || fail "$file: the site's settings can't be read. Submit from the checkout's folder."
    before=$(env | grep '^SBATCH_' | sort)
    # shellcheck source=slurm/site.env
    source "$file"
    after=$(env | grep '^SBATCH_' | sort)
    # With --export=NONE nothing can be compared: what sbatch was told has not come along.
    [ "$before" = "$after" ] || [ -n "${SLURM_EXPORT_ENV:-}" ] ||
        fail "$file: the job was submitted without what it says (found '${before//$'\n'/ }')." \
            "source $file, then sbatch again."
    for module in $MODULES; do
        module load "$module" || fail "MODULES: can't load this one (found '$module'). Mend $file."
    done
    command -v "$PYTHON" >/dev/null || fail "PYTHON: no such program (found '$PYTHON'). make install, or mend $file."
}

# Settings of this job, exported for every rank.
set_up() {
    tasks_per_node=$((GPUS_PER_NODE > 0 ? GPUS_PER_NODE : 1))
    local cpus=$((${SLURM_CPUS_ON_NODE:-1} / tasks_per_node))
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # a Python of the login node needn't have the package installed
    cpus_per_task=${CPUS_PER_TASK:-$((cpus > 0 ? cpus : 1))}
    rank_python=("$PYTHON")
    [ ${#CONTAINER[@]} -eq 0 ] || rank_python=("${CONTAINER[@]}" "$PYTHON_IN_CONTAINER")
    # Ranks meet on the job's first node; jobs that share it have other ports.
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
    # Ranks save before the job's end by themselves. 0: no limit, or no answer (of which date would make midnight).
    export PHI3V_JOB_END=0 && local job_end && job_end=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %e)
    [ -z "$job_end" ] || PHI3V_JOB_END=$(date --date "$job_end" +%s 2>/dev/null || echo 0)
    export SLURM_EXPORT_ENV=ALL # what is exported here reaches every rank, also after sbatch --export=…
    # Threads of a rank: on a GPU the work is elsewhere, and loader processes want the other CPUs.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((GPUS_PER_NODE > 0 ? 4 : cpus_per_task))}"
    export TOKENIZERS_PARALLELISM=false # the loader's processes are the parallelism
    export HF_HUB_OFFLINE=1             # nothing is fetched by ranks; nodes often have no way out
    export PYTHONUNBUFFERED=1           # a killed rank's last lines are in the log
    # Grows and shrinks with packs of other lengths, without fragments.
    export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
    export TRITON_CACHE_DIR="$SCRATCH/triton-$UID"
    export NCCL_DEBUG="${NCCL_DEBUG:-WARN}" # into one file per rank, see train
    if [ -n "$NETWORK_INTERFACE" ]; then
        export NCCL_SOCKET_IFNAME="$NETWORK_INTERFACE" GLOO_SOCKET_IFNAME="$NETWORK_INTERFACE"
    fi
    # InfiniBand: 4 µs × 2^22 ≈ 17 s until a packet is sent again; with 20 (4 s) a rerouting switch can end a run.
    export NCCL_IB_TIMEOUT="${NCCL_IB_TIMEOUT:-22}"
}

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
