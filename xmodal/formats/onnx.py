"""ONNX: the encoders of any method, a file each, of any batch size and length of texts.

Images are the pixels that a model's preprocessing gives, uint8: the file normalises them itself.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.data.batch import Batch
from xmodal.errors import UserError
from xmodal.extras import require
from xmodal.formats.onnx_recurrent import exportable_recurrence
from xmodal.methods.method import Method

# Greatest difference of an embedding from ours, relative to its length; least cosine of int8.
TOLERANCE, LEAST_COSINE = 1e-5, 0.999


@dataclass(frozen=True)
class Side:
    """Part of a method that one call encodes: its file, its inputs, the embedding that it gives."""

    name: str  # of the file: NAME.onnx
    inputs: tuple[str, ...]  # fields of a batch
    embedding: str  # field of the method's embeddings


def sides_of(method: Method, *, image_features: bool, text_features: bool) -> list[Side]:
    """Return the sides of a method, whose inputs may be features."""
    image = "image_features" if image_features else "images"
    text = ("text_features",) if text_features else ("tokens", "token_mask")
    if method.contents.composed:
        target = "target_features" if image_features else "targets"
        return [Side("image", (target,), "targets"), Side("query", (image, *text), "queries")]
    images = Side("image", (image,), "images")
    if method.contents.views > 1:
        reads_texts = method.contents.captions > 0
        return [images, Side("fused", (image, *text), "fused")] if reads_texts else [images]
    return [images, Side("text", text, "texts")]


@dataclass(frozen=True)
class Shapes:
    """Sizes of a method's inputs."""

    size: int  # of images, in pixels
    context: int  # longest text, in tokens
    vocabulary: int
    fixed_length: bool = False  # all texts are as long as the context
    image_features: tuple[int, ...] = ()  # of a sample, where shards hold features
    text_features: tuple[int, ...] = ()


class _Exported(nn.Module):
    """A method as the function of one side's inputs."""

    def __init__(self, method: Method, side: Side) -> None:
        super().__init__()
        self.method, self.side = method, side

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return embeddings (batch, …) float32."""
        fields: dict[str, Any] = dict(zip(self.side.inputs, inputs, strict=True))
        embedding: Tensor = getattr(self.method.encode(Batch(**fields)), self.side.embedding)
        return embedding.float()


def write_onnx(
    method: Method, folder: Path, shapes: Shapes, *, int8: bool = False
) -> Iterator[str]:
    """Write NAME.onnx of each side of a method, check it, and yield a line on each.

    With `int8`, matrices are rounded to eight bits (dynamic quantisation). Raises `UserError` for
    an encoder that the exporter cannot write, and where what was written computes something else.
    """
    require("export")
    method.eval()
    sides = sides_of(
        method,
        image_features=bool(shapes.image_features),
        text_features=bool(shapes.text_features),
    )
    for side in sides:
        path = folder / f"{side.name}.onnx"
        _export(method, side, path, shapes)
        difference, _ = compare(method, side, path, shapes)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path.name}: embeddings differ from ours by {difference:.1e} of their length: "
                "ONNX cannot carry this encoder; use another --format"
            )
        line = f"{path.name}: within {difference:.1e} of ours"
        if int8:
            _quantise(path)
            _, cosine = compare(method, side, path, shapes)
            line += f"; int8: cosine at least {cosine:.5f}"
            if cosine < LEAST_COSINE:
                line += f" (below {LEAST_COSINE}: measure it before you use it)"
        yield line


def _export(method: Method, side: Side, path: Path, shapes: Shapes) -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    long = set() if shapes.fixed_length else {"tokens", "token_mask"}
    dynamic = [{0: batch, 1: length} if name in long else {0: batch} for name in side.inputs]
    given = _example(side, shapes, samples=2, seed=0)
    with _quiet(), exportable_recurrence(method):
        try:
            program = torch.onnx.export(
                _Exported(method, side),
                given,
                dynamo=True,
                verbose=False,
                input_names=list(side.inputs),
                output_names=["embeddings"],
                dynamic_shapes=(tuple(dynamic),),
            )
        except Exception as error:  # whatever an encoder's code makes of being traced
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path.name}: PyTorch cannot export this encoder: {reason}") from error
    assert program is not None
    program.save(path, external_data=False)


def compare(method: Method, side: Side, path: Path, shapes: Shapes) -> tuple[float, float]:
    """Return the greatest difference of a file's embeddings from ours, relative to their length,
    and the least cosine; of other sizes than it was exported with.
    """
    given = _example(side, shapes, samples=5, seed=1)
    with torch.no_grad():
        ours = _Exported(method, side)(*given).flatten(0, -2)
    theirs = torch.from_numpy(_run(path, side, given)).flatten(0, -2)
    difference = (theirs - ours).norm(dim=1) / ours.norm(dim=1)
    return float(difference.max()), float(F.cosine_similarity(ours, theirs).min())


def _run(path: Path, side: Side, given: Sequence[Tensor]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = {name: value.numpy() for name, value in zip(side.inputs, given, strict=True)}
    try:
        (embeddings,) = session.run(None, values)
    except Exception as error:  # the runtime's own kinds of errors are those of its extension
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path.name}: ONNX Runtime cannot run this encoder: {reason}") from error
    result: np.ndarray = embeddings
    return result


def _example(side: Side, shapes: Shapes, *, samples: int, seed: int) -> tuple[Tensor, ...]:
    """Return random inputs of a side."""
    random = torch.Generator().manual_seed(seed)
    longest = shapes.context if shapes.fixed_length else min(shapes.context, 5 + samples)
    lengths = longest - torch.arange(samples)[:, None] % max(1, longest)
    size, vocabulary = shapes.size, shapes.vocabulary
    make: dict[str, Callable[[], Tensor]] = {
        "tokens": lambda: torch.randint(vocabulary, (samples, longest), generator=random),
        "token_mask": lambda: torch.arange(longest) < lengths,
        "text_features": lambda: torch.randn(samples, *shapes.text_features, generator=random),
    }
    for name in ("images", "targets"):
        make[name] = lambda: torch.randint(
            256, (samples, 3, size, size), generator=random, dtype=torch.uint8
        )
    for name in ("image_features", "target_features"):
        make[name] = lambda: torch.randn(samples, *shapes.image_features, generator=random)
    return tuple(make[name]() for name in side.inputs)


def _quantise(path: Path) -> None:
    """Round the matrices of a file to eight bits."""
    from onnxruntime.quantization import quantize_dynamic

    exact = path.with_suffix(".exact")
    path.rename(exact)
    with _quiet():
        quantize_dynamic(exact, path, op_types_to_quantize=["MatMul", "Gemm", "Attention"])
    exact.unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from speaking of its own steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
