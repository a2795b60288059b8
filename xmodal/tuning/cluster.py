"""Ray: a local one, or the cluster of RAY_ADDRESS."""

import logging
import os
import secrets
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from xmodal.errors import UserError
from xmodal.tuning.config import PopulationConfig, SpaceConfig

SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a recipe's paths are relative to where the command was given
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the sweep says itself how it goes
    "RAY_worker_maximum_startup_concurrency": "16",  # trials are several processes each
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # run folders have it all
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that has failed reports no metric
}
# Whoever reaches Ray's ports may have it run anything, unless it asks for a token.
SETTINGS["RAY_AUTH_MODE"] = "token"
if "RAY_ADDRESS" not in os.environ:
    os.environ["RAY_AUTH_MODE"] = "token"
    # Has Ray's processes listen on the loopback address, as it does on other systems by itself.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
for _name, _value in SETTINGS.items():  # before anything imports Ray
    os.environ.setdefault(_name, _value)
CODE = Path(__file__).resolve().parents[2]  # that this package lies in
STORE = 100 * 2**20  # bytes of Ray's object store: what goes through it is small


@contextmanager
def running_ray() -> Iterator[None]:
    """Connect to Ray within the context: to RAY_ADDRESS, or else to one on this machine.

    Raises `UserError` where RAY_ADDRESS cannot be reached, or not without a token.
    """
    import ray
    from ray.exceptions import AuthenticationError

    address = os.environ.get("RAY_ADDRESS")
    # Short, because sockets lie in it, whose paths may have 107 characters. Ray lets everybody
    # write into what it makes: that lies in a folder of this user alone.
    folder = None if address else tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    if not address:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    own = {} if address else {"object_store_memory": STORE, "include_dashboard": False}
    heeded = signal.getsignal(signal.SIGTERM)
    try:
        with chdir(CODE):  # Ray's processes import from where it is started
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                _temp_dir=folder and f"{folder}/r",
                **own,
            )
        signal.signal(signal.SIGTERM, heeded)  # Ray has set one that aborts
        for name in ("ray", "ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module="ray.*")
        _wait_for_nodes(int(os.environ.get("RAY_NODES", "1")))
        yield
    except AuthenticationError:
        raise UserError(
            f"the Ray at RAY_ADDRESS={address} needs its token: set RAY_AUTH_TOKEN_PATH to a file "
            "that holds it, or RAY_AUTH_TOKEN to the token itself"
        ) from None
    except ConnectionError as error:
        if not address:
            raise
        raise UserError(
            f"no Ray answers at RAY_ADDRESS={address} ({str(error).splitlines()[0]}): start it "
            "(`ray start`), or unset RAY_ADDRESS to start one on this machine"
        ) from None
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for_nodes(wanted: int, seconds: int = 180) -> None:
    """Wait until so many nodes have joined, as slurm/tune.sbatch has them do."""
    import ray

    for _ in range(seconds):
        joined = sum(node["Alive"] for node in ray.nodes())
        if joined >= wanted:
            return
        time.sleep(1)
    raise UserError(
        f"{joined} of {wanted} nodes have joined Ray within {seconds} s; see their logs"
    )


def gpus_of(space: SpaceConfig) -> float:
    """Return the GPUs of a worker; where the space does not set them, 1 if Ray has any."""
    import ray

    asked = space.resources.gpus
    return float(ray.cluster_resources().get("GPU", 0) > 0) if asked is None else asked


def room_for(space: SpaceConfig, gpus: float) -> int:
    """Return how many trials Ray's nodes have room for at a time.

    Raises `UserError` where that is none, or where a population does not fit all at once.
    """
    import ray

    workers = 0
    for node in ray.nodes():
        has = node["Resources"] if node["Alive"] else {}
        rooms = [has.get("CPU", 0) / space.resources.cpus]
        rooms += [has.get("GPU", 0) / gpus] if gpus else []
        workers += int(min(rooms) + 1e-6)
    trials = workers // space.workers
    asked = f"{space.workers} workers of {space.resources.cpus:g} CPUs and {gpus:g} GPUs"
    if not trials:
        raise UserError(
            f"a trial takes {asked}, and Ray's nodes have room for {workers} such workers: ask for "
            "fewer `workers` or smaller `resources`"
        )
    if isinstance(space.scheduler, PopulationConfig) and trials < space.trials:
        raise UserError(
            f"a population trains all at once, and of {space.trials} trials, each of {asked}, "
            f"Ray's nodes have room for {trials}: ask for fewer `trials` or smaller `resources`"
        )
    return trials
