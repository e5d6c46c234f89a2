#!/bin/bash
# Score a model folder on held-out products: what tools/evaluate.py does, with its arguments.
#
#   source slurm/site.env
#   sbatch slurm/evaluate.sh runs/shop/export runs/shop/shards --split heldout
#
# One GPU is used. Where nodes are shared, add --gpus-per-node=1.
#SBATCH --nodes=1 --ntasks=1
#SBATCH --requeue --open-mode=append
#SBATCH --output=%x-%j.log
cd "${SLURM_SUBMIT_DIR:-.}" && source slurm/common.sh || exit 2
load_site
set_up
run_tool tools/evaluate.py "$@"
