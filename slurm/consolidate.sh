#!/bin/bash
# Write a model folder from the newest checkpoint of a run: what tools/consolidate.py does, with its arguments.
#
#   source slurm/site.env
#   sbatch slurm/consolidate.sh runs/shop/train runs/shop/export
#
# It needs no GPU: where there are nodes without, add --partition=NAME --gpus-per-node=0.
#SBATCH --nodes=1 --ntasks=1
#SBATCH --requeue --open-mode=append
#SBATCH --output=%x-%j.log
cd "${SLURM_SUBMIT_DIR:-.}" && source slurm/common.sh || exit 2
load_site
set_up
run_tool tools/consolidate.py "$@"
