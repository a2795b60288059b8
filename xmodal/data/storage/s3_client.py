"""The client of S3: one a process, which makes each request once."""

import os
import weakref
from collections.abc import Mapping
from typing import Any

from s3fs import S3FileSystem

from xmodal.components.config import Secret

_MAX_CONNECTIONS = 64
_CONNECT_TIMEOUT = 5.0  # seconds


class S3Client(S3FileSystem):
    """One that makes each request once."""

    retries = 1


# A forked child shares the sockets of its parent, and would end them by dropping what holds them.
_connected: "weakref.WeakValueDictionary[int, S3Client]" = weakref.WeakValueDictionary()
_inherited: list[S3Client] = []
os.register_at_fork(after_in_child=lambda: _inherited.extend(_connected.values()))


def connect(
    endpoint: str | None,
    profile: str | None,
    region: str | None,
    secrets: Mapping[str, Secret | None],
    *,
    anonymous: bool,
    timeout: float,
) -> S3Client:
    """Return a client, which connects when it is first used.

    `secrets` are the places of `key`, `secret` and `token`; what is None comes from AWS_* variables
    and ~/.aws.
    """
    given: dict[str, Any] = {
        "endpoint_url": endpoint,
        "profile": profile,
        "anon": anonymous or None,
        "client_kwargs": {"region_name": region} if region else None,
        **{name: place and place.read(f"data.s3.{name}") for name, place in secrets.items()},
    }
    filesystem = S3Client(
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": min(_CONNECT_TIMEOUT, timeout),
            "read_timeout": timeout,
            "max_pool_connections": _MAX_CONNECTIONS,
            "retries": {"total_max_attempts": 1},
            # Servers other than Amazon's do not know the checksums that are newly the default.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        **{name: value for name, value in given.items() if value is not None},
    )
    _connected[id(filesystem)] = filesystem
    return filesystem
