"""Registered protocols: the ones that fit a method, and their metrics by name."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from xmodal.data.batch import BatchSpec
from xmodal.errors import UserError
from xmodal.evaluation.config import check_known
from xmodal.evaluation.context import EvaluationData
from xmodal.evaluation.metrics.similarity import BY_DISTANCE
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Protocol
from xmodal.methods.method import Method


def protocol(name: str) -> Protocol:
    """Return a protocol by its name; `UserError` where there is none."""
    try:
        check_known(name)
    except ValueError as error:
        raise UserError(f"protocol: {name} is not allowed{error}") from None
    return _build(ProtocolConfig.kinds[name])


def all_protocols() -> list[Protocol]:
    """Return all protocols, those of plugins last."""
    return [protocol(name) for name in ProtocolConfig.kinds]


def resolve(names: Sequence[str] | None, contents: BatchSpec, relevance: object) -> list[str]:
    """Return protocols by their own names, each once: `default`, or none, depends on what a
    method's batches hold, and on whether the shards have `relevance`.
    """
    found = [
        _default(contents, relevance) if name == "default" else name
        for name in names or ["default"]
    ]
    return list(dict.fromkeys(found))


def needs_training_set(names: Iterable[str]) -> bool:
    """Return whether any of some protocols is fitted on `data.probe_train`."""
    return any(protocol(name).needs_training_set for name in names)


def fitting(contents: BatchSpec) -> list[str]:
    """Return the protocols that fit a method with such batches."""
    return [one.name for one in all_protocols() if one.fits(contents)]


def check_protocols(names: Sequence[str], data: EvaluationData) -> None:
    """Raise `UserError` where the method or the first samples show that a protocol cannot be
    measured.
    """
    contents = data.method.contents
    for one in map(protocol, names):
        if not one.fits(contents):
            raise UserError(
                f"{one.name} is not for this method; it is measured by "
                + " or ".join(fitting(contents))
            )
        one.check(data)


def metric_names(names: Iterable[str], method: Method) -> list[str]:
    """Return all metrics of some protocols that can choose the best checkpoint."""
    return [
        f"{one.name}{variant}/{metric}"
        for one in map(protocol, names)
        for variant in ("", *one.variants_of(method))
        if variant != BY_DISTANCE
        for metric in one.higher_is_better
    ]


def all_metric_names(names: Iterable[str], method: Method) -> list[str]:
    """Return all metrics of some protocols that `requires` can name."""
    return [
        f"{one.name}{variant}/{metric}"
        for one in map(protocol, names)
        for variant in ("", *one.variants_of(method))
        for metric in (*one.higher_is_better, *one.lower_is_better)
    ]


def logged_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics in the line of the training log."""
    logged = {
        f"{name}/{metric}"
        for name, one in measured_by(metrics).items()
        for metric in one.logged or (one.headline,)
    }
    return {name: value for name, value in metrics.items() if name in logged}


def measured_by(metrics: Iterable[str]) -> dict[str, Protocol]:
    """Return the protocols of some metrics, by the names that they begin with: a protocol's, or
    that of a variant such as `class-by-distance`.
    """
    known = {one.name + ending: one for one in all_protocols() for ending in ("", *one.variants)}
    names = dict.fromkeys(name.split("/")[0] for name in metrics if "/" in name)
    return {
        name: known[name]
        for name in names
        if name in known and f"{name}/{known[name].headline}" in metrics
    }


def _default(contents: BatchSpec, relevance: object) -> str:
    if contents.composed:
        return "composed"
    if contents.views > 1:
        return "visual"
    return "all-captions" if relevance is None else "relevance"


@cache
def _build(config: type[ProtocolConfig]) -> Protocol:
    built: Protocol = config.model_validate({}).build()
    return built
