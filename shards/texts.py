"""Removal of unusable captions from a split; their images stay."""

from dataclasses import replace

from shards.source import Composed, Item, Split
from xmodal.data.decode import BadSample
from xmodal.data.fields import Captions, captions_of


def without_bad_captions(split: Split) -> Split:
    """Return the split without unusable captions, which are added to its `skipped`.

    Their rows of text features and lists of relevant images and of false captions are removed too.
    """
    items: list[Item | Composed] = []
    skipped, relevance = list(split.skipped), dict(split.relevance or {})
    for item in split.items:
        captions = _read(item)
        if not captions.dropped or not isinstance(item, Item):
            items.append(item)
            continue
        skipped += [(item.name, fault, f"of {captions.total}") for fault in captions.dropped]
        if len(relevance.get(item.image_id, ())) == captions.total:
            relevance[item.image_id] = [relevance[item.image_id][n] for n in captions.places]
        items.append(_only(item, captions))
    if len(skipped) == len(split.skipped):
        return split
    has_relevance = split.relevance is not None
    return replace(
        split, items=items, skipped=skipped, relevance=relevance if has_relevance else None
    )


def _read(item: Item | Composed) -> Captions:
    try:
        return captions_of(list(item.texts))
    except BadSample:  # too many to be captions: the sample is skipped when it is written
        return Captions([], [], [])


def _only(item: Item, captions: Captions) -> Item:
    features = item.text_features
    if features is not None and len(features) == captions.total:
        features = features[captions.places]
    false = item.false_captions
    if len(false) == captions.total:
        false = [false[place] for place in captions.places]
    return replace(item, captions=captions.kept, text_features=features, false_captions=false)
