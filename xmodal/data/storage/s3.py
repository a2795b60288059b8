"""Storage in S3 buckets, through s3fs; interrupted reads resume at the byte they had reached.

s3fs and botocore make each request once. Retries happen here, where the number of received bytes
is known: with growing delays while nothing arrives, until the configured patience is exhausted.

obstore is faster (1 MB ranges, 16 threads, a gateway on the same machine: 110 to 277 MB/s against
46 to 106, with half the CPU time or less) but hangs in forked processes, even with a new client,
and loader workers are forked. It also cannot resume a range at the byte where it broke.
"""

import asyncio
import io
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO, ClassVar, Literal, TypeVar, cast

from pydantic import Field, PositiveFloat, field_validator

from xmodal.components.config import Secret
from xmodal.data.storage.config import StorageConfig
from xmodal.data.storage.s3_client import Download, S3Client, connect, split_key
from xmodal.data.storage.s3_errors import Refused, UploadGone, explain, reason, status_of
from xmodal.data.storage.s3_files import ObjectReader, ObjectWriter, Piece
from xmodal.errors import UserError, printable
from xmodal.extras import require

_FIRST_DELAY, _LAST_DELAY = 0.1, 15.0  # seconds
# A server that has never answered is more likely misspelt than down.
_FIRST_PATIENCE = 2.0

T = TypeVar("T")


class S3Config(StorageConfig):
    """Storage of `s3://` URLs; fields that are not set come from AWS_* variables and ~/.aws."""

    kind: Literal["s3"] = "s3"
    builds: ClassVar[str] = "S3Storage"
    endpoint: str | None = Field(
        None, description="URL of the S3 server; null: AWS_ENDPOINT_URL, else Amazon's"
    )
    profile: str | None = Field(None, description="profile of ~/.aws; null: AWS_PROFILE")
    region: str | None = Field(None, description="null: AWS_DEFAULT_REGION, else the profile's")
    key: Secret | None = Field(
        None, description="place of the access key; null: AWS_ACCESS_KEY_ID, else the profile's"
    )
    secret: Secret | None = Field(
        None, description="place of the secret key; null: AWS_SECRET_ACCESS_KEY, else the profile's"
    )
    token: Secret | None = Field(
        None, description="place of the session token of keys that expire; null: AWS_SESSION_TOKEN"
    )
    anonymous: bool = Field(False, description="send no credentials, as public buckets allow")
    timeout: PositiveFloat = Field(
        20, description="seconds without a byte after which a read is retried from where it stopped"
    )
    patience: PositiveFloat = Field(
        600, description="seconds without any progress after which a read is given up"
    )

    @field_validator("endpoint")
    @classmethod
    def _names_no_user(cls, value: str | None) -> str | None:
        if value and "@" in value:
            raise UserError("data.s3.endpoint holds a password: data.s3.secret names its place")
        return value

    @classmethod
    def built_class(cls) -> type:
        """Import the class; raises `UserError` if s3fs is not installed."""
        require("s3")
        return super().built_class()


