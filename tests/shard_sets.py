"""Small shard sets for tests, written as the commands write them."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from xmodal.data.manifest import Manifest, read_manifest, write_manifest
from xmodal.data.shard_index import write_index
from xmodal.data.text_lengths import measure_texts

Members = Mapping[str, bytes]


def write_shards(folder: Path, shards: Sequence[Mapping[str, Members]]) -> Manifest:
    """Write one tar a shard, of key -> extension -> bytes, with its indices."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for number, samples in enumerate(shards):
        path = folder / f"set-{number:06d}.tar"
        with tarfile.open(path, "w") as tar:
            for key, members in samples.items():
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        counts[path.name] = write_index(path).num_samples
    write_manifest(folder, counts)
    return read_manifest(folder)


def with_lengths(manifest: Manifest) -> Manifest:
    """The manifest, once the lengths of its texts lie beside its tars."""
    for place in range(len(manifest.shards)):
        measure_texts(manifest, place)
    return manifest


def encode(pixels: np.ndarray, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """The bytes of an image of (height, width, 3) uint8 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def plain(number: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    """Pixels (height, width, 3), all of one colour that says the number, below 65536."""
    return np.full((*size, 3), (number // 256, number % 256, 128), dtype=np.uint8)


def number_of(image: np.ndarray) -> int:
    """The number of a plain image's pixels (3, height, width)."""
    return 256 * int(image[0, 0, 0]) + int(image[1, 0, 0])


def described(captions: object, **more: object) -> bytes:
    """A sample's JSON."""
    return json.dumps({"captions": captions, **more}).encode()


def numbered(count: int, captions: int = 3) -> dict[str, Members]:
    """Samples of plain images, `captions` captions each that name the image's number."""
    return {
        f"{number:05d}": {
            "png": encode(plain(number)),
            "json": described(
                [f"{number} {caption}" for caption in range(captions)], image_id=f"i{number}"
            ),
        }
        for number in range(count)
    }
