"""A process that takes training steps on random weights and prints its peak above its start.

    python -m tests.assembly.step_process RECIPE key=value …

The step is a training's: DeepSpeed's engine, the gradient cache, the optimiser. It begins with
steps of a tiny model, which start threads and load what is loaded once. Prints bytes.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from tests.commands import free_port
from xmodal.assembly.build import first_method
from xmodal.assembly.example_batch import example_batch, expected_samples
from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.training.engine import initialize_engine
from xmodal.training.gradient_cache import GradientCache
from xmodal.training.stage_method import prepare_method

TINY = (
    "method.image.name=test_vit",
    "method.image.size=160",
    "method.text.layers=1",
    "data.batch_size=2",
    "data.micro_batch_size=null",
)
STEPS = 2  # in the second, the optimiser has its state


def train(recipe: Recipe) -> None:
    """Take steps on one batch, as the only rank."""
    data, stage = recipe.data, recipe.stages[0]
    method = first_method(recipe, torch.device("cpu"))
    spec = expected_samples(recipe, local=method.local)
    batch = example_batch(recipe, method.contents, spec, data.batch_size)
    size = data.micro_batch_size or data.batch_size
    prepare_method(
        method,
        stage,
        recipe.training,
        encoded=size,
        batch_size=data.batch_size,
        freeze_batch_norm=recipe.method.image.freezes_batch_norm,
    )
    engine = initialize_engine(method, stage, recipe.training, batch_size=data.batch_size, ranks=1)
    for step in range(STEPS):
        method.on_step_start(0.0, 0)
        cache = GradientCache(engine, batch.cut(size), (0, step))
        cache.backward(torch.stack(list(cache.forward().values())).sum())
        del cache
        engine.step()


def resident(key: str) -> int:
    """Return a size of this process in bytes: VmRSS, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def peak_above_start(recipe: Recipe, tiny: Recipe) -> int:
    """Return the bytes that a training's steps need at most."""
    train(tiny)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    train(recipe)
    return resident("VmHWM") - before


def main(words: Sequence[str]) -> None:
    """Print the peak of a recipe."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(free_port())
    dist.init_process_group("gloo")
    name, *overrides = words
    tiny = read_recipe(name, [*overrides, *TINY])
    print(peak_above_start(read_recipe(name, overrides), tiny), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
