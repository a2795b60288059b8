"""Which rank this process is, of how many, on which device; started by whichever launcher."""

import logging
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import timedelta

import torch

from xmodal.distributed.rollcall import Roll, call_roll, named
from xmodal.distributed.watchdog import within

ROLL_CALL = 300.0
REDUCES = "reduce"


@dataclass(frozen=True)
class Environment:
    """This process's place in the job."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0


def adopt_launcher(variables: MutableMapping[str, str]) -> None:
    """Fill in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT where they are missing.

    The DeepSpeed launcher and torchrun set them; Slurm's srun gives them under its own names;
    without any launcher the process is alone.
    """
    if "RANK" not in variables and "SLURM_PROCID" in variables and "MASTER_ADDR" in variables:
        variables["RANK"] = variables["SLURM_PROCID"]
        variables["WORLD_SIZE"] = variables["SLURM_NTASKS"]
        variables["LOCAL_RANK"] = variables["SLURM_LOCALID"]
        variables.setdefault("MASTER_PORT", "29500")
    if "RANK" not in variables:
        variables.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
        variables["MASTER_ADDR"], variables["MASTER_PORT"] = "127.0.0.1", str(_free_port())


def start(roll_call: float = ROLL_CALL) -> Environment:
    """Join the job's process group (NCCL on GPUs, gloo on CPUs) and return this process's place.

    Raises `LostPeerError` where a rank does not answer within `roll_call` seconds, and `UserError`
    where they cannot meet at all. A first all-reduce that takes longer ends the process.
    """
    adopt_launcher(os.environ)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    else:
        # Else DeepSpeed says on every rank that it looked for an accelerator in vain.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed would compile, at the first start, a shared-memory all-reduce that only inference
    # uses: 40 seconds, and a crash where there is no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    roll = None
    if not torch.distributed.is_initialized():  # Ray Train has its workers meet by itself
        # To connect and to wait may take so long each; then rank 0, which counts, is silent itself.
        with within(2 * roll_call + 1, lambda: f"the roll call, by {named(0, ranks)},"):
            roll = call_roll(rank, ranks, roll_call)
    with within(roll_call, lambda: _first_all_reduce(roll)):
        if roll:
            roll.note(REDUCES)
        deepspeed.init_distributed(
            dist_backend="nccl" if device.type == "cuda" else "gloo",
            timeout=timedelta(minutes=30),
            verbose=False,
        )
        torch.distributed.all_reduce(torch.zeros(1, device=device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return Environment(rank, ranks, device)


def _first_all_reduce(roll: Roll | None) -> str:
    absent = roll.absent(REDUCES) if roll else []
    if absent:
        return f"the first all-reduce, to which {', '.join(absent)} did not come,"
    return (
        "the first all-reduce of ranks that all have answered (do NCCL_SOCKET_IFNAME and "
        "GLOO_SOCKET_IFNAME name the network between the nodes?)"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
