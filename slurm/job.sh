# Common code of the job scripts, which source it. Settings of a site go into slurm/site.sh, which is
# not part of the repository.

fail() {
    echo "error: $1" >&2
    exit 2
}

# The head of a script is its help, and a site may change its #SBATCH lines.
if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    printf '\n%s\n\n' 'Lines that a site may change (##SBATCH is inactive; options of sbatch take precedence):'
    sed -n 's/^\(##*SBATCH\)/    \1/p' "$0"
    exit 0
fi
[[ -n ${SLURM_JOB_ID:-} ]] || fail "this is a job script: sbatch $0 …, or bash $0 --help"

# modules, containers, network interfaces: docs/cluster.md
SRUN_OPTIONS=()  # options of srun that every step gets
CONTAINER=()     # the command that runs another one in a container
if [[ -f slurm/site.sh ]]; then
    set +u  # `module` reads variables that are not set
    source slurm/site.sh
    set -u
fi
[[ ! -d .venv ]] || export PATH="$PWD/.venv/bin:$PATH"

# In an array job %a stands for the number of the task.
task=${SLURM_ARRAY_TASK_ID:-} given=("$@")
[[ -z $task ]] || set -- "${@//%a/$task}"

# Where the ranks meet. The port follows from the job's id, so that jobs on one node differ, and
# from how often it was started, so that no rank of an earlier start is met; it lies below those
# that systems hand out by themselves.
XMODAL_NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tr '\n' ' ')
MASTER_ADDR=${XMODAL_NODES%% *}
MASTER_PORT=$((15000 + (SLURM_JOB_ID + 1000 * ${SLURM_RESTART_COUNT:-0}) % 10000))
export XMODAL_NODES MASTER_ADDR MASTER_PORT

# srun does not take this over from sbatch by itself (Slurm 22.05 and later).
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
export PYTHONUNBUFFERED=1

# The job's log has the stdout of its processes, one log per node their stderr.
job=${task:+${SLURM_ARRAY_JOB_ID}_$task}
logs=$SLURM_JOB_NAME-${job:-$SLURM_JOB_ID}${SLURM_RESTART_COUNT:+-restart$SLURM_RESTART_COUNT}

# run_tasks COMMAND …: runs it as every task of the job, and sets `code`, its exit code. Slurm sends
# the signal that ends a job to the tasks as well, which need the time to save.
run_tasks() {
    local codes=$logs.codes
    code=0 asked=
    rm -rf -- "$codes"
    mkdir -- "$codes"
    trap 'asked=yes' TERM
    trap : USR1
    # In the background, so that this shell handles signals: they end a `wait`.
    srun --label --kill-on-bad-exit=1 --error="${logs//%/%%}-%N.log" "${SRUN_OPTIONS[@]}" \
        bash slurm/task.sh "$codes" "${CONTAINER[@]}" "$@" &
    while kill -0 "$!" 2>/dev/null; do wait "$!" || true; done
    wait "$!" || code=$?
    ((code == 0)) || decide "$codes"
    rm -rf -- "$codes"
}

# decide CODES: sets `code` to the most important exit code of the tasks: a bug, a user error or a
# missing Python before their consequences. Their output is not used.
decide() {
    local one task ended=" "
    grep -hs -e '^ *[0-9]*: error: ' -- "$logs"-*.log | tail -n 3 >&2 || true
    for ((task = 0; task < SLURM_NTASKS; task++)); do
        [[ ! -s $1/$task ]] || ended+="$(<"$1/$task") "
    done
    for one in 1 2 126 127 75; do
        [[ $ended != *" $one "* ]] || { code=$one; break; }
    done
}

# run_ranks COMMAND …: the same, where each task is a rank.
run_ranks() {
    # Where no other node takes part none need reach the port.
    ((SLURM_JOB_NUM_NODES > 1)) || MASTER_ADDR=127.0.0.1
    local gpus=$((${SLURM_GPUS_ON_NODE:-0} * SLURM_JOB_NUM_NODES))
    ((gpus == 0 || gpus == SLURM_NTASKS)) ||
        fail "$gpus GPUs but $SLURM_NTASKS tasks: --ntasks-per-node is the number of GPUs a node"
    run_tasks "$@"
}

# requeue WHY: has Slurm run the job again, unless it does so by itself.
requeue() {
    # At its time limit a job is asked to end as well, but nobody has it run again.
    [[ -z $asked || $(squeue -h -j "$SLURM_JOB_ID" -o %r) == TimeLimit ]] || exit "$code"
    echo "$(date '+%F %T') $1: job $SLURM_JOB_ID is queued again"
    scontrol requeue "$SLURM_JOB_ID" || exit "$code"
    exec sleep 60  # until Slurm ends it
}
