#!/bin/bash
# Train on 8 nodes, one rank per GPU; goes on by itself after the time limit, preemption, a lost node.
#
#   source slurm/site.env
#   sbatch slurm/train_8node.sh recipe=launch/recipes/phi3v_8node.yaml training.learning_rate=1e-5
#
#SBATCH --nodes=8 --exclusive --mem=0
#SBATCH --requeue --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.log
cd "${SLURM_SUBMIT_DIR:-.}" && source slurm/common.sh || exit 2
train "$@"
