"""The Hugging Face hub, asked without its libraries' own lines about every attempt."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

HUB = "hf-hub:"  # a name that begins so is one at the hub


@contextmanager
def asking_hub() -> Iterator[None]:
    """Silence warnings about retries; where no hub can be reached, try none and use the files of
    earlier downloads alone.
    """
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level, offline = logger.level, constants.HF_HUB_OFFLINE
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = offline or not _is_known(constants.ENDPOINT)
    try:
        yield
    finally:
        logger.setLevel(level)
        constants.HF_HUB_OFFLINE = offline


def hub_failure(error: BaseException) -> str:
    """Return why the hub did not give something, in one line."""
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and no earlier download is in the cache"
    if not _is_known(constants.ENDPOINT):
        return f"{host} cannot be reached, and no earlier download is in the cache"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_known(address: str) -> bool:
    """Return whether the name of a host has an address; with a proxy, the proxy looks it up."""
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(address).hostname, None)
    except OSError:
        return False
    return True
