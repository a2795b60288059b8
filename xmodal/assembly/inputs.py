"""Arguments of a model in Python: images, texts, features and embeddings, checked and read."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xmodal.data.decode import BadSample, EncodedImage, open_image
from xmodal.errors import UserError

Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor
NO_IMAGE = "is not an image; give a path, bytes, a PIL image, or pixels"
# Modes of Pillow that a PNG holds as they are; others become RGB first, 32-bit ones excepted.
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


def read_pictures(
    pictures: Picture | Iterable[Picture], prepare: Callable[[EncodedImage], Tensor]
) -> Iterator[Tensor]:
    """Yield each of some pictures, or one, decoded and prepared.

    A tensor (n, 3, height, width) and an array (n, height, width, 3) are n of them. The images are
    decoded by the decoder of training. Raises `UserError` for what cannot be read, with its path or
    its position, from 0.
    """
    for number, picture in enumerate(_each(pictures)):
        name = picture if isinstance(picture, str | Path) else f"image {number}"
        try:
            yield prepare(_open(picture))
        except BadSample as cause:
            raise UserError(f"{name}: {cause}") from None
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror or error}") from None


def read_texts(texts: object, what: str) -> Iterator[str]:
    """Yield each of some texts, or one; `what` is the noun of messages.

    Raises `UserError` for anything else, with its position, from 0.
    """
    if not isinstance(texts, str | Iterable) or isinstance(texts, bytes):
        raise UserError(f"{what}s: {described(texts)} is not a {what}; give strings")
    for number, text in enumerate([texts] if isinstance(texts, str) else texts):
        if not isinstance(text, str):
            raise UserError(f"{what} {number}: {described(text)} is not a {what}; give strings")
        yield text


def read_features(values: object, width: int, what: str) -> Tensor:
    """Return features as a tensor, (n, …, width) float32; `UserError` for anything else."""
    try:
        rows = torch.as_tensor(np.asarray(values), dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(
            f"{what}: {described(values)} is not an array; the model was trained on features: give "
            f"(n, {width}) numbers"
        ) from None
    if rows.ndim < 2 or rows.shape[-1] != width:
        raise UserError(
            f"{what}: the model was trained on features of shape (n, {width}), not "
            f"{tuple(rows.shape)}"
        )
    return rows


def check_embeddings(queries: Tensor, gallery: Tensor, *, sets: bool = False) -> None:
    """Raise `UserError` unless both are embeddings, (a, …) and (b, …), of one shape.

    Of `sets`, (a, K, dim) and (b, K, dim), K may differ.
    """
    for name, value in (("queries", queries), ("gallery", gallery)):
        if not isinstance(value, Tensor):
            raise UserError(f"score: {name} must be a tensor of embeddings, not {described(value)}")
        if value.ndim not in (2, 3):
            raise UserError(
                f"score: {name} must be embeddings (n, dim) or (n, K, dim), not of shape "
                f"{tuple(value.shape)}"
            )
    if sets:
        if queries.ndim < 3 or gallery.ndim < 3 or queries.shape[2] != gallery.shape[2]:
            raise UserError(
                f"score: queries {tuple(queries.shape)} and gallery {tuple(gallery.shape)} must "
                "be sets of vectors (n, vectors, dim) of one dim"
            )
    elif queries.shape[1:] != gallery.shape[1:]:
        raise UserError(
            f"score: queries {tuple(queries.shape)} and gallery {tuple(gallery.shape)} must have "
            "the same shape from the second dimension on"
        )


def check_batch_size(size: object) -> None:
    """Raise `UserError` unless a number of items can be encoded at a time."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise UserError(f"batch_size={size!r} must be a whole number of at least 1")


def described(value: object) -> str:
    """Return the type of a value with its article, such as `an int`."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _each(pictures: Picture | Iterable[Picture]) -> Iterable[Picture]:
    if isinstance(pictures, np.ndarray | Tensor):
        return pictures if pictures.ndim == 4 else [pictures]
    if isinstance(pictures, str | Path | bytes | Image.Image):
        return [pictures]
    if isinstance(pictures, Iterable):
        return pictures
    raise UserError(f"images: {described(pictures)} {NO_IMAGE}")


def _open(picture: Picture) -> EncodedImage:
    match picture:
        case str() | Path():
            return open_image(Path(picture).read_bytes())
        case bytes():
            return open_image(picture)
        case Image.Image():
            return open_image(_as_png(picture))
        case Tensor():
            return _of_pixels(picture.cpu().movedim(0, -1).numpy() if picture.ndim == 3 else None)
        case np.ndarray():
            return _of_pixels(picture)
    raise BadSample(f"{described(picture)} {NO_IMAGE}")


def _as_png(image: Image.Image) -> bytes:
    """Return a PIL image as a file, so that its mode and its EXIF are treated as a file's are."""
    if image.mode in ("F", "I"):
        raise BadSample("image does not decode (32-bit values, of no known range)")
    buffer = io.BytesIO()
    exif = image.getexif()
    picture = image if image.mode in _PNG_MODES else image.convert("RGB")
    picture.save(buffer, "PNG", exif=exif, compress_level=1)
    return buffer.getvalue()


def _of_pixels(pixels: np.ndarray | None) -> EncodedImage:
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise BadSample(
            "pixels must be uint8: an array (height, width, 3) or a tensor (3, height, width)"
        )
    if 0 in pixels.shape:
        raise BadSample("image has no pixels")
    height, width, _ = pixels.shape
    return EncodedImage(height, width, 1, lambda _: np.require(pixels, requirements=["C", "W"]))
