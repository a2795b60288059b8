"""What the files of one sample say: its images by their role, features, record and captions."""

import io
import json
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# The roles are the parts of a file's name between the key and the image's own extension.
PLAIN = ""
SOURCE = "source."
TARGET = "target."
_IMAGE_EXTENSIONS = {"jpg", "jpeg", "png", "webp"}
IMAGE_FEATURES = "image.npy"
TEXT_FEATURES = "text.npy"
# The features that an image may be given by in place of it.
FEATURES = {PLAIN: IMAGE_FEATURES, SOURCE: "source.npy", TARGET: "target.npy"}
# How many dimensions: (features,) or (regions, features) of an image; (captions, features).
_FEATURE_DIMENSIONS = dict.fromkeys(FEATURES.values(), (1, 2)) | {TEXT_FEATURES: (2,)}


class SampleError(Exception):
    """Something in a sample that cannot be used: `cause` is one of a few, `detail` what was met."""

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(cause, detail)
        self.cause = cause
        self.detail = detail


def image_extensions(extensions: Iterable[str]) -> dict[str, str]:
    """Find the images among a sample's extensions: role → extension without the role.

    The role of a plain sample's image is "", those of a composed sample "source." and "target.".
    """
    images = {}
    for extension in extensions:
        role, dot, kind = extension.rpartition(".")
        if kind in _IMAGE_EXTENSIONS and role + dot in (PLAIN, SOURCE, TARGET):
            images[role + dot] = kind
    return images


def is_composed(roles: Collection[str]) -> bool:
    """Whether images of these roles are those of a composed query."""
    return SOURCE in roles or TARGET in roles


def read_record(data: bytes) -> dict[str, Any]:
    """Read a sample's JSON; raises `SampleError` when it is broken or no object."""
    try:
        record = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise SampleError("not UTF-8", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise SampleError("JSON broken", str(error)) from None
    if not isinstance(record, dict):
        raise SampleError("JSON of the wrong type", f"{type(record).__name__} instead of an object")
    return record


def read_captions(record: Mapping[str, Any], text: bytes | None) -> list[str]:
    """A sample's captions: `captions` of its JSON, else its text file as img2dataset writes it.

    Raises `SampleError` when there are none or they are of another type.
    """
    if record.get("captions") or ("captions" in record and text is None):
        captions = record["captions"]
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not all(isinstance(each, str) for each in captions):
            raise SampleError("JSON of the wrong type", "captions is no list of strings")
    elif text is not None:
        captions = [_decoded(text)]
    else:
        captions = []
    if not captions:
        raise SampleError("caption missing")
    return captions


def encode_features(array: "np.ndarray") -> bytes:
    """The bytes of a .npy file: float32, little endian, C order, no pickle.

    Raises `SampleError` where a number is not finite, in float32.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, "<f4")
    if not np.isfinite(array).all():
        raise SampleError("features: not finite")
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def read_features(data: bytes, extension: str) -> "np.ndarray":
    """Read the features of an image or of captions from the bytes of a .npy file.

    Raises `SampleError` when they are broken, pickled, no float16 or float32 in little endian,
    have another number of dimensions, are empty or not finite.
    """
    import numpy as np

    try:
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy's reader raises whatever the bytes lead it to
        raise SampleError("features: cannot be read", f"{extension}: {error}") from None
    if array.dtype.str not in ("<f2", "<f4"):
        raise SampleError("features: no float16 or float32", f"{extension} has {array.dtype.str}")
    if array.ndim not in _FEATURE_DIMENSIONS[extension] or not array.size:
        raise SampleError("features: wrong shape", f"{extension} has {array.shape}")
    if not np.isfinite(array).all():
        raise SampleError("features: not finite", extension)
    return array


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise SampleError("not UTF-8", str(error)) from None
