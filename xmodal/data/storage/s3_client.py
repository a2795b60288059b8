"""S3 client without retries, one per process, and its streamed responses."""

import os
import weakref
from collections.abc import Mapping
from typing import Any

from s3fs import S3FileSystem

from xmodal.components.config import Secret
from xmodal.data.storage.s3_errors import status_of
from xmodal.data.storage.s3_files import Piece
from xmodal.errors import UserError

_MAX_CONNECTIONS = 64
_CHUNK = 2**20  # bytes
_CONNECT_TIMEOUT = 5.0  # seconds


class S3Client(S3FileSystem):
    """S3 client without retries."""

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
    """Return a client that connects on first use.

    `secrets` are the places of `key`, `secret` and `token`; arguments that are None come from AWS_*
    variables and ~/.aws.
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


class Download:
    """Download of a range of an object, which may be resumed."""

    def __init__(
        self, filesystem: S3Client, url: str, start: int, stop: int | None, etag: str | None
    ) -> None:
        self.filesystem, self.url, self.position, self.stop, self.etag = (
            filesystem, url, start, stop, etag
        )  # fmt: skip
        self.num_bytes = 0
        self._chunks: list[bytes] = []

    async def go_on(self) -> Piece:
        """Fetch what is missing; return the range."""
        if self.stop is None or self.position < self.stop:
            try:
                await self._stream()
            except OSError as error:
                if status_of(error) != 416:  # the range lies behind the end
                    raise
        return Piece(b"".join(self._chunks), self.etag, self.num_bytes)

    async def _stream(self) -> None:
        bucket, key = split_key(self.url)
        begun = {"IfMatch": self.etag} if self.etag else {}
        if self.position or self.stop is not None:
            last = "" if self.stop is None else self.stop - 1
            begun["Range"] = f"bytes={self.position}-{last}"
        answer = await self.filesystem._call_s3("get_object", Bucket=bucket, Key=key, **begun)
        body = answer["Body"]
        try:
            if self.position and "ContentRange" not in answer:
                raise UserError(f"{self.url}: the server sends no parts of files (HTTP Range)")
            self.etag, self.stop = answer["ETag"], self.position + answer["ContentLength"]
            self.num_bytes = int(answer.get("ContentRange", f"/{self.stop}").rpartition("/")[2])
            while chunk := await body.read(_CHUNK):
                self._chunks.append(chunk)
                self.position += len(chunk)
        finally:
            body.close()


def split_key(url: str) -> tuple[str, str]:
    """Split a URL into its bucket and its key."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise UserError(f"{url} names no bucket: write s3://BUCKET/FOLDER")
    return bucket, key
