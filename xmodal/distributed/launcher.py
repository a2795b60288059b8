"""Rank and rendezvous address of a process, under the variable names of torchrun."""

import os
import re
import socket
import sys
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

from xmodal.errors import UserError

Variables = Mapping[str, str]
LOOPBACK = "127.0.0.1"
USUAL_PORT = 29500
# Steps with such numbers are a job's shells, which srun did not start.
_FIRST_SHELL = 0xFFFFFFF0


class Names(NamedTuple):
    """The variables in which a launcher gives a process its place."""

    rank: str
    ranks: str
    local_rank: str


TORCH = Names("RANK", "WORLD_SIZE", "LOCAL_RANK")  # DeepSpeed's launcher as well
SLURM = Names("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
# MPI's come before Slurm's, by which mpirun starts its own processes.
LAUNCHERS = (
    TORCH,
    Names("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    SLURM,
    Names("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)


def adopt_launcher(variables: MutableMapping[str, str]) -> None:
    """Fill in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT where they are missing.

    torchrun and DeepSpeed's launcher set them; srun and mpirun give them under their own names;
    without any launcher the process is alone. Raises `UserError` if a launcher's variables are
    incomplete or contradict each other: each process would train alone on all of the data.
    """
    names = _launcher(variables)
    if names is None:
        _warn_of_shell(variables)
        variables.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR=LOOPBACK)
        variables["MASTER_PORT"] = str(_free_port())
        return
    given = _in_step(variables) if names is SLURM else variables
    rank, ranks, local_rank = (_number(given, names, name) for name in names)
    if rank >= ranks:
        raise UserError(f"{names.rank}={rank} of {names.ranks}={ranks}: ranks count from 0")
    _check_agreement(variables, names, rank, ranks)
    address, port = _meeting_place(variables, names, ranks)
    place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": local_rank, "MASTER_PORT": port}
    variables.update({name: str(value) for name, value in place.items()}, MASTER_ADDR=address)


def local_device(variables: MutableMapping[str, str], devices: int) -> int:
    """Return which of the visible GPUs is this process's, and call it LOCAL_RANK for DeepSpeed.

    A task may see its own GPU alone, whatever its number among the node's tasks.
    """
    device = int(variables["LOCAL_RANK"]) % devices
    for name in ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"):
        if name in variables:
            variables[name] = str(device)
    return device


def another_port(variables: Variables = os.environ) -> str:
    """Return the option or variable that sets another port, for the launcher in use."""
    if "CROSS_RANK" in variables:
        return "deepspeed --master_port=PORT"
    if "TORCHELASTIC_RUN_ID" in variables:
        return "torchrun --master-port=PORT"
    return "export MASTER_PORT=PORT"


def _launcher(variables: Variables) -> Names | None:
    """Return the launcher that started this process; None for a process of its own."""
    for names in LAUNCHERS:
        if names.rank in variables:
            return None if names is SLURM and _tasks(variables) == "1" else names
        if names not in (TORCH, SLURM) and names.ranks in variables:
            return names
    incomplete = "LOCAL_RANK" in variables or variables.get("WORLD_SIZE", "1") != "1"
    return TORCH if incomplete else None


def _tasks(variables: Variables) -> str:
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")
    alone = "1" if variables["SLURM_PROCID"] == "0" else ""
    return next((variables[name] for name in names if name in variables), alone)


def _in_step(variables: Variables) -> Variables:
    """Return Slurm's variables, the number of tasks being that of the step."""
    tasks = _tasks(variables)
    return {**variables, "SLURM_NTASKS": tasks} if tasks else variables


def _number(variables: Variables, names: Names, name: str) -> int:
    value = variables.get(name)
    if value is None and name == names.local_rank and variables.get(names.ranks) == "1":
        return 0
    if value is None:
        present = ", ".join(f"{one}={variables[one]}" for one in names if one in variables)
        raise UserError(
            f"{name} is missing, where {present} is set: start the command by deepspeed, torchrun, "
            f"srun or mpirun, which set {', '.join(names)}, or unset them to train in one process"
        )
    if not re.fullmatch("[0-9]{1,9}", value) or (name == names.ranks and int(value) == 0):
        raise UserError(f"{name}={value} is not a number that a launcher sets")
    return int(value)


def _check_agreement(variables: Variables, names: Names, rank: int, ranks: int) -> None:
    """Raise `UserError` where variables that a job script exported are not this process's."""
    size = variables.get("WORLD_SIZE", str(ranks))
    if size != str(ranks):
        raise UserError(
            f"WORLD_SIZE={size}, but {names.ranks}={ranks}: unset WORLD_SIZE, which follows from it"
        )
    # Those of launchers that srun itself has started are right.
    if names is not TORCH or variables.keys() & {"TORCHELASTIC_RUN_ID", "CROSS_RANK"}:
        return
    if not _is_task(variables):
        return
    task, tasks = variables["SLURM_PROCID"], _tasks(variables)
    if tasks != "1" and (tasks, task) != (str(ranks), str(rank)):
        raise UserError(
            f"RANK={rank} of WORLD_SIZE={ranks} in task {task} of {tasks} of srun: unset RANK and "
            "WORLD_SIZE, which follow from the task"
        )


def _is_task(variables: Variables) -> bool:
    """Return True if srun started this process, rather than a job's shell."""
    step = variables.get("SLURM_STEP_ID", "")
    return "SLURM_PROCID" in variables and step.isdigit() and int(step) < _FIRST_SHELL


def _meeting_place(variables: Variables, names: Names, ranks: int) -> tuple[str, int]:
    """Return the address and the port of rank 0."""
    if "MASTER_ADDR" in variables:
        address = variables["MASTER_ADDR"]
    elif ranks == 1 or variables.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(ranks):
        address = LOOPBACK
    elif names is SLURM and _is_task(variables) and "SLURM_STEP_NODELIST" in variables:
        alone = variables.get("SLURM_STEP_NUM_NODES") == "1"
        address = LOOPBACK if alone else first_node(variables["SLURM_STEP_NODELIST"])
    else:
        raise UserError(_nowhere(names, ranks))
    port = variables.get("MASTER_PORT") or str(_default_port(variables, names, ranks))
    if not (port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"MASTER_PORT={port} is no port: it is a number from 1 to 65535")
    return address, int(port)


def _nowhere(names: Names, ranks: int) -> str:
    where = "export MASTER_ADDR as the name of rank 0's node"
    if names is SLURM:
        where = (
            "start the command by srun, export MASTER_ADDR as the name of task 0's node, or set "
            "SLURM_NTASKS=1 to train in this process alone"
        )
    return f"{names.ranks}={ranks}, but MASTER_ADDR, the address of rank 0, is missing: {where}"


def _default_port(variables: Variables, names: Names, ranks: int) -> int:
    if ranks == 1:
        return _free_port()
    if names is not SLURM or "SLURM_JOB_ID" not in variables:
        return USUAL_PORT
    # Another one for each job, step and start (as in slurm/job.sh), below those that systems hand
    # out by themselves.
    job, step, start = (
        int(variables.get(name, 0))
        for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    )
    return 15000 + (job + 100 * step + 1000 * start) % 10000


def first_node(nodes: str) -> str:
    """Return the first name of a list in Slurm's notation: `n01` of `n[01-04,07],m1`."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)
    return re.sub(r"\[([^-,\]]*)[^\]]*\]", r"\1", first[0] if first else nodes)


def _warn_of_shell(variables: Variables) -> None:
    tasks = variables.get("SLURM_NTASKS", "1")
    if "SLURM_PROCID" not in variables and tasks != "1":
        print(
            f"warning: this is one process, not the {tasks} tasks of job "
            f"{variables.get('SLURM_JOB_ID')}, which `srun COMMAND` starts",
            file=sys.stderr,
            flush=True,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
