"""Digest of a loaded model: two of the same give the same embeddings."""

import hashlib
import json

import torch

from xmodal.assembly.model import Model
from xmodal.formats.onnx_model import OnnxMethod


def model_digest(model: Model, *, without_defaults: bool = False) -> str:
    """Return the digest of everything that embeddings depend on: settings, tokenizer, weights.

    With `without_defaults`, it stays the same in versions that add keys, whose defaults change
    nothing.
    """
    method = model.recipe.method.model_dump(mode="json", exclude_defaults=without_defaults)
    settings = {
        "method": method,
        "preprocessing": repr(model.transform),
        "tokenizer": model.tokenizer.tokenizer.to_str(),
        "context": model.tokenizer.context,
        "bf16": model.method.bf16,
    }
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for name, tensor in model.method.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    for path in model.method.files if isinstance(model.method, OnnxMethod) else ():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
