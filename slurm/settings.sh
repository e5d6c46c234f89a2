# shellcheck shell=bash disable=SC2034  # common.sh reads them
# Settings of a job: what the site says (slurm/site.env), checked, and what follows from it for every rank.

# Settings of the site. sbatch has read its own before the job began; say so where the file has changed since.
load_site() {
    local file="${PHI3V_SITE_ENV:-slurm/site.env}" before after module
    [ -n "${SLURM_JOB_ID:-}" ] || fail "$0: this is a job script (found no Slurm job). Submit it: sbatch $0 …"
    [ -r "$file" ] || fail "$file: the site's settings can't be read. Submit from the checkout's folder."
    before=$(env | grep '^SBATCH_' | sort)
    # shellcheck source=slurm/site.env
    source "$file"
    after=$(env | grep '^SBATCH_' | sort)
    # With --export=NONE nothing can be compared: what sbatch was told has not come along. A job that goes on keeps what
    # it was submitted with, whatever the file says for the next ones.
    [ "$before" = "$after" ] || [ -n "${SLURM_EXPORT_ENV:-}" ] || [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] ||
        fail "$file: the job was submitted without what it says (found '${before//$'\n'/ }')." \
            "source $file, then sbatch again."
    check_site "$file"
    for module in $MODULES; do
        module load "$module" || fail "MODULES: can't load this one (found '$module'). Mend $file."
    done
    command -v "$PYTHON" >/dev/null || fail "PYTHON: no such program (found '$PYTHON'). make install, or mend $file."
}

# Each setting is there, and what it may be. check NAME PATTERN WHAT
check_site() {
    local file=$1
    check() {
        [ -n "${!1+set}" ] || fail "$1: not set. Take its line from the original slurm/site.env into $file."
        [[ "${!1}" =~ ^($2)$ ]] || fail "$1: must be $3 (found '${!1}'). Mend $file."
    }
    check GPUS_PER_NODE '[0-9]+' 'a whole number, 0 for none'
    check CPUS_PER_TASK '[1-9][0-9]*|' 'a whole number, or empty'
    check MAX_ATTEMPTS_WITHOUT_PROGRESS '[1-9][0-9]*' 'a whole number above 0'
    check PREFLIGHT 'yes|no' 'yes or no'
    check MIN_NODE_BANDWIDTH_GBPS '[0-9]+(\.[0-9]+)?' 'a number'
    check MIN_NETWORK_BANDWIDTH_GBPS '[0-9]+(\.[0-9]+)?' 'a number'
    check PYTHON '.+' 'a program'
    check PYTHON_IN_CONTAINER '.+' 'a program'
    check SCRATCH '/.*' 'a path from the root'
    check MODULES '.*' 'names'
    check NETWORK_INTERFACE '.*' 'a name, or empty'
    declare -p CONTAINER >/dev/null 2>&1 || fail "CONTAINER: not set. Take its line from slurm/site.env into $file."
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
    PHI3V_NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tr '\n' ' ')
    export PHI3V_NODES MASTER_ADDR="${PHI3V_NODES%% *}" MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
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
