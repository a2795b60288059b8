"""Faults of a sample, found by the same code that training and evaluation use."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from xmodal.data.decode import BadSample, open_image
from xmodal.data.samples import IMAGES, RawSample

_EXTENSIONS = {"JPEG": ("jpg", "jpeg"), "PNG": ("png",), "WEBP": ("webp",)}

Fault = tuple[str, str]  # cause, detail


class Verdict(NamedTuple):
    """Faults of a sample that make it unusable, its dropped parts, and hints."""

    faults: list[Fault]
    dropped: list[Fault]  # captions and labels, without which it is used
    hints: list[Fault]  # nothing is lost


def judge(sample: RawSample) -> Verdict:
    """Read all data of a sample that training or evaluation could read, with all pixels."""
    faults: dict[str, str] = {}
    for use in _uses(sample):
        try:
            use()
        except BadSample as cause:
            faults.setdefault(str(cause), str(cause.__cause__ or ""))
    dropped = [(cause, "") for cause in sample.dropped if cause not in faults]
    return Verdict(list(faults.items()), dropped, list(_hints(sample)))


def _uses(sample: RawSample) -> Iterator[Callable[[], object]]:
    yield lambda: sample.record
    roles = [role for role in IMAGES if _has_image(sample, role) or f"{role}.npy" in sample.files]
    if _is_composed(sample) or "source" in roles or "target" in roles:
        yield partial(_modification, sample)
        yield lambda: sample.source_id
        for name in ("target_ids", "members"):
            yield partial(sample.ids, name)
        yield partial(_target_id, sample, "target" in roles)
        needed = ["source", "target"] if _asks_for_target(sample, roles) else ["source"]
    else:
        yield lambda: sample.image_id
        yield partial(_captions, sample)
        yield sample.false_captions
        needed = ["image"]
    yield sample.labels
    for role in dict.fromkeys([*needed, *roles]):
        yield partial(_image, sample, role)
    for side in ("text", "target.lower"):
        yield partial(sample.features, side)


def _has_image(sample: RawSample, role: str) -> bool:
    return any(name in sample.files for name in IMAGES[role])


def _is_composed(sample: RawSample) -> bool:
    try:
        return sample.composed
    except BadSample:
        return False


def _asks_for_target(sample: RawSample, roles: list[str]) -> bool:
    """Return True for a training query: CIRR's test1 has members in place of a target."""
    try:
        return "target" in roles or sample.target_id is not None or not sample.ids("members")
    except BadSample:
        return True


def _target_id(sample: RawSample, has_target: bool) -> None:
    if sample.target_id is None and (has_target or not sample.ids("members")):
        raise BadSample("no target_id in its json")


def _modification(sample: RawSample) -> None:
    if not sample.composed:
        raise BadSample("no modification in its json")
    sample.captions()


def _captions(sample: RawSample) -> None:
    """Read captions as images need them: of a gallery and with a class none, with features those
    that there are.
    """
    said = sample.said()
    needs_none = sample.record.get("gallery") is True or {"text.npy", "cls"} & sample.files.keys()
    if said.total or not needs_none:
        sample.captions()


def _image(sample: RawSample, role: str) -> None:
    if sample.features(role) is None or _has_image(sample, role):
        open_image(sample.image(role)).pixels()


def _hints(sample: RawSample) -> Iterator[Fault]:
    """Yield the images whose file is called otherwise than its content is."""
    for role in IMAGES:
        try:
            name = next((name for name in IMAGES[role] if name in sample.files), None)
            kind = open_image(sample.image(role)).kind if name else ""
        except BadSample:
            continue
        if name and name.rpartition(".")[2] not in _EXTENSIONS.get(kind, ()):
            yield "image with another extension than its content", f"{name}, but it is {kind}"
