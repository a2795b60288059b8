"""Classification of failed S3 requests: retry, not found, or an error for the user."""

import asyncio
import re
import ssl

from aiohttp import ClientError as ConnectionFailure
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from xmodal.errors import UserError

_BUSY_STATUSES = {429, 500, 502, 503, 504}
_BUSY_CODES = {"RequestTimeout", "RequestTimeTooSlow", "SlowDown", "Throttling"}
_ELSEWHERE_CODES = {"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"}
_CONNECTION = (
    BotoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ConnectionFailure,
    ResponseParserError,
    asyncio.TimeoutError,
    ConnectionError,
)
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile of ~/.aws; for a "
    "public bucket FSSPEC_S3_ANON=true"
)


class Refused(UserError):
    """The server denies access to these credentials."""


class UploadGone(UserError):
    """The upload no longer exists: it was completed, or another upload ended it."""


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the server's response, or None without a response."""
    answer = answer_of(error)
    return None if answer is None else _status(answer)


def answer_of(error: BaseException) -> ClientError | None:
    """Return the server's response behind an error, or None without a response."""
    for each in (error, error.__cause__):
        if isinstance(each, ClientError):
            return each
    return None


def explain(error: Exception, url: str, endpoint: str) -> Exception | None:
    """Return the error to raise for a failed request; None if a retry may succeed."""
    answer = answer_of(error)
    if answer is not None:
        return _explain_answer(answer, url, endpoint)
    if isinstance(error, SSLError) and isinstance(_inner(error), ssl.SSLCertVerificationError):
        return UserError(
            f"{url}: the certificate of {endpoint} is not trusted ({reason(error)}): set "
            "AWS_CA_BUNDLE to the file of its authority"
        )
    if isinstance(error, _CONNECTION):
        return None
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return UserError(f"{url}: no credentials for {endpoint}: {_CREDENTIALS}")
    if isinstance(error, ProfileNotFound):
        return UserError(f"{url}: {_line(error)}: see ~/.aws/config")
    if isinstance(error, BotoCoreError | ValueError):
        return UserError(f"{url}: {_line(error)}")
    return error


def reason(error: BaseException) -> str:
    """Return the reason of a failed request in a few words."""
    answer = answer_of(error)
    if answer is not None:
        return f"HTTP {_status(answer)} {answer.response['Error'].get('Code', '')}"
    if isinstance(error, ReadTimeoutError):
        return "no byte came in time"
    if isinstance(error, ConnectTimeoutError):
        return "no connection came about in time"
    return _line(_inner(error))


def _explain_answer(answer: ClientError, url: str, endpoint: str) -> Exception | None:
    code, status = answer.response["Error"].get("Code", ""), _status(answer)
    if status in _BUSY_STATUSES or code in _BUSY_CODES:
        return None
    if code == "NoSuchBucket":
        return UserError(f"{url}: there is no such bucket at {endpoint}")
    if code == "NoSuchUpload":
        return UploadGone(
            f"{url}: its upload was ended from elsewhere: does another build write it?"
        )
    if status == 404:
        return FileNotFoundError(f"there is no {url}")
    if status == 412:
        return UserError(f"{url} was changed while it was read: rerun the command")
    if status in (301, 307) or code in _ELSEWHERE_CODES:
        return UserError(f"{url} is in another region ({_line(answer)}): set AWS_DEFAULT_REGION")
    if status in (401, 403):
        return Refused(f"{url}: {_denied(code)} at {endpoint}: {_CREDENTIALS}")
    return UserError(f"{url}: {endpoint} answers HTTP {status}: {_line(answer)}")


def _denied(code: str) -> str:
    known = {
        "InvalidAccessKeyId": "the access key is not known",
        "SignatureDoesNotMatch": "the secret key is not that of the access key",
        "ExpiredToken": "the session token has expired",
        "RequestTimeTooSkewed": "this machine's clock is too wrong",
    }
    return known.get(code, f"access is denied ({code})")


def _status(answer: ClientError) -> int:
    return int(answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _inner(error: BaseException) -> BaseException:
    """Return the error that botocore's and aiohttp's were made of."""
    inner = getattr(error, "kwargs", {}).get("error")
    inner = getattr(inner, "certificate_error", None) or getattr(inner, "os_error", None) or inner
    return inner if isinstance(inner, BaseException) else error


def _line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
