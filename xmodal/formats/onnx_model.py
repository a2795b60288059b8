"""A method whose encoders are ONNX files, for `xmodal.load` of a folder that holds them."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from xmodal.data.batch import Batch
from xmodal.errors import UserError
from xmodal.extras import require
from xmodal.formats.onnx import sides_of
from xmodal.methods.method import Loss, Method
from xmodal.methods.scores import Score


class OnnxMethod(Method):
    """The encoders of a method as ONNX Runtime computes them; it cannot be trained."""

    def __init__(
        self, of: type[Method], folder: Path, *, image_features: bool, text_features: bool
    ) -> None:
        super().__init__()
        require("export")
        import onnxruntime

        self.of, self.contents = of, of.contents
        self.sides = sides_of(self, image_features=image_features, text_features=text_features)
        self.sessions: dict[str, Any] = {}
        self.files = [folder / f"{side.name}.onnx" for side in self.sides]
        for side, path in zip(self.sides, self.files, strict=True):
            try:
                self.sessions[side.name] = onnxruntime.InferenceSession(
                    path, providers=onnxruntime.get_available_providers()
                )
            except Exception as error:  # each of ONNX Runtime's own kinds
                raise UserError(
                    f"{path} cannot be read ({str(error).splitlines()[0]}); export it again"
                ) from None

    @property
    def losses(self) -> Mapping[str, Loss]:
        """None."""
        return {}

    def encode(self, batch: Batch) -> Any:
        """Return the embeddings of all sides whose inputs the batch has, by their names."""
        found: dict[str, Tensor | None] = dict.fromkeys(
            ("images", "texts", "queries", "targets", "fused")
        )
        for side in self.sides:
            inputs = {name: getattr(batch, name) for name in side.inputs}
            if all(value is not None for value in inputs.values()):
                values = {name: value.cpu().numpy() for name, value in inputs.items()}
                (embeddings,) = self.sessions[side.name].run(None, values)
                found[side.embedding] = torch.from_numpy(embeddings)
        return SimpleNamespace(**found)

    @property
    def score(self) -> Score:
        """The method's own score; `UserError` where it is a network, which no file holds."""
        if self.of.learned_score:
            raise UserError(
                "the ONNX files hold the encoders, not the learned score; score with the run, or "
                "export it with --format xmodal"
            )
        score: Score = self.of.score.fget(self)  # type: ignore[attr-defined]
        return score
