"""An index of plain pictures, and a model that embeds their colours and the names of these."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.search.embedding_folders import image_record, write_embeddings
from xmodal.assembly.inputs import read_pictures
from xmodal.data.batch import BatchSpec
from xmodal.search.build_index import build_index
from xmodal.search.embeddings import Embeddings
from xmodal.search.searcher import Searcher

COLOURS = {"red": (230, 60, 50), "green": (50, 190, 90), "blue": (60, 90, 230)}
PICTURES = 120
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SHARD = """it's "a" <b>.tar"""


def picture(colour: Sequence[int], kind: str = "PNG") -> bytes:
    """Return an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (48, 36), tuple(colour)).save(file, kind)
    return file.getvalue()


def embed(colour: Any) -> np.ndarray:
    """Return the embedding of a colour, (3,)."""
    centred = np.asarray(colour, np.float32) - 100
    return centred / np.linalg.norm(centred)


def write_colour_index(folder: Path, captions: Sequence[str] = ()) -> Path:
    """Index shades of each colour, each of another format; the first captions are given ones."""
    drawn = [
        (name, np.clip(np.array(colour) + step - 20, 0, 255))
        for step in range(PICTURES // len(COLOURS))
        for name, colour in COLOURS.items()
    ]
    files = [picture(one, FORMATS[n % len(FORMATS)]) for n, (_, one) in enumerate(drawn)]
    records = [
        image_record(f"k{n}", caption=caption, labels=[name], shard=SHARD, number=n, **place)
        for n, ((name, _), place) in enumerate(zip(drawn, _write_tar(folder, files), strict=True))
        for caption in [captions[n] if n < len(captions) else f"a {name} picture {n}"]
    ]
    vectors = np.stack([embed(one) for _, one in drawn])
    write_embeddings(folder / "e", [(vectors, records)], shards=[str(folder / SHARD)])
    build_index(Embeddings(folder / "e"), folder / "index", None, 10**9, lambda _: None)
    return folder / "index"


def colour_model(*, composed: bool = False) -> Any:
    """Return a model that embeds the mean colour of images, and names of colours in texts."""

    def encode_images(images: Sequence[bytes]) -> Tensor:
        means = read_pictures(images, lambda one: torch.from_numpy(one.pixels().mean((0, 1))))
        return torch.from_numpy(np.stack([embed(mean) for mean in means]))

    def encode_texts(texts: Sequence[str]) -> Tensor:
        named = [
            [c for name, c in COLOURS.items() if name in text] or [(101,) * 3] for text in texts
        ]
        return torch.from_numpy(np.stack([embed(colours[0]) for colours in named]))

    return SimpleNamespace(
        method=SimpleNamespace(
            contents=BatchSpec(composed=composed), shortlist=None, modules=list, eval=lambda: None
        ),
        device=torch.device("cpu"),
        encode_images=encode_images,
        encode_texts=encode_texts,
        encode_queries=lambda images, texts: encode_images(images) + 9 * encode_texts(texts),
    )


def colour_searcher(folder: Path, captions: Sequence[str] = (), **model: bool) -> Searcher:
    """Return a searcher of a new index in a folder."""
    index = write_colour_index(folder, captions)
    return Searcher.open(index, lambda: colour_model(**model))


def _write_tar(folder: Path, files: Sequence[bytes]) -> list[dict[str, int]]:
    """Write files into the shard; return the place of each."""
    path = folder / SHARD
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(files):
            member = tarfile.TarInfo(f"k{number}.img")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return [{"offset": one.offset_data, "size": one.size} for one in tar]
