#!/bin/bash
# A node's part in slurm/tune.sbatch: bash slurm/ray.sh COMMAND …
#
# Every node of the job starts Ray; the first one runs its head and COMMAND. The others serve until it
# ends, which ends the job's step.

set -euo pipefail

# Ports that are not given are free ones, so that nodes of several jobs may share a machine; the
# folder's name is short, because sockets lie in it. Ray lets everybody write into its own, which
# therefore lies in a folder of this user alone.
folder=$(mktemp -d /tmp/ray-XXXXXX)
touch "$folder/said"
trap 'rm -rf "$folder"' EXIT
# USR1 to the job's step is for COMMAND, which handles it: Ray runs until COMMAND has ended, and then
# ends at once.
trap '' USR1
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
options=(
    --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
    --object-store-memory=200000000 --min-worker-port=0 --max-worker-port=0
    --temp-dir="$folder/r" --include-log-monitor=false --disable-usage-stats --block
)

# head_listens [SECONDS]: waits so long until the first node's Ray does.
head_listens() {
    local second
    for ((second = 0; second <= ${1:-0}; second++)); do
        ((second == 0)) || sleep 1
        ! (exec 3<>"/dev/tcp/${RAY_ADDRESS/://}") 2>/dev/null || return 0
    done
    return 1
}

# fail CODE WHAT
fail() {
    local said
    said=$(tail -n 3 "$folder/said" | tr '\n' ' ')
    echo "error: $2${said:+: $said}" >&2
    exit "$1"
}

if ((SLURM_PROCID)); then
    head_listens 300 || fail 2 "node $SLURMD_NODENAME has found no Ray at $RAY_ADDRESS"
    ray start --address="$RAY_ADDRESS" "${options[@]}" >"$folder/said" 2>&1 &
    while head_listens 3; do
        kill -0 $! 2>/dev/null || ! head_listens 3 || {
            grep -q "Ray runtime started" "$folder/said" ||
                fail 2 "node $SLURMD_NODENAME has not joined Ray"
            fail 3 "node $SLURMD_NODENAME has lost its Ray"
        }
        sleep 1
    done
    kill $! 2>/dev/null && wait $! || true
    exit 0
fi

# The job has another port when it is started again.
! head_listens || fail 75 "port $MASTER_PORT of node $SLURMD_NODENAME is taken"
trap : TERM
ray start --head --node-ip-address="${RAY_ADDRESS%:*}" --port="$MASTER_PORT" \
    --ray-client-server-port=$((MASTER_PORT - 10000)) --include-dashboard=false "${options[@]}" \
    >"$folder/said" 2>&1 &
head=$!
head_listens 120 || fail 2 "Ray has not started"
code=0
"$@" || code=$?
kill "$head" 2>/dev/null && wait "$head" || true
# Slurm ends the other nodes when this one has failed; they had better have ended by themselves.
((code == 0)) || sleep 10
exit "$code"
