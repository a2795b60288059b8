"""Deterministic division of images into train and held-out shares.

A key has a place in [0, 1), from its digest. Without labels, images whose place is below the share
are held out: rows that are added later do not move others. With labels, the share is held out of
each label: the first of its keys by their places. Then an added image moves at most one other over
each border. No split is empty if there are enough keys.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import accumulate
from math import floor


def divide(
    keys: Sequence[str], labels: Sequence[str], shares: Mapping[str, float]
) -> dict[str, list[int]]:
    """Return the numbers of the images on each side, train first; a key is on one side only.

    `labels` are those of the images, possibly empty; a key has the label of its first image.
    """
    strata: dict[str, dict[str, None]] = defaultdict(dict)
    label_of: dict[str, str] = {}
    for key, label in zip(keys, labels, strict=True):
        strata[label_of.setdefault(key, label)][key] = None
    side_of: dict[str, str] = {}
    for label, members in strata.items():
        side_of |= _by_rank(members, label, shares) if label else _by_place(members, shares)
    _fill_empty(side_of, shares)
    divided: dict[str, list[int]] = {name: [] for name in ("train", *shares)}
    for number, key in enumerate(keys):
        divided[side_of[key]].append(number)
    return divided


def _fill_empty(side_of: dict[str, str], names: Iterable[str]) -> None:
    """Put one key of train, that of the lowest place, on each side that few keys left empty."""
    for name in sorted(set(names) - set(side_of.values())):
        train = [key for key, side in side_of.items() if side == "train"]
        if len(train) > 1:
            side_of[min(train, key=lambda key: (_place(key), key))] = name


def _by_place(keys: Iterable[str], shares: Mapping[str, float]) -> dict[str, str]:
    side_of = {}
    for key in keys:
        place = _place(key)
        side_of[key] = "train"
        for name, share in shares.items():
            place -= share
            if place < 0:
                side_of[key] = name
                break
    return side_of


def _by_rank(keys: Iterable[str], label: str, shares: Mapping[str, float]) -> dict[str, str]:
    ordered = sorted(keys, key=lambda key: (_place(key), key))
    side_of = dict.fromkeys(ordered, "train")
    # What is left of a whole number is taken of some labels, drawn as well: none for lack of ten.
    rest = _place(f"label {label}")
    ends = [floor(share * len(ordered) + rest) for share in accumulate(shares.values())]
    for name, begin, end in zip(shares, [0, *ends], ends, strict=False):
        side_of |= dict.fromkeys(ordered[begin:end], name)
    return side_of


def _place(key: str) -> float:
    digest = sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64
