"""Folders of embeddings, written without a model: what reads them is tested with these."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xmodal.data.storage import open_storage
from xmodal.search.embeddings import INFO, DataInfo, EmbeddingsInfo, ModelInfo, Side
from xmodal.search.part_files import write_part


def image_record(key: str, **values: Any) -> dict[str, Any]:
    """Return the metadata of an image; `values` replace the made-up ones."""
    made = {
        "key": key,
        "caption": f"a picture of {key}",
        "url": None,
        "width": 64,
        "height": 48,
        "labels": ["shirt"],
        "shard": "000000.tar",
        "offset": 512,
        "size": 100,
        "number": 0,
        "image_id": f"id-{key}",
        "uid": None,
    }
    return made | values


def write_embeddings(
    folder: Path,
    parts: Sequence[tuple[np.ndarray, Sequence[dict[str, Any]]]],
    *,
    texts: bool = True,
    dtype: Literal["float16", "float32"] = "float32",
    shards: Sequence[str] | None = None,
) -> Path:
    """Write a finished folder of parts, images (rows, dim) or (rows, K, dim) and their metadata.

    With `texts`, each image has one caption, whose vectors are the negative of the image's.
    """
    images = parts[0][0]
    sides: list[Side] = ["images", "texts"] if texts else ["images"]
    info = EmbeddingsInfo(
        model=ModelInfo(source="/runs/made", checkpoint="step-1", method="clip", digest="m"),
        data=DataInfo(
            url="/data/made",
            fingerprint="sha256-0",
            shards=[*(shards or (f"/data/made/{n:06d}.tar" for n in range(len(parts))))],
        ),
        dim=images.shape[-1],
        embeddings_per_item=images.shape[1] if images.ndim == 3 else 1,
        dtype=dtype,
        sides=sides,
        parts=len(parts),
    )
    storage, samples = open_storage(""), 0
    for number, (vectors, records) in enumerate(parts):
        with write_part(str(folder), number, info, "s", storage) as part:
            part.add("images", vectors, records)
            part.summary.samples += len(records)
            if texts:
                captions = [{"row": n, "caption": r["caption"]} for n, r in enumerate(records)]
                part.add("texts", -vectors, captions)
        samples += len(records)
    info.samples, info.rows = samples, dict.fromkeys(sides, samples)
    info.faults, info.dropped = {}, {}
    (folder / INFO).write_text(info.model_dump_json(indent=1))
    return folder


def embedded_files(folder: Path) -> dict[str, Any]:
    """Return all files of a folder of embeddings, but for its lock and what time decides."""
    return comparable(
        {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "lock"
        }
    )


def comparable(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return files of embeddings by name, without what time decides."""
    info = json.loads(files[INFO])
    del info["samples_per_second"]
    return {**files, INFO: info}
