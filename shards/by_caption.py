"""Splits of a data set that is published without: the same words are never on both sides."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial

from shards.source import Item, Split, Splits

_TENTHS = {"train": range(8), "val": range(8, 9), "test": range(9, 10)}


def splits_by_caption(items: Iterable[Item]) -> Splits:
    """Put items into train (about 80 %), val and test (10 % each) by a hash of their caption.

    Each item has one caption. Images of the same caption are each other's relevant images.
    """
    by_tenth = defaultdict(list)
    for item in items:
        by_tenth[_tenth(item.captions[0])].append(item)
    return {
        name: partial(_split, [item for tenth in tenths for item in by_tenth[tenth]])
        for name, tenths in _TENTHS.items()
    }


def _tenth(caption: str) -> int:
    digest = hashlib.sha256(caption.casefold().encode()).digest()
    return int.from_bytes(digest[:8]) % 10


def _split(items: Sequence[Item]) -> Split:
    ordered = sorted(items, key=lambda item: item.image_id)
    said_of = defaultdict(list)
    for item in ordered:
        said_of[item.captions[0].casefold()].append(item.image_id)
    relevance = {item.image_id: [said_of[item.captions[0].casefold()]] for item in ordered}
    return Split(ordered, relevance)
