#!/bin/bash
# QC-FER on the machines of a Slurm job: sbatch deploy/slurm.sh posebench --out /shared/reports
# What stands behind the name of this file goes to `qcfer report`. A job that was cut off is sent again and goes on where it stopped.
#SBATCH --job-name=qcfer
#SBATCH --nodes=25
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=4
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

# The same environment on every machine: Python with qcfer[ray] and whatever the models need, on the shared folder.
source "${QCFER_VENV:-/shared/qcfer/.venv}/bin/activate"
export QCFER_WEIGHTS="${QCFER_WEIGHTS:-/shared/weights}" QCFER_CACHE="${QCFER_CACHE:-/shared/cache}" RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')  # nobody else on these machines may join

mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${machines[0]}
export RAY_ADDRESS="$first:${QCFER_PORT:-6379}"
has=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block)

srun --overlap --nodes=1 --ntasks=1 --nodelist="$first" ray start --head --port="${RAY_ADDRESS#*:}" --include-dashboard=false "${has[@]}" &
until (: <"/dev/tcp/${RAY_ADDRESS%:*}/${RAY_ADDRESS#*:}") 2>/dev/null; do
    kill -0 $! # it has not ended
    sleep 2
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$first" \
        ray start --address="$RAY_ADDRESS" "${has[@]}" &
fi

# The run counts the machines when it joins, so it waits for all of them.
python - <<'END'
import os, time, ray

ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < int(os.environ["SLURM_JOB_NUM_NODES"]):
    time.sleep(2)
END

qcfer report "$@" --engine ray --set ray.gpus="${QCFER_GPUS:-1}"
