"""A real S3 on this machine, Ceph's RADOS Gateway: `python -m tests.services.s3` starts it by hand.

The smallest Ceph that serves it: one monitor, and one object store that keeps everything in
memory. All of it runs as the calling user, with files in a temporary folder and ports of its own.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from s3fs import S3FileSystem

from tests.services.daemons import daemon, find_program, free_ports, until

PROGRAMS = (
    "ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin",
    "setpriv",
)  # fmt: skip

CONFIGURATION = """
[global]
fsid = {fsid}
mon_host = {monitor}
public_addr = 127.0.0.1
keyring = {folder}/keyring
run_dir = {folder}
crash_dir = {folder}
admin_socket = {folder}/$name.socket
pid_file =
log_file = {folder}/$name.log
mon_cluster_log_file = {folder}/cluster.log
mon_data = {folder}/mon
mon_data_avail_warn = 0
mon_data_avail_crit = 0
mon_allow_pool_size_one = true
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
[client.rgw]
rgw_data = {folder}/rgw
rgw_cache_enabled = false
rgw_frontends = beast endpoint=127.0.0.1:{port}
"""

KEYRING_OPTIONS = (
    ("mon.", "--cap", "mon", "allow *"),
    ("client.admin", "--cap", "mon", "allow *", "--cap", "osd", "allow *"),
    ("client.rgw", "--cap", "mon", "allow rw", "--cap", "osd", "allow rwx"),
    ("osd.0", "--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"),
)


@dataclass
class Gateway:
    """A running S3: where it listens, and the keys of its one user, who may do all."""

    folder: Path
    port: int
    key: str = "accesskeyoftests"
    secret: str = "secretkeyoftests"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "default",
        }

    @property
    def places(self) -> dict[str, dict[str, str]]:
        """Where a recipe's `data.s3` finds the keys: files beside the gateway's."""
        for name, held in (("key", self.key), ("secret", self.secret)):
            (self.folder / f"{name}.txt").write_text(f"{held}\n")
        return {name: {"file": f"{self.folder}/{name}.txt"} for name in ("key", "secret")}

    @property
    def conf(self) -> str:
        return str(self.folder / "ceph.conf")

    def bucket(self) -> str:
        """Make a new bucket and return its URL."""
        url = f"s3://bucket-{uuid.uuid4().hex[:12]}"
        S3FileSystem(key=self.key, secret=self.secret, endpoint_url=self.endpoint).mkdir(url)
        return url

    def start(self) -> None:
        """Start the gateway; it has forgotten nothing."""
        self._stack = ExitStack()
        self._process = self._stack.enter_context(self.daemon("radosgw", "-n", "client.rgw"))
        until(self._answers, 60, "the gateway to answer", [self.folder / "radosgw.out"])

    def stop(self) -> None:
        """Kill the gateway: what it was sending is cut."""
        self._process.kill()
        self._stack.close()

    def daemon(
        self, program: str, *arguments: str
    ) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        """Run one of Ceph's daemons."""
        given = ("-f", "-c", self.conf, *arguments)
        # One that is asked to end waits for others, which are gone too.
        return daemon(self.folder, program, *given, orphaned="KILL")

    def run(self, program: str, *arguments: str) -> str:
        """Run one of Ceph's commands and return what it prints."""
        command = [str(find_program(program)), *arguments]
        environment = os.environ | {"CEPH_CONF": self.conf}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.endpoint, timeout=5).close()
        except (OSError, urllib.error.URLError):
            return False
        return True


def missing_programs() -> list[str]:
    """Return which of the programs that it needs are not on this machine."""
    return [name for name in PROGRAMS if find_program(name) is None]


@contextmanager
def gateway() -> Iterator[Gateway]:
    """Start an S3 that is empty; end it and remove its files at the exit."""
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    *monitor_ports, port = free_ports(3)
    running = Gateway(folder, port)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _start_monitor(running, monitor_ports, stack)
        _start_object_store(running, stack)
        running.start()
        stack.callback(running.stop)
        running.run(
            "radosgw-admin", "-n", "client.rgw", "user", "create", "--uid=tests",
            "--display-name=tests", f"--access-key={running.key}", f"--secret-key={running.secret}",
        )  # fmt: skip
        yield running


def _start_monitor(running: Gateway, ports: list[int], stack: ExitStack) -> None:
    folder, fsid = running.folder, str(uuid.uuid4())
    addresses = f"[v2:127.0.0.1:{ports[0]},v1:127.0.0.1:{ports[1]}]"
    settings = {"fsid": fsid, "monitor": addresses, "folder": folder, "port": running.port}
    (folder / "ceph.conf").write_text(CONFIGURATION.format(**settings))
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    keyring, map_ = str(folder / "keyring"), str(folder / "monmap")
    running.run("ceph-authtool", "--create-keyring", keyring)
    for name, *caps in KEYRING_OPTIONS:
        running.run("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)
    running.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, map_)
    running.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", map_, "--keyring", keyring)
    stack.enter_context(running.daemon("ceph-mon", "-i", "a"))
    running.run("ceph", "--connect-timeout", "30", "auth", "import", "-i", keyring)


def _start_object_store(running: Gateway, stack: ExitStack) -> None:
    number = str(uuid.uuid4())
    running.run("ceph", "osd", "new", number, "0")
    running.run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", number)
    stack.enter_context(running.daemon("ceph-osd", "-i", "0"))
    said = [running.folder / "ceph-osd.out"]
    until(lambda: "1 up" in running.run("ceph", "osd", "stat"), 60, "the object store", said)


if __name__ == "__main__":
    with gateway() as started:
        for name, value in started.environment.items():
            print(f"export {name}={value}")
        print("# Ctrl-C here ends it", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
