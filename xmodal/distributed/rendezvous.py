"""Rendezvous of all ranks before work begins; ranks that do not answer are named."""

import os
import socket
from datetime import timedelta
from queue import Empty, Queue
from threading import Thread

from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed import DistError

from xmodal.distributed.meeting import listen
from xmodal.errors import LostPeerError, UserError

ANSWERED = "roll"
PULSE = "pulse"  # counter of xmodal.distributed.pulse
DEVICE = "device"
SECONDS_TO_ANSWER = 5.0


def node_name() -> str:
    """Return the name of this machine, under Slurm that of the node."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


class Rendezvous:
    """Places in the program that each rank has reached, noted at the rendezvous store."""

    def __init__(self, store: Store, rank: int, ranks: int) -> None:
        self.store, self.rank, self.ranks = store, rank, ranks

    def note(self, place: str, value: str = "") -> None:
        """Note that this rank has reached a place in the program, with a value."""
        self.store.set(f"{place}/{self.rank}", value)

    def value(self, place: str, rank: int) -> str:
        """Return the value that a rank has noted at a place."""
        return self.store.get(f"{place}/{rank}").decode()

    def values(self, place: str, seconds: float) -> list[str]:
        """Return the values of all ranks at a place, once they have reached it."""
        self.wait(place, seconds)
        return [self.value(place, one) for one in range(self.ranks)]

    def wait(self, place: str, seconds: float) -> None:
        """Wait until all ranks have reached a place; raise `DistError` on timeout."""
        keys = [f"{place}/{one}" for one in range(self.ranks)]
        self.store.wait(keys, timedelta(seconds=seconds))

    def all_reached(self, place: str) -> bool:
        """Return whether all ranks have reached a place, without waiting for them."""
        return bool(self.store.check([f"{place}/{one}" for one in range(self.ranks)]))

    def absent(self, place: str) -> list[str]:
        """Return the names of ranks that have not reached a place.

        Return rank 0, which keeps the store, if it does not answer, and none if it has gone.
        """
        missing: Queue[list[int]] = Queue()
        # The store has no timeout for answers.
        Thread(target=lambda: missing.put(self._missing(place)), daemon=True).start()
        try:
            return [named(one, self.ranks) for one in missing.get(timeout=SECONDS_TO_ANSWER)]
        except Empty:
            return [named(0, self.ranks)]

    def _missing(self, place: str) -> list[int]:
        try:
            return [n for n in range(self.ranks) if not self.store.check([f"{place}/{n}"])]
        except DistError:
            return []


def join_rendezvous(rank: int, ranks: int, seconds: float) -> Rendezvous:
    """Meet all ranks at MASTER_ADDR and MASTER_PORT within `seconds`.

    Raises `LostPeerError`, on each rank that has answered, if others have not in time, and
    `UserError` if nobody can reach rank 0 under its address (under Slurm, `LostPeerError`).
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # With torchrun its agent keeps the store.
    answers = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = TCPStore(
            address,
            port,
            ranks,
            is_master=answers,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
            master_listen_fd=listen(address, port).detach() if answers else None,
        )
    except UserError as error:
        if "XMODAL_NODES" in os.environ:  # a job that is started again has another port
            raise LostPeerError(str(error)) from None
        raise
    except (DistError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise LostPeerError(
            f"{named(0, ranks)} did not answer at {address}:{port} (MASTER_ADDR, MASTER_PORT) "
            f"within {seconds:g} s: {reason}"
        ) from None
    rendezvous = Rendezvous(store, rank, ranks)
    try:
        rendezvous.note(PULSE)
        rendezvous.note(ANSWERED)
        rendezvous.wait(ANSWERED, seconds)
    except DistError:
        # Rank 0 may have timed out first, named the missing ranks, and gone.
        who = ", ".join(rendezvous.absent(ANSWERED)) or "some rank"
        raise LostPeerError(
            f"{who} did not answer within {seconds:g} s (training.rendezvous_timeout): is its node "
            "alive?"
        ) from None
    return rendezvous


def check_devices(rendezvous: Rendezvous, device: str, seconds: float) -> None:
    """Raise `UserError` if two ranks share a device; device names are unique over machines."""
    rendezvous.note(DEVICE, device)
    devices = rendezvous.values(DEVICE, seconds)
    for rank, other in enumerate(devices):
        first = devices.index(other)
        if first < rank:
            raise UserError(
                f"{named(first, rendezvous.ranks)} and {named(rank, rendezvous.ranks)} share one "
                f"GPU ({other}): start as many processes a node as it has GPUs"
            )


def named(rank: int, ranks: int) -> str:
    """Return the name of a rank, with its node if the job script has set XMODAL_NODES."""
    nodes = os.environ.get("XMODAL_NODES", "").split()
    return f"rank {rank} (node {nodes[rank * len(nodes) // ranks]})" if nodes else f"rank {rank}"
