"""Features of locked encoders, computed once and written as shards that training reads instead.

A feature shard is a tar like any other, with the same samples in the same order as the shard that
it stands for: `KEY.image.npy` (features,), `KEY.text.npy` (captions, features) and `KEY.json`. Of a
method that reads features of parts they are `KEY.image.npy` (positions, features) and
`KEY.text.npy` (captions, context, features), with rows of zeros after a caption's end. A side whose
encoder is trained keeps its image or captions. A sample that cannot be read is copied as it is:
training then meets the same fault in the same place.
"""

import hashlib
import io
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import webdataset
from torch import Tensor

from xmodal.data.batch import Fault
from xmodal.data.evaluation import EvaluationBatch, EvaluationSet, evaluation_batches
from xmodal.data.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.shard_index import index_path, write_index
from xmodal.distributed.collectives import barrier, rank, world_size
from xmodal.errors import UserError
from xmodal.methods.method import Method, in_precision
from xmodal.models.encoder import Encoder, Local, masked_mean
from xmodal.recipe import Recipe
from xmodal.training.parts import locked, select_trained

BATCH = 16  # samples encoded at a time: few enough to stay in a CPU's cache


@dataclass(frozen=True)
class LockedSides:
    """Which towers' encoders no stage trains."""

    image: bool
    text: bool


def locked_sides(method: Method, recipe: Recipe) -> LockedSides:
    """Find the encoders that stay as they are in every stage of a recipe.

    Raises `UserError` when there is none.
    """
    image = text = True
    for stage in recipe.stages:
        select_trained(method, stage.train)
        image = image and locked(_encoder(method, "image"))
        text = text and locked(_encoder(method, "text"))
    if not (image or text):
        raise UserError(
            "data.feature_cache: every encoder is trained in some stage, so nothing can be cached; "
            "set it to null"
        )
    return LockedSides(image, text)


def cached_features(
    method: Method,
    dataset: EvaluationSet,
    manifest: Manifest,
    recipe: Recipe,
    *,
    device: torch.device,
    say: Callable[[str], None],
) -> Manifest:
    """Return the shard set of features of `manifest`, computing what is not there yet.

    Each rank writes whole shards, beside their place and renamed; those of an interrupted run are
    kept. The folder's name is a digest of all that the features depend on.
    """
    sides = locked_sides(method, recipe)
    digest = _digest(method, dataset, manifest, recipe, sides)
    folder = Path(recipe.data.feature_cache or "") / digest
    complete = (folder / MANIFEST_NAME).is_file()
    if not complete:
        folder.mkdir(parents=True, exist_ok=True)
        say(f"computing features of {manifest.url} once, into {folder}")
        method.to(device).eval()
        starts = [
            sum(s.num_samples for s in manifest.shards[:i]) for i in range(len(manifest.shards))
        ]
        for number in range(rank(), len(manifest.shards), world_size()):
            numbers = range(starts[number], starts[number] + manifest.shards[number].num_samples)
            if not Path(index_path(folder / _name(number))).is_file():
                faults = _write_shard(
                    folder / _name(number), method, dataset, numbers, sides, device
                )
                _report(faults, len(numbers), recipe.data.max_bad_share, say)
                say(f"features of {numbers.stop:,} of {manifest.num_samples:,} samples")
    barrier()
    if not complete and rank() == 0:
        sizes = {_name(i): shard.num_samples for i, shard in enumerate(manifest.shards)}
        write_manifest(folder, sizes)
    barrier()
    return read_manifest(folder)


def _write_shard(
    path: Path,
    method: Method,
    dataset: EvaluationSet,
    numbers: range,
    sides: LockedSides,
    device: torch.device,
) -> list[Fault]:
    """Write the features of a shard's samples and return those that could not be read."""
    # A name of its own, because another job may be filling the same cache.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    chunks = [numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)]
    faults: list[Fault] = []
    samples = dataset.reader
    batches = evaluation_batches(dataset, chunks, workers=0)
    with webdataset.TarWriter(str(partial), encoder=False) as tar:
        for chunk, batch in zip(chunks, batches, strict=True):
            faults.extend(batch.faults)
            encoded = _encode(method, dataset, batch, sides, device) if len(batch.numbers) else {}
            for number in chunk:
                # The number sets apart samples that follow each other with one key.
                key = f"{number:09d}/{samples.locate(number)[1].key}"
                tar.write({"__key__": key, **(encoded.get(number) or _copy(samples, number))})
    partial.rename(path)
    write_index(path)
    return faults


