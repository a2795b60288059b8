"""Which rank this process is, of how many, on which device; started by whichever launcher."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch

from xmodal.distributed.launcher import adopt_launcher, local_device
from xmodal.distributed.meeting import keep_within
from xmodal.distributed.rollcall import Roll, call_roll, check_devices, named
from xmodal.distributed.watchdog import within

ROLL_CALL = 300.0
REDUCES = "reduce"


@dataclass(frozen=True)
class Environment:
    """This process's place in the job."""

    rank: int
    ranks: int
    device: torch.device
    roll: Roll | None = None  # None where whoever started the ranks watches them

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0


def start(roll_call: float = ROLL_CALL) -> Environment:
    """Join the job's process group (NCCL on GPUs, gloo on CPUs) and return this process's place.

    Raises `LostPeerError` where a rank does not answer within `roll_call` seconds, and `UserError`
    where they cannot meet at all. A first all-reduce that takes longer ends the process.
    """
    met = torch.distributed.is_initialized()  # Ray Train has its workers meet by itself
    if not met:
        adopt_launcher(os.environ)
        keep_within(os.environ)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local_device(os.environ, torch.cuda.device_count()))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    roll = None
    if not met:
        # To connect and to wait may take so long each; then rank 0, which counts, is silent itself.
        with within(2 * roll_call + 1, lambda: f"the roll call, by {named(0, ranks)},"):
            roll = call_roll(rank, ranks, roll_call)
            if device.type == "cuda":
                properties = torch.cuda.get_device_properties(device)
                check_devices(roll, f"{properties.name} {properties.uuid}", roll_call)
    with within(roll_call, lambda: _first_all_reduce(roll)):
        if roll:
            roll.note(REDUCES)
        if not met:
            _join_group(device, ranks)
        torch.distributed.all_reduce(torch.zeros(1, device=device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return Environment(rank, ranks, device, roll)


def _join_group(device: torch.device, ranks: int) -> None:
    gpu = device.type == "cuda"
    # Bound to its device, NCCL connects at once; a single rank has nobody to connect to.
    bound = device if gpu and ranks > 1 else None
    torch.distributed.init_process_group(
        "nccl" if gpu else "gloo", timeout=timedelta(minutes=30), device_id=bound
    )


def _first_all_reduce(roll: Roll | None) -> str:
    absent = roll.absent(REDUCES) if roll else []
    if absent:
        return f"the first all-reduce, to which {', '.join(absent)} did not come,"
    return (
        "the first all-reduce of ranks that all have answered (do NCCL_SOCKET_IFNAME and "
        "GLOO_SOCKET_IFNAME name the network between the nodes?)"
    )
