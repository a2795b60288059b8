"""Braces in a URL, which stand for several: `train-{000..099}.tar`, `{a,b}/train`."""

import math
import re

from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

from xmodal.data.storage import is_remote
from xmodal.errors import UserError

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.(-?[0-9]{1,18}))?")
_MOST = 1_000_000  # shards that braces may stand for


def expand_braces(url: str) -> list[str]:
    """Return the URLs that braces stand for; raises `UserError` for none or too many."""
    if not url.strip():
        raise UserError("the URL of shards is empty: name their folder, or s3://BUCKET/FOLDER")
    if is_remote(url) and not url.partition("://")[2].strip("/"):
        raise UserError(f"{url} names no bucket: write {url.rstrip('/')}//BUCKET/FOLDER")
    if math.prod(map(_num_alternatives, _GROUP.findall(url))) > _MOST:
        raise UserError(f"{url}: its braces expand to more than {_MOST:,} names")
    try:
        return list(braceexpand(url))
    except UnbalancedBracesError:
        raise UserError(f"{url}: a brace is not closed") from None


def _num_alternatives(group: str) -> int:
    span = _RANGE.fullmatch(group)
    if span is None:
        return group.count(",") + 1
    first, last, step = (int(number or 1) for number in span.groups())
    return abs(last - first) // max(abs(step), 1) + 1
