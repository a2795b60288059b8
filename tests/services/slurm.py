"""A real Slurm of two nodes on this machine: `python -m tests.services.slurm` starts it by hand.

Both nodes are slurmd daemons of the calling user, beside a slurmctld and a munged of their own, in
a temporary folder. The nodes are named 127.0.0.1 and 127.0.0.2, so that their names resolve (a
job's MASTER_ADDR is the name of its first node) without an entry in /etc/hosts. Each has two CPUs
and, so that jobs can ask for them, two GPUs that are other devices in truth. A job of the
partition `urgent` takes its nodes from those of `main`.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.services.daemons import daemon, find_program, free_ports, until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "setpriv")
NODES = ("127.0.0.1", "127.0.0.2")
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"})

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
GresTypes=gpu
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
SlurmdTimeout=30
ReturnToService=2
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 Gres=gpu:2
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL PriorityTier=2 MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running cluster; `SLURM_CONF` is what tells a client from it."""

    folder: Path
    daemons: ExitStack
    nodes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)  # slurmd by name

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a client such as `sinfo` against this cluster and return what it prints."""
        environment = {**_without_slurm(os.environ), "SLURM_CONF": str(self.conf)}
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def submit(self, *arguments: str, cwd: Path) -> str:
        """Submit a batch job from the folder `cwd` and return its id."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd).strip()

    def job(self, number: str) -> dict[str, str]:
        """Return the fields of a job as scontrol shows them."""
        shown = self.run("scontrol", "--oneliner", "show", "job", number)
        return dict(field.split("=", 1) for field in shown.split() if "=" in field)

    def start(self, node: str) -> None:
        """Start the daemon of a node."""
        daemon = _daemon(self.folder, "slurmd", "-D", "-f", str(self.conf), "-N", node)
        self.nodes[node] = self.daemons.enter_context(daemon)

    def lose(self, node: str) -> None:
        """End all that runs on a node, its daemon too, as when its power is cut."""
        self.nodes[node].kill()
        self.nodes[node].wait()
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and _runs_on(process, self.folder, node):
                with suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)

    def wait(self, number: str, seconds: float) -> dict[str, str]:
        """Wait for a job's end and return its fields; `TimeoutError` when it takes longer."""
        until(lambda: self.job(number)["JobState"] in ENDED, seconds, f"job {number} to end")
        return self.job(number)


def missing_programs() -> list[str]:
    """Return which of the programs that a cluster needs are not on this machine."""
    return [name for name in PROGRAMS if find_program(name) is None]


@contextmanager
def cluster() -> Iterator[Slurm]:
    """Start a cluster of two nodes; end its jobs and daemons and remove its files at the exit."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    with ExitStack() as stack:
        slurm = Slurm(folder, stack)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _configure(slurm)
        stack.enter_context(_munge(folder / "munge"))
        stack.enter_context(_daemon(folder, "slurmctld", "-D", "-f", str(slurm.conf)))
        for node in NODES:
            slurm.start(node)
        stack.callback(_cancel_jobs, slurm)
        said = sorted(folder.glob("*.out"))
        until(lambda: _idle_nodes(slurm) == len(NODES), 60, "the nodes to come up", said)
        yield slurm


def _configure(slurm: Slurm) -> None:
    for name in ("munge", "state", "spool"):
        (slurm.folder / name).mkdir(mode=0o700)
    slurm.conf.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            folder=slurm.folder,
            ports=free_ports(3),
            nodes=NODES,
        )
    )
    (slurm.folder / "gres.conf").write_text("Name=gpu File=/dev/null,/dev/zero\n")


@contextmanager
def _munge(folder: Path) -> Iterator[None]:
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    places = [f"--{name}-file={folder / name}" for name in ("key", "pid", "log", "seed")]
    # Its own checks want folders that only root can write to; ours is the user's alone.
    with _daemon(folder, "munged", "--foreground", "--force", f"--socket={folder}/socket", *places):
        said = [folder / "munged.out"]
        until((folder / "socket").exists, 20, "munged to open its socket", said)
        yield


def _daemon(
    folder: Path, program: str, *arguments: str
) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    # Tests may themselves run inside a job of another cluster.
    return daemon(folder, program, *arguments, environment=_without_slurm(os.environ))


def _cancel_jobs(slurm: Slurm) -> None:
    slurm.run("scancel", "--full", f"--user={getpass.getuser()}")
    until(lambda: not slurm.run("squeue", "--noheader"), 60, "the cancelled jobs to end")


def _runs_on(process: Path, folder: Path, node: str) -> bool:
    """Whether a process is a task of a node, or one of those that Slurm has to look after them."""
    try:
        variables = (process / "environ").read_bytes().split(b"\0")
        opened = {str(file.readlink()) for file in (process / "fd").iterdir()}
    except OSError:  # it has ended, or is not ours
        return False
    task = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={folder}/slurm.conf".encode()}
    return task <= set(variables) or f"{folder}/slurmd-{node}.log" in opened


def _idle_nodes(slurm: Slurm) -> int:
    try:
        shown = slurm.run("sinfo", "--noheader", "-p", "main", "-N", "-o", "%T")
    except RuntimeError:  # the controller is not listening yet
        return 0
    return shown.split().count("idle")


def _without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if not key.startswith("SLURM")}


if __name__ == "__main__":
    with cluster() as running:
        print(f"export SLURM_CONF={running.conf}  # Ctrl-C here ends it", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