class S3Storage:
    """See `Storage`. `say` is called with one line for every retried request.

    The arguments are as in `S3Config`.
    """

    far = True

    def __init__(
        self,
        endpoint: str | None = None,
        profile: str | None = None,
        region: str | None = None,
        key: Secret | None = None,
        secret: Secret | None = None,
        token: Secret | None = None,
        *,
        anonymous: bool = False,
        timeout: float = 20,
        patience: float = 600,
    ) -> None:
        self.endpoint, self.patience = endpoint, patience
        secrets = {"key": key, "secret": secret, "token": token}
        self._connect = partial(
            connect, endpoint, profile, region, secrets, anonymous=anonymous, timeout=timeout
        )
        self.say: Callable[[str], None] = _warn
        self._reached = False
        self._by_process: dict[int, S3Client] = {}

    def list(self, folder: str) -> dict[str, int]:
        pages = self._pages(folder)
        return {name: size for page in pages for name, size in page[0].items() if name}

    def folders(self, folder: str) -> Sequence[str]:
        return sorted(name for page in self._pages(folder) for name in page[1])

    def identity(self, url: str) -> str:
        found = self._request(url, "head_object")
        return f"{url} {found['ContentLength']} {found['ETag']}"

    def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
        return _result(self._fetch(url, start, stop, None)).data

    def will_read(self, url: str, start: int, stop: int) -> None:
        pass

    def open(self, url: str) -> BinaryIO:
        def fetch(start: int, stop: int, etag: str | None) -> "Future[Piece]":
            return self._fetch(url, start, stop, etag)

        return cast(BinaryIO, io.BufferedReader(ObjectReader(fetch), 2**16))

    @contextmanager
    def create(self, url: str) -> Iterator[BinaryIO]:
        self._abort_abandoned(url)
        writer = ObjectWriter(_Upload(self, url))
        try:
            yield cast(BinaryIO, writer)
            writer.commit()
        except BaseException:
            writer.discard()
            raise

    def write(self, url: str, data: bytes) -> None:
        self._request(url, "put_object", Body=data)

    def remove(self, url: str) -> None:
        self.identity(url)  # S3 itself is silent about what is not there
        self._request(url, "delete_object")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_by_process": {}}

    @property
    def _filesystem(self) -> "S3Client":
        process = os.getpid()
        found = self._by_process.get(process)
        # Threads that come here together get the same one.
        return found or self._by_process.setdefault(process, self._connect())

    def _pages(self, folder: str) -> Iterator[tuple[dict[str, int], Sequence[str]]]:
        key = split_key(folder.rstrip("/"))[1]
        prefix = f"{key}/" if key else ""
        token: dict[str, str] = {}
        while True:
            page = self._request(folder, "list_objects_v2", Prefix=prefix, Delimiter="/", **token)
            files = {each["Key"][len(prefix) :]: each["Size"] for each in page.get("Contents", [])}
            folders = [each["Prefix"][len(prefix) : -1] for each in page.get("CommonPrefixes", [])]
            yield files, folders
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _fetch(self, url: str, start: int, stop: int | None, etag: str | None) -> "Future[Piece]":
        download = Download(self._filesystem, url, start, stop, etag)
        return self._begin(self._persist(url, download.go_on, lambda: download.position))

    def _request(self, url: str, method: str, **parameters: Any) -> Any:
        return _result(self._send(url, method, **parameters))

    def _send(self, url: str, method: str, **parameters: Any) -> "Future[Any]":
        """Begin a request other than a download; its answer has no body that is streamed."""
        bucket, key = split_key(url)
        given = {"Bucket": bucket, "Key": key} | parameters
        filesystem = self._filesystem
        return self._begin(self._persist(url, lambda: filesystem._call_s3(method, **given)))

    def _begin(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._filesystem.loop)

    async def _persist(
        self,
        url: str,
        attempt: Callable[[], Awaitable[T]],
        position: Callable[[], int] = lambda: 0,
    ) -> T:
        """Make attempts until one succeeds; raises what `explain` makes of one that never will,
        and `UserError` where nothing has come for as long as the configuration says.
        """
        stood, since, failures = position(), time.monotonic(), 0
        while True:
            try:
                answer = await attempt()
                self._reached = True
                return answer
            except Exception as error:
                self._raise_if_final(error, url)
                if position() > stood:
                    stood, since, failures = position(), time.monotonic(), 0
                failures += 1
                self._raise_if_too_long(error, url, time.monotonic() - since)
                delay = min(_LAST_DELAY, _FIRST_DELAY * 2 ** (failures - 1)) * random.uniform(
                    0.5, 1
                )
                if self._reached:
                    self.say(
                        f"{url}: {reason(error)} at byte {stood:,}; attempt {failures + 1} "
                        f"in {delay:.1f} s"
                    )
            await asyncio.sleep(delay)

    def _raise_if_final(self, error: Exception, url: str) -> None:
        self._reached |= status_of(error) is not None
        final = explain(error, url, self._endpoint)
        if final is error:
            raise error
        if final is not None:
            raise final from None

    def _raise_if_too_long(self, error: Exception, url: str, seconds: float) -> None:
        if self._reached and seconds > self.patience:
            raise UserError(
                f"{url} gave no byte for {seconds:.0f} s ({reason(error)}): is {self._endpoint} up?"
            ) from None
        if not self._reached and seconds > _FIRST_PATIENCE:
            raise UserError(
                f"{url}: {self._endpoint} cannot be reached ({reason(error)}): check the endpoint, "
                "AWS_ENDPOINT_URL or that of the recipe, and the network"
            ) from None

    @property
    def _endpoint(self) -> str:
        client = self._filesystem._s3
        return client.meta.endpoint_url if client else self.endpoint or "S3"

    def _abort_abandoned(self, url: str) -> None:
        """Remove the parts that a killed upload of the same object left: they cost, unseen."""
        key = split_key(url)[1]
        try:
            found = self._request(url, "list_multipart_uploads", Prefix=key)
        except Refused:
            return  # who may write may not always list
        for upload in found.get("Uploads", []):
            if upload["Key"] == key:
                with suppress(UploadGone, Refused):
                    self._request(url, "abort_multipart_upload", UploadId=upload["UploadId"])


class _Upload:
    """Multipart upload of an object."""

    def __init__(self, storage: S3Storage, url: str) -> None:
        self.storage, self.url = storage, url
        self.upload: dict[str, str] = {}

    def begin(self) -> None:
        begun = self.storage._request(self.url, "create_multipart_upload")
        self.upload = {"UploadId": begun["UploadId"]}

    def send(self, number: int, data: bytes) -> "Future[Any]":
        return self.storage._send(
            self.url, "upload_part", PartNumber=number, Body=data, **self.upload
        )

    def complete(self, answers: Sequence[Any], num_bytes: int) -> None:
        parts = [
            {"PartNumber": number, "ETag": answer["ETag"]}
            for number, answer in enumerate(answers, 1)
        ]
        whole = {"MultipartUpload": {"Parts": parts}}
        try:
            self.storage._request(self.url, "complete_multipart_upload", **self.upload, **whole)
        except UploadGone:
            # An attempt whose answer was lost may have completed it.
            name = self.url.rpartition("/")[2]
            if self.storage.list(self.url.removesuffix(name)).get(name) != num_bytes:
                raise
        self.storage._abort_abandoned(self.url)  # one may have begun whose answer was lost

    def put(self, data: bytes) -> None:
        self.storage.write(self.url, data)

    def abort(self) -> None:
        """Abort the upload, without retries: the failure before has been retried already."""
        bucket, key = split_key(self.url)
        filesystem = self.storage._filesystem
        with suppress(Exception):
            filesystem.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, **self.upload)


def _result(future: "Future[T]") -> T:
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _warn(line: str) -> None:
    print(f"warning: {printable(line)}", file=sys.stderr, flush=True)
