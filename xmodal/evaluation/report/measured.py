"""Description of an evaluation: weights, data and protocols."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xmodal.data.class_files import read_class_files
from xmodal.data.manifest import Manifest
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.protocols.registry import needs_training_set

# Keys that descriptions of before have not.
_LATER = ("averaged", "class_names", "probe_train", "width", "languages")
LONGEST = 40  # characters of a URL in the name of a folder


@dataclass(frozen=True)
class ShardSet:
    """Shards of an evaluation: their URL, and the fingerprint of their samples."""

    url: str
    fingerprint: str
    samples: int
    relevance: str | None = None  # digest of relevance.json, which may change by itself

    @classmethod
    def of(cls, manifest: Manifest) -> "ShardSet":
        """Return the description of a manifest."""
        relevance = None
        if manifest.relevance is not None:
            relevance = _digest(manifest.relevance)
        return cls(manifest.url, manifest.fingerprint, manifest.num_samples, relevance)


@dataclass(frozen=True)
class Measured:
    """Everything that metrics depend on, except the code.

    Metrics with different descriptions are written into different folders.

    Attributes:
        checkpoint: its name, such as `step-24`.
        weights: digest of its files; None during training, when they are not written yet.
        data: the queries, or the pairs.
        gallery: shards that composed queries are searched in.
        protocols: by their own names.
        templates: captions of zero-shot classification, the recipe's or the shards' own.
        all_pairs: most pairs that a learned score is computed for.
        shortlist: number of items that it orders where there are more pairs.
        averaged: whether the weights are the averages that the checkpoint has beside the trained.
        class_names: digest of the names of classes that lie beside the shards.
        probe_train: shards that probes are fitted on.
        width: numbers that embeddings are cut to.
        languages: keys of texts that by-language measures apart; None: all languages of the set.
    """

    checkpoint: str
    weights: str | None
    data: ShardSet
    gallery: ShardSet | None
    protocols: list[str]
    templates: list[str]
    all_pairs: int
    shortlist: int
    averaged: bool = False
    class_names: str | None = None
    probe_train: ShardSet | None = None
    width: int | None = None
    languages: list[str] | None = None

    def __str__(self) -> str:
        weights = " (averaged weights)" if self.averaged else ""
        searched = f", searched in {self.gallery.url}" if self.gallery else ""
        fitted = f", fitted on {self.probe_train.url}" if self.probe_train else ""
        by = ", ".join(self.protocols)
        width = f" at width {self.width}" if self.width else ""
        return f"{self.checkpoint}{weights}{width} on {self.data.url}{searched}{fitted} by {by}"

    @property
    def name(self) -> str:
        """Name of a folder for these metrics alone: readable, the same each time, ASCII."""
        words = re.sub(r"[^A-Za-z0-9_.]+", "-", "/".join(place(self.data.url).split("/")[-2:]))
        digest = _digest(self.identity())
        return f"{words.strip('-.')[-LONGEST:].strip('-.') or 'data'}-{self.checkpoint}-{digest}"

    def identity(self) -> dict[str, Any]:
        """Return the comparable part of the description, ready for JSON."""
        return identity(asdict(self))

    def of_same_data(self, other: Any) -> bool:
        """Return whether another description, as JSON, is the same but for the checkpoint."""
        try:
            theirs = identity(other)
        except (KeyError, TypeError):
            return False
        return _without_weights(theirs) == _without_weights(self.identity())


def describe(
    checkpoint: str,
    weights: str | None,
    data: Manifest,
    gallery: Manifest | None,
    probe_train: Manifest | None,
    protocols: Sequence[str],
    config: EvaluationConfig,
    *,
    averaged: bool,
    width: int | None = None,
) -> Measured:
    """Return the description of an evaluation by `protocols`, each under its own name."""
    files = read_class_files(data) if "zero-shot" in protocols else None
    return Measured(
        checkpoint,
        weights,
        ShardSet.of(data),
        ShardSet.of(gallery) if gallery else None,
        list(protocols),
        list((files and files.templates) or config.templates),
        config.all_pairs,
        config.shortlist,
        averaged,
        _digest(files.names) if files and files.names else None,
        ShardSet.of(probe_train) if probe_train and needs_training_set(protocols) else None,
        width,
        config.languages if "by-language" in protocols else None,
    )


def identity(measured: dict[str, Any]) -> dict[str, Any]:
    """Return a description, as JSON, with normalised URLs of its shards.

    Raises `KeyError` or `TypeError` where it is none.
    """
    sets = {
        name: shards and {**shards, "url": place(shards["url"])}
        for name in ("data", "gallery", "probe_train")
        for shards in [measured.get(name) if name == "probe_train" else measured[name]]
    }
    known = {**measured, **sets}
    later = [name for name in _LATER if not known.get(name)]  # as all descriptions of before are
    return {name: value for name, value in known.items() if name not in later}


def place(url: str) -> str:
    """Normalise a URL: folders on disk absolute, without a slash at the end."""
    return url.rstrip("/") if "://" in url else str(Path(url).absolute())


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_weights(described: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key not in ("checkpoint", "weights")}
