"""Indexed sets for tests of curation, of given vectors and, where needed, of images in tars."""

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.sources.scenes import captioned, jpeg
from tests.search.embedding_folders import image_record
from tests.shard_sets import described, write_shards
from xmodal.data.storage import open_storage
from xmodal.search.curation.pictures import grey_picture, windows
from xmodal.search.curation.tasks import open_set
from xmodal.search.embeddings import INFO, DataInfo, EmbeddingsInfo, ModelInfo, Side
from xmodal.search.part_files import write_part
from xmodal.search.searcher import Searcher


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    """Random vectors of length 1."""
    vectors = np.random.default_rng(seed).normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def write_set(
    folder: Path,
    images: np.ndarray,
    texts: np.ndarray | None = None,
    captions: Sequence[tuple[int, str]] = (),
    **changes: Any,
) -> Path:
    """Write embeddings of one shard: of images (rows, …), and of captions, each with its row.

    `changes` are columns of the images' metadata, and `digest` of the model, `shards` their URLs.
    """
    sides: list[Side] = ["images"] if texts is None else ["images", "texts"]
    shards = changes.pop("shards", ["/data/made/000000.tar"])
    digest = changes.pop("digest", "m")
    info = EmbeddingsInfo(
        model=ModelInfo(source="/runs/made", method="clip", digest=digest),
        data=DataInfo(url="/data/made", fingerprint="f", shards=shards),
        dim=images.shape[-1],
        embeddings_per_item=images.shape[1] if images.ndim == 3 else 1,
        dtype="float32",
        sides=sides,
        parts=1,
    )
    columns = {name: changes[name] for name in changes}
    records = [
        image_record(f"k{row}", **{name: values[row] for name, values in columns.items()})
        for row in range(len(images))
    ]
    with write_part(str(folder), 0, info, "s", open_storage("")) as part:
        part.add("images", images, records)
        if texts is not None:
            part.add("texts", texts, [{"row": row, "caption": said} for row, said in captions])
    info.samples = len(images)
    info.rows = {"images": len(images)} | ({} if texts is None else {"texts": len(texts)})
    (folder / INFO).write_text(info.model_dump_json())
    return folder


def made_set(folder: Path, images: np.ndarray, *texts: Any, **changes: Any) -> Searcher:
    """Return the opened set of `write_set`."""
    return open_set(
        str(write_set(folder / "embeddings", images, *texts, **changes)), folder / "set"
    )


def scenes(count: int, seed: int = 0) -> list[bytes]:
    """Encoded drawings, all different."""
    return [jpeg(one.scene) for one in captioned(seed, "train", count)]


def write_pictures(folder: Path, pictures: Sequence[bytes], caption: str = "said") -> Path:
    """Write images into a tar, and embeddings of them that equal those of their mirror images."""
    samples = {
        f"k{row}": {"jpg": data, "json": described([caption])} for row, data in enumerate(pictures)
    }
    manifest = write_shards(folder / "shards", [samples])
    url = manifest.shards[0].url
    with tarfile.open(url) as tar:
        members = [one for one in tar if one.name.endswith(".jpg")]
    greys = np.stack([grey_picture(data) for data in pictures]).astype(np.float32)
    vectors = windows(greys + greys[:, :, ::-1])[:, 0]
    return write_set(
        folder / "embeddings",
        vectors,
        shard=[Path(url).name] * len(pictures),
        offset=[one.offset_data for one in members],
        size=[one.size for one in members],
        caption=[caption] * len(pictures),
        shards=[str(url)],
        width=[1] * len(pictures),
        height=[1] * len(pictures),
    )
