"""All ranks answer before work begins, and one that does not is named."""

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
PULSE = "pulse"  # here xmodal.distributed.pulse counts
DEVICE = "device"
SECONDS_TO_ANSWER = 5.0


def node_name() -> str:
    """Return the name of this machine, as Slurm calls it within its jobs."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


class Roll:
    """What each rank has come to, as all can read it where they met."""

    def __init__(self, store: Store, rank: int, ranks: int) -> None:
        self.store, self.rank, self.ranks = store, rank, ranks

    def note(self, place: str, value: str = "") -> None:
        """Note that this rank has come to a place in the program, and a value of it there."""
        self.store.set(f"{place}/{self.rank}", value)

    def value(self, place: str, rank: int) -> str:
        """Return what a rank has noted at a place that it has come to."""
        return self.store.get(f"{place}/{rank}").decode()

    def values(self, place: str, seconds: float) -> list[str]:
        """Return what all ranks have noted at a place, once they have come to it."""
        self.wait(place, seconds)
        return [self.value(place, one) for one in range(self.ranks)]

    def wait(self, place: str, seconds: float) -> None:
        """Wait until all ranks have come to it; `DistError` where some have not in time."""
        keys = [f"{place}/{one}" for one in range(self.ranks)]
        self.store.wait(keys, timedelta(seconds=seconds))

    def absent(self, place: str) -> list[str]:
        """Return what the ranks are called that have not; none where nobody is left to tell.

        That is rank 0, where they met, if it does not answer.
        """
        missing: Queue[list[int]] = Queue()
        # The store waits for an answer without an end.
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


def call_roll(rank: int, ranks: int, seconds: float) -> Roll:
    """Wait until all ranks have answered, at MASTER_ADDR and MASTER_PORT, and return the roll.

    Raises `LostPeerError`, on each rank that has, where some have not within so many seconds, and
    `UserError` where rank 0 cannot be reached under its address by anybody, but in a job of
    Slurm's.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's agent answers there in its place.
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
    roll = Roll(store, rank, ranks)
    try:
        roll.note(PULSE)
        roll.note(ANSWERED)
        roll.wait(ANSWERED, seconds)
    except DistError:
        # Rank 0 may have waited as long, have said who is missing, and be gone.
        who = ", ".join(roll.absent(ANSWERED)) or "some rank"
        raise LostPeerError(
            f"{who} did not answer within {seconds:g} s (training.rendezvous_timeout): is its node "
            "alive?"
        ) from None
    return roll


def check_devices(roll: Roll, device: str, seconds: float) -> None:
    """Raise `UserError` where two ranks would use one device, each named as on no other machine."""
    roll.note(DEVICE, device)
    devices = roll.values(DEVICE, seconds)
    for rank, other in enumerate(devices):
        first = devices.index(other)
        if first < rank:
            raise UserError(
                f"{named(first, roll.ranks)} and {named(rank, roll.ranks)} have one GPU between "
                f"them ({other}): start as many processes a node as it has GPUs"
            )


def named(rank: int, ranks: int) -> str:
    """Return what a rank is called, with its node where the job script has said who runs where."""
    nodes = os.environ.get("XMODAL_NODES", "").split()
    return f"rank {rank} (node {nodes[rank * len(nodes) // ranks]})" if nodes else f"rank {rank}"
