"""Metrics of clip_benchmark, printed as JSON; run by benchmarks.classification.

    .venv-references/bin/python benchmarks/measure_classification.py MODEL DATA …

Writes a small random model of open_clip with its tokenizer into MODEL, and measures it on each
DATA/test, sets in clip_benchmark's layout, by the task of DATA/dataset_type.txt.
"""

import json
import shutil
import sys
from pathlib import Path

import open_clip
import torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from clip_benchmark.models import load_clip
from safetensors.torch import save_file

SETTINGS = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PIXELS = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
MERGES = "bpe_simple_vocab_16e6.txt.gz"


def write_model(folder: Path) -> None:
    """Write random weights, settings, and the pairs of the tokenizer."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = open_clip.CLIP(**SETTINGS)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2 if weights.ndim > 1 else 1)  # or all inputs would be alike
    config = {"model_cfg": SETTINGS, "preprocess_cfg": PIXELS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    shutil.copy(Path(open_clip.__file__).parent / MERGES, folder)


def accuracy(logits: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[float]:
    """Return what clip_benchmark's function does; that calls float of an array of one number, which
    NumPy refuses since 2.4.
    """
    correct = logits.topk(max(topk), 1, True, True)[1].t().eq(target.view(1, -1))
    return [correct[:k].reshape(-1).float().sum().item() / len(target) for k in topk]


def metrics(model: Path, data: Path) -> dict[str, float]:
    """Return what `clip_benchmark eval --dataset wds/…` prints, in float32 on the CPU."""
    loaded, transform, tokenizer = load_clip("open_clip", f"local-dir:{model}", None, None, "cpu")
    loaded.eval()
    is_retrieval = (data / "dataset_type.txt").exists()
    task = "zeroshot_retrieval" if is_retrieval else "zeroshot_classification"
    made = build_dataset("wds/made", str(data), transform, "test", task=task)
    loader = torch.utils.data.DataLoader(made.batched(64), batch_size=None)
    if is_retrieval:
        return zeroshot_retrieval.evaluate(loaded, loader, tokenizer, "cpu", amp=False)
    zeroshot_classification.accuracy = accuracy
    names, templates = made.classes, made.templates
    return zeroshot_classification.evaluate(
        loaded, loader, tokenizer, names, templates, "cpu", amp=False
    )


if __name__ == "__main__":
    place, *sets = map(Path, sys.argv[1:])
    write_model(place)
    print(json.dumps({name: value for one in sets for name, value in metrics(place, one).items()}))
