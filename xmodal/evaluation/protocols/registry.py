"""The protocols by name: of what each can be measured, and what its metrics are called."""

from collections.abc import Sequence

from xmodal.data.batch import BatchSpec
from xmodal.data.decode import BadSample
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import PROBED
from xmodal.errors import UserError
from xmodal.evaluation.metrics import average_precision, recall, visual, zero_shot
from xmodal.evaluation.metrics.gap import GAPS
from xmodal.evaluation.metrics.similarity import BY_DISTANCE
from xmodal.evaluation.protocols import composed
from xmodal.evaluation.protocols.ground_truth import Relevance, check_size
from xmodal.evaluation.protocols.query_checks import check_searchable
from xmodal.methods.method import Method
from xmodal.models.features import Features

# Those that rank captions of the whole set, so that what was found can be shown.
CAPTIONED = ("all-captions", "relevance", "flickr-1k", "coco-5k")
RECALLS = (*CAPTIONED, "coco-1k-5fold")
VISUAL = ("visual", "visual-graded")
COMPOSED = tuple(composed.CUTOFFS)
BY_LABEL = {"class", "class-normalised", "zero-shot", *VISUAL}
# Of each protocol the metrics of which more is better.
BETTER = {
    **dict.fromkeys(RECALLS, recall.BETTER),
    **dict.fromkeys(["class", "class-normalised"], average_precision.BETTER),
    "gap": (),
    "zero-shot": zero_shot.BETTER,
    "visual": visual.BETTER,
    "visual-graded": visual.GRADED_BETTER,
    **composed.BETTER,
}
# And those of which less is.
OTHERS = {
    **dict.fromkeys(RECALLS, tuple(f"{one}/median_rank" for one in recall.DIRECTIONS)),
    "gap": GAPS,
    **dict.fromkeys(COMPOSED, ("median_rank",)),
}


def metric_names(protocols: Sequence[str], method: Method) -> list[str]:
    """Return all metrics of some protocols of which more is better."""
    return [
        f"{protocol}{ending}/{name}"
        for protocol in protocols
        for ending in ("", *_with_text(protocol, method.contents))
        for name in BETTER[protocol]
    ]


def all_metric_names(protocols: Sequence[str], method: Method) -> list[str]:
    """Return the metrics of some protocols that something can be required of.

    A method with a learned score has those of its distance beside them.
    """
    by_distance = (BY_DISTANCE,) if method.learned_score else ()
    return [
        f"{protocol}{ending}/{name}"
        for protocol in protocols
        for ending in ("", *by_distance, *_with_text(protocol, method.contents))
        for name in (*BETTER[protocol], *OTHERS.get(protocol, ()))
    ]


def named(
    protocols: Sequence[str] | None, contents: BatchSpec, relevance: Relevance | None
) -> list[str]:
    """Return protocols by their own names, each once: what `default`, or none, is depends on
    what a method's batches hold, and on the shards.
    """
    default = "all-captions" if relevance is None else "relevance"
    if contents.composed or contents.views > 1:
        default = fitting(contents)[0]
    names = [default if name == "default" else name for name in protocols or ["default"]]
    return list(dict.fromkeys(names))


def fitting(contents: BatchSpec) -> Sequence[str]:
    """Return the protocols that a method is measured by which learns from such batches."""
    if contents.composed:
        return COMPOSED
    return VISUAL if contents.views > 1 else [name for name in BETTER if name not in COMPOSED]


def check_protocols(
    protocols: Sequence[str],
    method: Method,
    reader: SampleReader,
    relevance: Relevance | None,
    gallery: SampleReader | None = None,
) -> None:
    """Raise `UserError` where it is plain from the method and the first samples that a protocol
    cannot be measured. `gallery` is what composed queries are searched in.
    """
    url = reader.manifest.url
    for protocol in protocols:
        if protocol not in fitting(method.contents):
            raise UserError(
                f"{protocol} is not for this method; it is measured by "
                + " or ".join(fitting(method.contents))
            )
        check_size(protocol, len(reader), url)
        if protocol in BY_LABEL and not _any_label(reader):
            raise UserError(without_labels(url, protocol))
        if protocol in COMPOSED:
            assert gallery is not None
            check_searchable(protocol, reader, gallery)
    if "relevance" in protocols and relevance is None:
        raise UserError(f"{url} has no relevance.json, which relevance reads; use all-captions")
    if "zero-shot" in protocols and not _reads_text(method):
        raise UserError(
            "zero-shot encodes the names of classes, but method.text is kind: features: the shards "
            "hold what its encoder made of captions; leave this protocol out"
        )


def without_labels(url: str, protocol: str) -> str:
    """Return what is to be said of shards that a protocol by label is not measured on."""
    return (
        f"{url} has no labels in its samples' JSON, which {protocol} is measured by; leave this "
        "protocol out, or use shards with labels"
    )


def _with_text(protocol: str, contents: BatchSpec) -> Sequence[str]:
    both = protocol in VISUAL and contents.views > 1 and contents.captions
    return (visual.WITH_TEXT,) if both else ()


def _any_label(reader: SampleReader) -> bool:
    for number in range(min(PROBED, len(reader))):
        try:
            if reader[number].labels():
                return True
        except BadSample:
            continue
    return False


def _reads_text(method: Method) -> bool:
    texts = [part for name, part in method.named_modules() if name.split(".")[0] == "text"]
    return not any(isinstance(part, Features) for part in texts)
