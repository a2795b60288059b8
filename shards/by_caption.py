"""Splits by caption for data sets without official splits: no caption is in two splits."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from shards.source import Item, SkippedSample, Split, Splits


def splits_by_caption(
    items: Iterable[Item],
    key: Callable[[str], str] = str.casefold,
    skipped: Sequence[SkippedSample] = (),
) -> Splits:
    """Put items into train (about 80 %), val and test (10 % each) by a hash of their caption.

    Each item has one caption. Captions of the same `key` are in the same split. Images of the
    same caption are each other's relevant images. `skipped` is listed with train.
    """
    by_split: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for item in items:
        by_split[split_of(key(item.captions[0]))].append(item)
    return {
        name: partial(_split, kept, skipped if name == "train" else ())
        for name, kept in by_split.items()
    }


def split_of(words: str) -> str:
    """Return the split of these words: train, val or test."""
    digest = hashlib.sha256(words.encode()).digest()
    tenth = int.from_bytes(digest[:8]) % 10
    return "train" if tenth < 8 else "val" if tenth == 8 else "test"


def _split(items: Sequence[Item], skipped: Sequence[SkippedSample]) -> Split:
    ordered = sorted(items, key=lambda item: item.image_id)
    said_of = defaultdict(list)
    for item in ordered:
        said_of[item.captions[0].casefold()].append(item.image_id)
    relevance = {item.image_id: [said_of[item.captions[0].casefold()]] for item in ordered}
    return Split(ordered, relevance, skipped)
