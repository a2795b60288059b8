"""Whichever launcher starts a process, it learns its place, or the user what is missing."""

import re

import pytest

from xmodal.distributed.launcher import adopt_launcher, another_port, first_node, local_device
from xmodal.errors import UserError

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TORCH = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
MEETING = {"MASTER_ADDR": "node1", "MASTER_PORT": "29501"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
STEP = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NODELIST": "gpu[07-09,11]",
}
MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def adopted(*variables: dict[str, str], **more: str) -> list[str]:
    """Return what a process with these variables takes for its place, in the order of `PLACE`."""
    held = {name: value for one in variables for name, value in one.items()} | more
    adopt_launcher(held)
    return [held[name] for name in PLACE]


def refused(*variables: dict[str, str], **more: str) -> str:
    with pytest.raises(UserError) as caught:
        adopted(*variables, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def is_alone(*variables: dict[str, str], **more: str) -> bool:
    *place, port = adopted(*variables, **more)
    return place == ["0", "1", "0", "127.0.0.1"] and 1024 <= int(port) < 65536


def test_what_a_launcher_says_stands() -> None:
    expected = ["3", "4", "1", "node1", "29501"]
    assert adopted(TORCH, MEETING) == expected
    assert adopted(TORCH, MEETING, SLURM) == expected
    assert adopted(TORCH, MASTER_ADDR="node1") == [*expected[:4], "29500"]


def test_tasks_of_srun_find_each_other() -> None:
    assert adopted(SLURM, STEP) == ["5", "8", "1", "gpu07", "15077"]
    assert adopted(SLURM, STEP, MEETING) == ["5", "8", "1", "node1", "29501"]
    assert adopted(SLURM, STEP, SLURM_STEP_NUM_NODES="1")[3] == "127.0.0.1"
    # Another step, and the next start of the job, meet at another port.
    assert adopted(SLURM, STEP, SLURM_STEP_ID="2")[4] == "15277"
    assert adopted(SLURM, STEP, SLURM_RESTART_COUNT="1")[4] == "16077"
    # A step of fewer tasks than the job's has.
    assert adopted(SLURM, STEP, SLURM_NTASKS="16")[1] == "8"


def test_tasks_of_srun_that_a_job_script_told_the_address() -> None:
    assert adopted(SLURM, MEETING) == ["5", "8", "1", "node1", "29501"]
    assert adopted(SLURM, MASTER_ADDR="node1")[4] == "29500"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_tasks_that_cannot_meet_do_not_train_alone(rank: str) -> None:
    task = {"SLURM_JOB_ID": "77", "SLURM_PROCID": rank, "SLURM_NTASKS": "2", "SLURM_LOCALID": rank}
    assert refused(task) == (
        "SLURM_NTASKS=2, but MASTER_ADDR, the address of rank 0, is missing: start the "
        "command by srun, export MASTER_ADDR as the name of task 0's node, or set SLURM_NTASKS=1 "
        "to train in this process alone"
    )


def test_a_shell_of_a_job_is_alone_where_that_is_all_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert is_alone(SLURM_JOB_ID="7", SLURM_PROCID="0", SLURM_NTASKS="1", SLURM_LOCALID="0")
    assert is_alone(SLURM_JOB_ID="7", SLURM_PROCID="0", SLURM_LOCALID="0")
    assert capsys.readouterr().err == ""
    assert is_alone(SLURM_JOB_ID="7", SLURM_NTASKS="8")  # of salloc
    said = capsys.readouterr().err
    assert said.startswith("warning: this is one process, not the 8 tasks of job 7, which `srun")
    # The shell of salloc as a step of its own, on a node.
    shell = {**STEP, "SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    assert is_alone(shell, SLURM_STEP_NUM_TASKS="1", SLURM_NTASKS="8")


def test_ranks_of_mpi_find_each_other() -> None:
    assert adopted(MPI, MEETING) == ["1", "4", "1", "node1", "29501"]
    assert adopted(MPI, SLURM, STEP, MEETING)[:3] == ["1", "4", "1"]
    alone = {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert adopted(MPI, alone) == ["1", "4", "1", "127.0.0.1", "29500"]
    hydra = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0"}
    assert adopted(hydra, MEETING) == ["2", "4", "0", "node1", "29501"]
    assert adopted(SLURM, STEP, PMI_RANK="5", PMI_SIZE="8")[3] == "gpu07"


def test_without_a_launcher_a_process_is_alone() -> None:
    assert is_alone()
    assert is_alone(WORLD_SIZE="1")
    assert is_alone(MASTER_ADDR="left.over", MASTER_PORT="1")
    assert is_alone({"RANK": "0", "WORLD_SIZE": "1"})


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"RANK": "1"}, "WORLD_SIZE"),
        ({"RANK": "0", "LOCAL_RANK": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "RANK"),
        ({"WORLD_SIZE": "2", **MEETING}, "RANK"),
        ({"LOCAL_RANK": "0"}, "RANK"),
        ({"RANK": "1", "WORLD_SIZE": "2", **MEETING}, "LOCAL_RANK"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK"),
        ({"PMI_RANK": "1"}, "PMI_SIZE"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "MPI_LOCALRANKID"),
        ({"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, "SLURM_NTASKS"),
    ],
)
def test_half_a_launcher_is_none(variables: dict[str, str], missing: str) -> None:
    assert refused(variables).startswith(f"{missing} is missing, where ")


@pytest.mark.parametrize("variables", [TORCH, MPI, {"PMI_RANK": "0", "PMI_SIZE": "2"} | TORCH])
def test_an_address_that_is_missing_is_named(variables: dict[str, str]) -> None:
    assert "but MASTER_ADDR, the address of rank 0, is missing: export MASTER_ADDR" in refused(
        variables
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"RANK": "4"}, "RANK=4 of WORLD_SIZE=4"),
        ({"RANK": "-1"}, "RANK=-1 is not a number"),
        ({"RANK": "one"}, "RANK=one is not a number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 is not a number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE= is not a number"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1 is not a number"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT=http is no port"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is no port"),
    ],
)
def test_what_no_launcher_sets_is_refused(changed: dict[str, str], said: str) -> None:
    assert refused(TORCH, MEETING, changed).startswith(said)


def test_what_contradicts_srun_is_refused() -> None:
    # A job script has exported for all tasks what is each one's own.
    said = refused(SLURM, STEP, MEETING, WORLD_SIZE="4")
    assert said.startswith("WORLD_SIZE=4, but SLURM_NTASKS=8: unset WORLD_SIZE")
    exported = {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}
    said = refused(SLURM, STEP, MEETING, exported)
    assert said.startswith("RANK=0 of WORLD_SIZE=8 in task 5 of 8 of srun: unset RANK")
    assert "task 5 of 8" in refused(SLURM, STEP, MEETING, exported, WORLD_SIZE="1")
    assert adopted(SLURM, STEP, MEETING, WORLD_SIZE="8")[:2] == ["5", "8"]


@pytest.mark.parametrize("by", [{"TORCHELASTIC_RUN_ID": "x"}, {"CROSS_RANK": "0"}])
def test_a_launcher_that_srun_started_is_right(by: dict[str, str]) -> None:
    assert adopted(SLURM, STEP, MEETING, TORCH, by)[:2] == ["3", "4"]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[01-04,07],m1", "n01"),
        ("n[3,5]", "n3"),
        ("rack[2-3]n[10-12]-ib", "rack2n10-ib"),
        ("127.0.0.[1-2]", "127.0.0.1"),
    ],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


@pytest.mark.parametrize(
    ("local_rank", "visible", "device"), [(0, 1, 0), (3, 1, 0), (3, 4, 3), (5, 4, 1)]
)
def test_a_local_rank_is_no_device_number(local_rank: int, visible: int, device: int) -> None:
    variables = {"LOCAL_RANK": str(local_rank), "OMPI_COMM_WORLD_LOCAL_RANK": str(local_rank)}
    assert local_device(variables, visible) == device
    # DeepSpeed reads it there, and wants both alike.
    assert set(variables.values()) == {str(device)}


def test_another_port_is_given_as_the_launcher_takes_it() -> None:
    assert another_port({"CROSS_RANK": "0"}) == "deepspeed --master_port=PORT"
    assert re.match("torchrun", another_port({"TORCHELASTIC_RUN_ID": "x"}))
    assert another_port({}) == "export MASTER_PORT=PORT"
