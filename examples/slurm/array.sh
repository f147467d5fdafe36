#!/bin/bash
# A SLURM array over rows x folds x seeds of a table, one job each; docs/experiment-tables.md explains it.
#   sbatch --array=0-7%4 examples/slurm/array.sh
#   voxstrata reproduce "$TABLE" --scale "$SCALE"     # when all jobs are done: writes the table
#SBATCH --job-name=voxstrata
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

TABLE=${TABLE:-adaltm}
SCALE=${SCALE:-real}
OUT=${OUT:-runs} # the same for all jobs, on a disk that all of them see
read -ra ROWS <<< "${ROWS:-frozen ser-head static global ser-only asr-only dual dual-out}"
read -ra FOLDS <<< "${FOLDS:-2}" # FOLDS=none for a table without folds
read -ra SEEDS <<< "${SEEDS:-0}"

jobs=$((${#ROWS[@]} * ${#FOLDS[@]} * ${#SEEDS[@]}))
task=$SLURM_ARRAY_TASK_ID
if ((task >= jobs)); then
  echo "$jobs jobs are 0 to $((jobs - 1)); there is no $task" >&2
  exit 2
fi
row=${ROWS[task % ${#ROWS[@]}]}
fold=${FOLDS[task / ${#ROWS[@]} % ${#FOLDS[@]}]}
seed=${SEEDS[task / (${#ROWS[@]} * ${#FOLDS[@]})]}

choice=(--only "$row" --seed "$seed")
if [[ $fold != none ]]; then
  choice+=(--fold "$fold")
fi
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
code=0
srun voxstrata reproduce "$TABLE" --scale "$SCALE" --out "$OUT" "${choice[@]}" || code=$?
if ((code == 130)); then # stopped by SLURM's signal, after a checkpoint: the same job goes on from there
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
