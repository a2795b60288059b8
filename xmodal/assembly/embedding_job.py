"""Embedding of a shard set by a model: what is encoded, and what the folder is described by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xmodal.activity import activity
from xmodal.assembly.checks import check_sample_spec
from xmodal.assembly.model import Model
from xmodal.assembly.model_digest import model_digest
from xmodal.assembly.model_source import ModelSource
from xmodal.data.batch import GALLERY, BatchSpec
from xmodal.data.composed import ComposedSet
from xmodal.data.config import DataConfig
from xmodal.data.evaluation import EvaluationSet
from xmodal.data.image_records import image_record, query_record
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.recent import Recent
from xmodal.data.sample_spec import SampleSpec, infer_sample_spec
from xmodal.data.storage import is_remote
from xmodal.distributed.environment import Environment
from xmodal.errors import UserError
from xmodal.evaluation.retrieval import NAMED_FAULTS
from xmodal.hub import HUB
from xmodal.search.embeddings import DataInfo, EmbeddingsInfo, ModelInfo, Side
from xmodal.search.output_folder import OutputFolder
from xmodal.search.shard_embedder import (
    EmbeddingSet,
    FaultLog,
    ShardEmbedder,
    embedding_shape,
)

INDICES = 2  # of shards, that a process keeps: they are read one after the other


@dataclass(frozen=True)
class EmbeddingRequest:
    """Options of an embedding; None stands for the value of the model's recipe.

    Attributes:
        data: URL of the shards to embed.
        to: folder of the embeddings.
        dtype: float16 or float32, of the vectors in the files.
        batch_size: samples encoded at a time.
        workers: loading processes a rank.
        max_bad_share: share of unreadable samples above which the command stops.
    """

    data: str
    to: str
    dtype: Literal["float16", "float32"] = "float16"
    batch_size: int | None = None
    workers: int | None = None
    max_bad_share: float | None = None


def load_embedder(
    source: ModelSource,
    request: EmbeddingRequest,
    environment: Environment,
    interrupted: Callable[[], bool],
    say: Callable[[str], None],
) -> ShardEmbedder:
    """Open data and folder, and load the model, in this order: mistakes come before the work.

    Rank 0 checks and begins the folder; `say` is called with the lines of every rank. Raises
    `UserError` where data, folder and model do not fit each other.
    """
    recipe = source.recipe
    settings = recipe.data if recipe else DataConfig.model_validate({"train": request.data})
    bad = settings.max_bad_share if request.max_bad_share is None else request.max_bad_share
    with activity("reading the indices of the shards"):
        shards = open_data(request.data, settings, bad)
    folder = OutputFolder(request.to, settings.access)
    if environment.is_main:
        folder.check(shards.fingerprint, request.dtype)
    with activity(f"loading {source.source}"):
        model = source.load(environment.device)
    if model.method.scores_sets:
        raise UserError(
            f"{source.source}: {model.recipe.method.kind} embeds an item as the vectors of its "
            "parts, which no index searches by its score; use xmodal.load and its score"
        )
    dataset, sides, lines = embedding_set(model, shards)
    info = describe_embeddings(source, model, dataset, sides, request.dtype)
    if environment.is_main:
        folder.begin(info)
        for line in [*shards.warnings, *lines]:
            say(f"warning: {line}")
    workers = settings.workers if request.workers is None else request.workers
    return ShardEmbedder(
        model.method,
        dataset,
        info,
        folder,
        FaultLog(say, bad, max(1, NAMED_FAULTS // environment.ranks)),
        request.batch_size or model.recipe.evaluation.batch_size,
        environment.device,
        workers,
        interrupted,
    )


def open_data(url: str, settings: DataConfig, max_bad_share: float) -> Manifest:
    """Open the shards of a URL, by the settings of a model's recipe.

    Raises `UserError` where there are none, or too much of them is cut off.
    """
    shards = read_manifest(url, settings.access, settings.cache)
    if shards.lost > max_bad_share * max(shards.num_samples, 1000):
        raise UserError(f"{shards.warnings[0]}: restore it, or raise --max-bad-share")
    return shards


def embedding_set(model: Model, shards: Manifest) -> tuple[EmbeddingSet, list[Side], list[str]]:
    """Return the set that a model embeds, its sides, and lines for the log.

    Raises `UserError` where the samples do not fit the model.
    """
    contents = model.method.contents
    reader = SampleReader(shards, Recent(INDICES))
    given = (reader, model.transform, model.tokenizer)
    spec, lines = _find_spec(reader, contents)
    if contents.composed and spec.composed:
        _check(model, shards, spec, contents)
        return ComposedSet(*given, targets=True, describe=query_record), ["images", "queries"], []
    captions = contents.views == 1 and not contents.composed and not lines
    _check(model, shards, spec, contents if captions else GALLERY)
    dataset = EvaluationSet(*given, captions=captions, describe=image_record)
    return dataset, ["images", "texts"] if captions else ["images"], lines


def _find_spec(reader: SampleReader, contents: BatchSpec) -> tuple[SampleSpec, list[str]]:
    """Return the specification of samples, and a line where they have no captions to embed."""
    if contents.views == 1:
        try:
            return infer_sample_spec(reader), []
        except UserError:
            pass
    spec = infer_sample_spec(reader, captions=0)
    named = f"{reader.manifest.url}: its first samples have no captions; images alone are embedded"
    return spec, [named] if contents.views == 1 and not contents.composed else []


def _check(model: Model, shards: Manifest, spec: SampleSpec, contents: BatchSpec) -> None:
    views = BatchSpec(
        views=model.method.contents.views,
        captions=contents.captions,
        composed=contents.composed,
    )
    check_sample_spec(model.recipe, shards.url, spec, views, local=model.method.local)


def describe_embeddings(
    found: ModelSource,
    model: Model,
    dataset: EmbeddingSet,
    sides: Sequence[Side],
    dtype: Literal["float16", "float32"],
) -> EmbeddingsInfo:
    """Return the description of a folder of embeddings before any is written."""
    shards = dataset.reader.manifest
    each, dim = embedding_shape(model.method, dataset, model.device)
    is_run = found.checkpoint is not None
    return EmbeddingsInfo(
        model=ModelInfo(
            source=found.source if found.source.startswith(HUB) else absolute(found.source),
            checkpoint=found.checkpoint,
            weights=model.weights if is_run else None,
            width=found.width,
            method=model.recipe.method.kind,
            digest=model_digest(model),
        ),
        data=DataInfo(
            url=absolute(shards.url),
            fingerprint=shards.fingerprint,
            shards=[absolute(shard.url) for shard in shards.shards],
        ),
        dim=dim,
        embeddings_per_item=each,
        dtype=dtype,
        sides=list(sides),
        parts=len(shards.shards),
    )


def absolute(url: str) -> str:
    """Return a path that means the same in every working directory; URLs stay as they are."""
    return url if is_remote(url) else str(Path(url).absolute())
