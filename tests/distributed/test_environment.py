"""Whichever launcher starts a process, it learns its place in the same words."""

from xmodal.distributed.environment import adopt_launcher


def adopted(**variables: str) -> dict[str, str]:
    adopt_launcher(variables)
    return variables


DEEPSPEED = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29501",
}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}


def test_what_a_launcher_says_stands() -> None:
    assert adopted(**DEEPSPEED) == DEEPSPEED
    assert adopted(**DEEPSPEED, **SLURM) == DEEPSPEED | SLURM


def test_srun_gives_it_under_its_own_names() -> None:
    found = adopted(**SLURM, MASTER_ADDR="node1", MASTER_PORT="15007")
    assert found == SLURM | {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "15007",
    }


def test_a_job_that_names_no_port_has_the_usual_one() -> None:
    assert adopted(**SLURM, MASTER_ADDR="node1")["MASTER_PORT"] == "29500"


def test_without_a_launcher_a_process_is_alone() -> None:
    found = adopted()
    assert {k: found[k] for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")} == {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
    }
    assert 1024 <= int(found["MASTER_PORT"]) < 65536


def test_a_shell_on_a_slurm_node_is_no_rank() -> None:
    # salloc and sbatch set SLURM_PROCID=0 in a script that is not one of srun's tasks.
    found = adopted(SLURM_PROCID="0", SLURM_NTASKS="8", SLURM_LOCALID="0")
    assert (found["RANK"], found["WORLD_SIZE"]) == ("0", "1")
