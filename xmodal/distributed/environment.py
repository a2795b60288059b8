"""Rank, number of ranks and device of this process, under any launcher."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch

from xmodal.distributed.launcher import adopt_launcher, local_device
from xmodal.distributed.meeting import keep_within
from xmodal.distributed.rendezvous import Rendezvous, check_devices, join_rendezvous, named
from xmodal.distributed.watchdog import within
from xmodal.freed_memory import keep_freed_memory

RENDEZVOUS_TIMEOUT = 300.0
REDUCES = "reduce"


@dataclass(frozen=True)
class Environment:
    """This process's place in the job."""

    rank: int
    ranks: int
    device: torch.device
    rendezvous: Rendezvous | None = None  # None if the launcher, Ray, watches the ranks

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes files and logs."""
        return self.rank == 0


def start(rendezvous_timeout: float = RENDEZVOUS_TIMEOUT) -> Environment:
    """Join the job's process group (NCCL on GPUs, gloo on CPUs) and return this process's place.

    Raises `LostPeerError` if a rank does not answer within `rendezvous_timeout` seconds, and
    `UserError` if the rendezvous is impossible. Ends the process if the first all-reduce takes
    longer.
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
    else:
        keep_freed_memory()
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    rendezvous = None
    if not met:
        # Connecting and waiting may each take the timeout; after both, rank 0 itself is silent.
        with within(2 * rendezvous_timeout + 1, lambda: f"the rendezvous with {named(0, ranks)}"):
            rendezvous = join_rendezvous(rank, ranks, rendezvous_timeout)
            if device.type == "cuda":
                properties = torch.cuda.get_device_properties(device)
                check_devices(
                    rendezvous, f"{properties.name} {properties.uuid}", rendezvous_timeout
                )
    with within(rendezvous_timeout, lambda: _first_all_reduce(rendezvous)):
        if rendezvous:
            rendezvous.note(REDUCES)
        if not met:
            _join_group(device, ranks)
        torch.distributed.all_reduce(torch.zeros(1, device=device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return Environment(rank, ranks, device, rendezvous)


def _join_group(device: torch.device, ranks: int) -> None:
    gpu = device.type == "cuda"
    # Bound to its device, NCCL connects at once; a single rank has no peer.
    bound = device if gpu and ranks > 1 else None
    torch.distributed.init_process_group(
        "nccl" if gpu else "gloo", timeout=timedelta(minutes=30), device_id=bound
    )


def _first_all_reduce(rendezvous: Rendezvous | None) -> str:
    absent = rendezvous.absent(REDUCES) if rendezvous else []
    if absent:
        return f"the first all-reduce, which {', '.join(absent)} did not reach"
    return (
        "the first all-reduce, which all ranks reached (do NCCL_SOCKET_IFNAME and "
        "GLOO_SOCKET_IFNAME name the network between the nodes?)"
    )
