"""Records of images and composed queries: what a search shows of them, and where their bytes lie.

All values are null where a sample lacks them.
"""

from typing import Any

from xmodal.data.decode import BadSample, open_image
from xmodal.data.fields import id_of
from xmodal.data.samples import IMAGES, RawSample
from xmodal.data.storage import split_url

Record = dict[str, Any]


def image_record(sample: RawSample, role: str = "image") -> Record:
    """Return the record of an image of a sample: its own, or the `target` of a query.

    Width and height are those that the image's header says, upright; features have none, and no
    place. Raises `BadSample` where the image is none.
    """
    key, shard = _text(sample.key), _text(split_url(sample.shard)[1])
    image_id = id_of(sample.record.get("image_id" if role == "image" else f"{role}_id"))
    return {
        "key": key,
        "caption": _caption(sample) if role == "image" else None,
        "url": _text(sample.record.get("url")),
        **_sides(sample, role),
        "labels": [_text(label) for label in sample.labels()],
        "shard": shard,
        **_place(sample, role),
        "image_id": f"{shard}/{key}" if image_id is None else _text(image_id),
        "uid": _text(sample.record.get("uid")),
    }


def query_record(sample: RawSample) -> Record:
    """Return the record of a composed query, with that of its target where it is published."""
    target = image_record(sample, "target") if sample.has_image("target") else None
    return {
        "key": _text(sample.key),
        "caption": _text(sample.modification()),
        "shard": _text(split_url(sample.shard)[1]),
        **_place(sample, "source"),
        "target": target,
    }


def _sides(sample: RawSample, role: str) -> dict[str, int | None]:
    if not any(name in sample.files for name in IMAGES[role]):
        return {"width": None, "height": None}
    image = open_image(sample.image(role))
    return {"width": image.width, "height": image.height}


def _place(sample: RawSample, role: str) -> dict[str, int | None]:
    """Return the offset of an encoded image in its tar, and its size in bytes."""
    name = next((name for name in IMAGES[role] if name in sample.places), None)
    offset, size = sample.places[name] if name else (None, None)
    return {"offset": offset, "size": size}


def _caption(sample: RawSample) -> str | None:
    try:
        return next(map(_text, sample.said().kept), None)
    except BadSample:  # of methods that read none
        return None


def _text(value: Any) -> str | None:
    """Return a text that UTF-8 can hold, which names in foreign tars need not be."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else None
