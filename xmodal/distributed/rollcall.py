"""All ranks answer before work begins, and one that does not is named."""

import os
import socket
from datetime import timedelta

from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed import DistError

from xmodal.errors import LostPeerError, UserError


def node_name() -> str:
    """Return the name of this machine, as Slurm calls it within its jobs."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def call_roll(rank: int, ranks: int, seconds: float) -> Store:
    """Wait until all ranks have answered, and return where they did: MASTER_ADDR, MASTER_PORT.

    Raises `LostPeerError`, on each rank that has, where some have not within so many seconds, and
    `UserError` where rank 0 cannot be reached under its address by anybody, but in a job of
    Slurm's.
    """
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} (MASTER_ADDR, MASTER_PORT)"
    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            ranks,
            # torchrun's agent answers there in its place.
            is_master=rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (DistError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if rank:
            raise LostPeerError(
                f"{named(0, ranks)} did not answer at {place} within {seconds:g} s: {reason}"
            ) from None
        if "XMODAL_NODES" in os.environ:  # a job that is started again has another port
            raise LostPeerError(f"the ranks cannot meet at {place}: {reason}") from None
        raise UserError(f"the ranks cannot meet at {place}: {reason}") from None
    keys = {one: f"roll/{one}" for one in range(ranks)}
    try:
        store.set(keys[rank], node_name())
        store.wait(list(keys.values()), timedelta(seconds=seconds))
    except DistError:
        raise LostPeerError(_absent(store, keys, ranks, seconds)) from None
    return store


def named(rank: int, ranks: int) -> str:
    """Return what a rank is called, with its node where the job script has said who runs where."""
    nodes = os.environ.get("XMODAL_NODES", "").split()
    return f"rank {rank} (node {nodes[rank * len(nodes) // ranks]})" if nodes else f"rank {rank}"


def _absent(store: Store, keys: dict[int, str], ranks: int, seconds: float) -> str:
    try:
        absent = [named(rank, ranks) for rank, key in keys.items() if not store.check([key])]
    except DistError:
        # Rank 0 has waited as long, has said who is missing, and is gone.
        absent = []
    who = ", ".join(absent) or "some rank"
    return f"{who} did not answer within {seconds:g} s (training.roll_call): is its node alive?"
