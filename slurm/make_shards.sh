#!/bin/bash
# Make shards, a part in each element of an array job; the last part to finish joins them.
#
#   source slurm/site.env
#   sbatch --array=0-15 slurm/make_shards.sh recipe=launch/recipes/phi3v_8node.yaml
#
# It needs no GPU: where there are nodes without, add --partition=NAME --gpus-per-node=0.
#SBATCH --nodes=1 --ntasks=1 --cpus-per-task=4 --array=0-7
#SBATCH --requeue --open-mode=append
#SBATCH --output=%x-%A-%a.log
cd "${SLURM_SUBMIT_DIR:-.}" && source slurm/common.sh || exit 2
load_site
set_up
read_arguments "$@"
part=()
if [ -n "${SLURM_ARRAY_TASK_COUNT:-}" ]; then
    part=(--part "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))/$SLURM_ARRAY_TASK_COUNT")
fi
run_tool tools/make_shards.py "${part[@]}" "${config[@]}" "shards.workers=${SLURM_CPUS_PER_TASK:-1}"
