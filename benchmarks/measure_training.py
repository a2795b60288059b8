"""One training by one side, from shards to optimiser steps: prints a line of JSON.

    python -m benchmarks.measure_training SIDE SETUP SHARDS STEPS

SIDE is `ours`, this project's command, or `peer`: open_clip's own, in its own environment. SETUP
is `compute` or `data`, after what its speed is limited by. Counted are the steps after the first
few, from optimiser step to optimiser step, and the processor time of trainer and loading processes.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

UNCOUNTED = 4  # steps, in which read-ahead and caches fill
VOCABULARY, CONTEXT, CROP = 49408, 32, [0.9, 1.0]
RATE, DECAY, BETAS, CLIP = 5e-4, 0.2, (0.9, 0.98), 1.0


@dataclass(frozen=True)
class Setup:
    """Sizes of the two towers, of their input, and of a batch."""

    size: int
    patch: int
    width: int
    layers: int
    text_layers: int
    embedding: int
    batch: int
    threads: int  # of the trainer

    @property
    def heads(self) -> int:
        """Attention heads, as CLIP has them."""
        return self.width // 64


SETUPS = {
    "compute": Setup(96, 16, 192, 6, 4, 256, batch=256, threads=2),
    "data": Setup(224, 32, 64, 1, 1, 64, batch=64, threads=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("side", choices=["ours", "peer"])
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("shards", type=Path)
    parser.add_argument("steps", type=int)
    args = parser.parse_args()
    setup = SETUPS[args.setup]
    torch.set_num_threads(setup.threads)
    train = {"ours": ours, "peer": open_clips}[args.side]
    marks = Marks()
    with tempfile.TemporaryDirectory() as folder:
        train(setup, args.shards, UNCOUNTED + args.steps, Path(folder))
    print(json.dumps(marks.found(UNCOUNTED + args.steps, setup.batch) | {"setup": asdict(setup)}))


class Marks:
    """Times of optimiser steps, and the processor seconds used until then."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.parameters = 0
        register_optimizer_step_post_hook(self._mark)

    def _mark(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self.times.append((time.perf_counter(), processor_seconds()))
        parts = [one for group in optimizer.param_groups for one in group["params"]]
        self.parameters = sum(part.numel() for part in parts)

    def found(self, steps: int, batch: int) -> dict[str, float]:
        """Return samples a second, and milliseconds of processor a sample."""
        times = self.times[-steps:]  # before training, ours steps on a few numbers to check itself
        (clock, spent), (end, all_spent) = times[UNCOUNTED - 1], times[-1]
        samples = batch * (steps - UNCOUNTED)
        return {
            "rate": samples / (end - clock),
            "cpu": 1000 * (all_spent - spent) / samples,
            "parameters": self.parameters,
        }


def processor_seconds() -> float:
    """Return the processor time of this process and its children so far."""
    own = os.getpid()
    children = Path(f"/proc/self/task/{own}/children").read_text().split()
    ticks = 0
    for process in (str(own), *children):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def ours(setup: Setup, shards: Path, steps: int, folder: Path) -> None:
    """Train by `xmodal train`, with a recipe of the same model."""
    from xmodal.commands.train import main as train

    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(recipe_of(setup, shards, steps, folder)))  # JSON is YAML
    train([str(recipe)])


def recipe_of(setup: Setup, shards: Path, steps: int, folder: Path) -> dict[str, Any]:
    """Return the recipe whose model, data and optimiser are those of `open_clips`."""
    sizes = {"width": setup.width, "heads": setup.heads, "mlp": 4 * setup.width}
    text = {
        "kind": "clip_text",
        "tokenizer": {"kind": "clip", "folder": os.environ["CLIP_TOKENIZER"]},
        "context": CONTEXT,
        "layers": setup.text_layers,
        "pooling": "end_of_text",
        "trim": True,
    }
    image = {"kind": "vit", "size": setup.size, "patch": setup.patch, "layers": setup.layers}
    optimizer = {"lr": RATE, "weight_decay": DECAY, "betas": BETAS, "eps": 1e-6}
    stage = {"length": f"{steps} steps", "optimizer": optimizer, "clip_norm": CLIP}
    data = {"train": str(shards), "batch_size": setup.batch, "workers": 1}
    return {
        "run": str(folder / "run"),
        "data": data | {"crop": CROP, "flip": False},
        "method": {
            "kind": "clip",
            "image": image | sizes,
            "text": text | sizes,
            "embedding": setup.embedding,
        },
        "stages": [stage],
        "training": {"precision": "fp32"},
        "evaluation": {"every": 0},
        "checkpoints": {"every": 0},
    }


def open_clips(setup: Setup, shards: Path, steps: int, folder: Path) -> None:
    """Train by open_clip's own command."""
    import open_clip
    from open_clip_train.main import main as train

    (folder / "beside.json").write_text(json.dumps(model_of(setup)))
    open_clip.add_model_config(folder / "beside.json")
    logging.disable(logging.INFO)
    first, *_, last = sorted(shards.glob("*.tar"))
    given = {
        "model": "beside",
        "dataset-type": "webdataset",
        "train-data": f"{shards}/train-{{{first.stem[-6:]}..{last.stem[-6:]}}}.tar",
        "train-num-samples": steps * setup.batch,
        "batch-size": setup.batch,
        "workers": 1,
        "device": "cpu",
        "precision": "fp32",
        "epochs": 1,
        "lr": RATE,
        "wd": DECAY,
        "beta1": BETAS[0],
        "beta2": BETAS[1],
        "eps": 1e-6,
        "grad-clip-norm": CLIP,
        "warmup": 1,
        "save-frequency": 0,
        "log-every-n-steps": 10,  # as ours
        "logs": folder,
    }
    arguments = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    train([*arguments, "--aug-cfg", f"scale=({CROP[0]},{CROP[1]})"])


def model_of(setup: Setup) -> dict[str, Any]:
    """Return open_clip's description of the model of `recipe_of`."""
    return {
        "embed_dim": setup.embedding,
        "vision_cfg": {
            "image_size": setup.size,
            "layers": setup.layers,
            "width": setup.width,
            "patch_size": setup.patch,
            "head_width": setup.width // setup.heads,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": VOCABULARY,
            "width": setup.width,
            "heads": setup.heads,
            "layers": setup.text_layers,
        },
    }


if __name__ == "__main__":
    main()