def _encode(
    method: Method,
    dataset: EvaluationSet,
    batch: EvaluationBatch,
    sides: LockedSides,
    device: torch.device,
) -> dict[int, dict[str, bytes]]:
    """Return the members of a batch's readable samples, by the samples' numbers."""
    images = texts = None
    with torch.no_grad(), in_precision(method):
        if sides.image:
            images = _features(method, "image", (batch.images.to(device).images,))
        if sides.text:
            captions = batch.texts.to(device)
            texts = _features(method, "text", (captions.tokens, captions.token_mask))
            if method.local:  # as many rows in every batch
                texts = F.pad(texts, (0, 0, 0, dataset.tokenizer.context - texts.shape[1]))
    encoded = {}
    for row, number in enumerate(batch.numbers.tolist()):
        sample = dataset.reader[number]
        record = sample.record | {"captions": sample.captions(), "image_id": sample.image_id}
        members = {"json": json.dumps(record).encode()}
        if images is None:
            members["jpg"] = sample.image()
        else:
            members["image.npy"] = _npy(images[row])
        if texts is not None:
            members["text.npy"] = _npy(texts[batch.owners == row])
        encoded[number] = members
    return encoded


def _features(method: Method, side: str, inputs: tuple[Tensor | None, ...]) -> Tensor:
    """Return a side's features of a batch, those of parts where the method reads them.

    Raises `UserError` where the features of the whole could not be had from those of the parts.
    """
    encoder = _encoder(method, side)
    if not method.local:
        whole: Tensor = encoder(*inputs)
        return whole.float().cpu()
    local: Local = encoder.local(*inputs)
    rows, pooled = local.rows.float(), local.pooled.float()
    mean = masked_mean(rows, local.mask)
    if mean.shape != pooled.shape or (mean - pooled).norm() > 0.05 * pooled.norm():
        raise UserError(
            f"data.feature_cache: the encoder of method.{side} does not pool its features by their "
            "mean, so those of its parts cannot stand for it; set it to null"
        )
    return rows.cpu()


def _encoder(method: Method, side: str) -> Encoder:
    encoder = method.get_submodule(f"{side}.backbone")
    assert isinstance(encoder, Encoder)
    return encoder


def _copy(samples: SampleReader, number: int) -> dict[str, bytes]:
    """Return the members of an unreadable sample."""
    return {extension: data or b"" for extension, data in samples[number].files.items()}


def _npy(values: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.numpy(), allow_pickle=False)
    return buffer.getvalue()


def _report(faults: list[Fault], total: int, max_share: float, say: Callable[[str], None]) -> None:
    for fault in faults[:5]:
        say(f"bad sample: {fault}")
    if len(faults) > max_share * max(total, 1000):
        raise UserError(
            f"{len(faults)} of {total} samples cannot be read, the first {faults[0]}; run "
            "`python -m shards check` on the shards or raise data.max_bad_share"
        )


def _name(number: int) -> str:
    return f"features-{number:06d}.tar"


def _digest(
    method: Method, dataset: EvaluationSet, manifest: Manifest, recipe: Recipe, sides: LockedSides
) -> str:
    """Return a name that is another one as soon as the features would be."""
    config = recipe.method
    settings = {
        "shards": [manifest.storage.identity(shard.url) for shard in manifest.shards],
        "image": config.image.model_dump(mode="json") if sides.image else None,
        "text": config.text.model_dump(mode="json") if sides.text else None,
        "tokenizer": dataset.tokenizer.tokenizer.to_str() if sides.text else None,
        "size": config.image.size,
        "bf16": method.bf16,
        "local": method.local,
    }
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
    # The weights themselves: a file of one name may hold others tomorrow.
    for is_locked, side in ((sides.image, "image"), (sides.text, "text")):
        for tensor in _encoder(method, side).state_dict().values() if is_locked else ():
            digest.update(tensor.cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
