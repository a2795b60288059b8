#!/bin/bash
# A task of a job: bash slurm/task.sh CODES COMMAND …
#
# Runs COMMAND and writes its exit code into CODES, a folder that all nodes share: srun kills the other
# tasks when one has failed, and reports their signal rather than its code.

codes=$1
shift
# Some sites have signals reach this shell alone, others every process of the task.
trap 'kill -TERM "$child" 2>/dev/null' TERM
trap 'kill -USR1 "$child" 2>/dev/null' USR1
"$@" <&0 &
child=$!
while kill -0 "$child" 2>/dev/null; do wait "$child"; done  # a signal ends a `wait`
wait "$child"
code=$?
echo "$code" >"$codes/$SLURM_PROCID"
exit "$code"
