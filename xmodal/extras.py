"""Extras: what is installed on request, by `pip install 'xmodal[NAME]'`."""

from importlib.util import find_spec

from xmodal.errors import UserError

# Of each extra, the modules that are looked for and what they are called.
_EXTRAS = {
    "train": {"deepspeed": "DeepSpeed", "tensorboard": "TensorBoard"},
    "tune": {"ray": "Ray", "optuna": "Optuna"},
    "s3": {"s3fs": "s3fs"},
    "pretrained": {"transformers": "transformers", "ftfy": "ftfy", "regex": "regex"},
    "export": {"onnx": "ONNX", "onnxruntime": "ONNX Runtime", "onnxscript": "onnxscript"},
    "search": {"faiss": "Faiss", "pyarrow": "PyArrow", "sqlglot": "SQLGlot"},
}


def require(extra: str) -> None:
    """Raise `UserError` where a package of an extra is not installed; imports none of them."""
    for module, name in _EXTRAS[extra].items():
        if find_spec(module) is None:
            raise UserError(f"this needs {name}: pip install 'xmodal[{extra}]'")
