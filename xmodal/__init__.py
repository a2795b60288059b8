"""Train image-text similarity at scale, and use trained models in Python.

import xmodal

model = xmodal.load("runs/quickstart", checkpoint="best")
images = model.encode_images(["a.jpg", "b.jpg"])  # (2, dim)
texts = model.encode_texts(["a red circle", "a blue square"])  # (2, dim)
print(model.score(images, texts))  # (2, 2)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmodal.assembly.model import Model, load
    from xmodal.errors import UserError

__version__ = "0.2.0"

__all__ = ["Model", "UserError", "load"]


def __getattr__(name: str) -> Any:
    # Commands import parts of the package and answer --help without torch.
    if name in ("Model", "load"):
        from xmodal.assembly import model

        return getattr(model, name)
    if name == "UserError":
        from xmodal.errors import UserError

        return UserError
    raise AttributeError(f"module 'xmodal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
