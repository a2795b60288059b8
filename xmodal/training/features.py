"""Features of locked encoders, computed once and written as shards that training reads instead.

A feature shard is a tar like any other: `KEY.image.npy` (features,), `KEY.text.npy` (captions,
features) and the sample's `KEY.json`. A side whose encoder is trained keeps its image or captions.
"""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from torch import Tensor

from xmodal.data.batch import Fault
from xmodal.data.loader import EvaluationBatch, EvaluationSet, evaluation_batches
from xmodal.data.manifest import (
    Manifest,
    count_indexed,
    index_path,
    read_manifest,
    write_index,
    write_manifest,
)
from xmodal.distributed.collectives import barrier, rank, world_size
from xmodal.errors import UserError
from xmodal.methods.clip import Clip
from xmodal.recipe import Recipe
from xmodal.training.parts import locked, select_trained

BATCH = 16  # samples encoded at a time: few enough to stay in a CPU's cache


@dataclass(frozen=True)
class LockedSides:
    """Which towers' encoders no stage trains."""

    image: bool
    text: bool


def locked_sides(method: Clip, recipe: Recipe) -> LockedSides:
    """Find the encoders that stay as they are in every stage of a recipe.

    Raises `UserError` when there is none.
    """
    image = text = True
    for stage in recipe.stages:
        select_trained(method, stage.train)
        image, text = image and locked(method.image.backbone), text and locked(method.text.backbone)
    if not (image or text):
        raise UserError(
            "data.feature_cache: every encoder is trained in some stage, so nothing can be cached; "
            "set it to null"
        )
    return LockedSides(image, text)


def cached_features(
    method: Clip,
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
    folder = Path(recipe.data.feature_cache or "") / _digest(manifest, recipe, sides)
    if not (folder / "shardindex.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        say(f"computing features of {manifest.url} once, into {folder}")
        method.to(device).eval()
        starts = [
            sum(s.num_samples for s in manifest.shards[:i]) for i in range(len(manifest.shards))
        ]
        for number in range(rank(), len(manifest.shards), world_size()):
            numbers = range(starts[number], starts[number] + manifest.shards[number].num_samples)
            if not index_path(folder / _name(number)).is_file():
                faults = _write_shard(
                    folder / _name(number), method, dataset, numbers, sides, device
                )
                _report(faults, len(numbers), recipe.data.max_bad_share, say)
        barrier()
        if rank() == 0:
            names = [_name(number) for number in range(len(manifest.shards))]
            counts = {name: count_indexed(folder / name) for name in names}
            write_manifest(folder, {name: count for name, count in counts.items() if count})
        barrier()
    return read_manifest(folder)


def _write_shard(
    path: Path,
    method: Clip,
    dataset: EvaluationSet,
    numbers: range,
    sides: LockedSides,
    device: torch.device,
) -> list[Fault]:
    """Write the features of a shard's samples and return those that could not be read."""
    partial = path.with_name(path.name + ".partial")
    chunks = [numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)]
    faults: list[Fault] = []
    with webdataset.TarWriter(str(partial)) as tar:
        for batch in evaluation_batches(dataset, chunks, workers=0):
            faults.extend(batch.faults)
            if len(batch.numbers):
                for sample in _samples(method, dataset, batch, sides, device):
                    tar.write(sample)
    partial.rename(path)
    write_index(path)
    return faults


def _samples(
    method: Clip,
    dataset: EvaluationSet,
    batch: EvaluationBatch,
    sides: LockedSides,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Return a batch's samples as members of a tar."""
    images = texts = None
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=method.bf16):
        if sides.image:
            images = method.image.backbone(batch.images.to(device).images).float().cpu()
        if sides.text:
            captions = batch.texts.to(device)
            texts = method.text.backbone(captions.tokens, captions.token_mask).float().cpu()
    samples = []
    for row, number in enumerate(batch.numbers.tolist()):
        captions_of, image_id = dataset.pairs.samples.captions(number)
        sample = {
            "__key__": f"{number:012d}",
            "json": json.dumps({"captions": captions_of, "image_id": image_id}).encode(),
        }
        if images is None:
            sample["jpg"] = dataset.pairs.samples.image(number)
        else:
            sample["image.npy"] = _npy(images[row])
        if texts is not None:
            sample["text.npy"] = _npy(texts[batch.owners == row])
        samples.append(sample)
    return samples


def _npy(values: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.numpy(), allow_pickle=False)
    return buffer.getvalue()


def _report(faults: list[Fault], total: int, max_share: float, say: Callable[[str], None]) -> None:
    for fault in faults[:5]:
        say(f"bad sample, left out: {fault}")
    if len(faults) > max_share * max(total, 1000):
        raise UserError(
            f"{len(faults)} of {total} samples cannot be read, the first {faults[0]}; run "
            "`python -m shards check` on the shards or raise data.max_bad_share"
        )


def _name(number: int) -> str:
    return f"features-{number:06d}.tar"


def _digest(manifest: Manifest, recipe: Recipe, sides: LockedSides) -> str:
    """Return a name that is another one as soon as the features would be."""
    method = recipe.method
    parts = {
        "shards": [
            (str(Path(s.url).resolve()), s.num_samples, s.num_bytes) for s in manifest.shards
        ],
        "image": method.image.model_dump(mode="json") if sides.image else None,
        "text": method.text.model_dump(mode="json") if sides.text else None,
        "size": method.image.size,
        "precision": recipe.training.precision,
        "seed": recipe.training.seed,
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
