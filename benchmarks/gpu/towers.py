"""CLIP with ViT-B/32, B/16 and L/14 in bf16: samples a second, MFU, peak memory.

On batches that lie on the device, in-process by the parts that a training consists of; then by
the command itself, from the loader.
"""

import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.machine import peak_rate
from benchmarks.gpu.photographs import photograph_shards
from benchmarks.gpu.planned import planned_memory, record_planned
from benchmarks.gpu.sections import Bench
from benchmarks.gpu.timing import GIB, peak_of, seconds_of
from benchmarks.gpu.tiny import history, launched
from benchmarks.measure_cache import cached, random_batch
from xmodal.assembly.build import build_method
from xmodal.assembly.recipe import read_recipe
from xmodal.costs.flops import flops_of_step
from xmodal.data.batch import Batch
from xmodal.distributed.environment import start
from xmodal.precision import choose_kernels
from xmodal.training.engine import close_engine, initialize_engine
from xmodal.training.stage_method import prepare_method


@dataclass(frozen=True)
class Towers:
    """A model, and how many pairs a step has."""

    name: str
    batch: int
    overrides: tuple[str, ...]


MODELS = (
    Towers("B/32", 2048, ()),
    Towers("B/16", 1024, ("method.image.name=vit_base_patch16_224",)),
    Towers(
        "L/14",
        320,
        (
            "method.image.name=vit_large_patch14_224",
            "method.text.width=768",
            "method.text.heads=12",
            "method.embedding=768",
        ),
    ),
)
TINY = Towers(
    "tiny",
    16,
    (
        "method.image.name=vit_tiny_patch16_224",
        "method.image.size=32",
        "method.image.options={patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2}",
        "method.text.layers=2",
        "method.text.width=64",
        "method.text.heads=2",
        "method.text.tokenizer.vocabulary=300",
        "method.embedding=64",
    ),
)
VARIANTS = {
    "plain": (),
    "compiled": ("training.compile=true",),
    "checkpointed": ("training.checkpoint_activations=blocks",),
}


def measure(bench: Bench) -> None:
    """Measure all models in each variant, the most telling first, then from the loader."""
    models = (TINY,) if bench.small else MODELS
    start()
    choose_kernels(deterministic=False)
    peak = peak_rate(bench, "fp32" if bench.small else "bf16")
    with ThreadPoolExecutor(len(models)) as beside:
        plans = {one: beside.submit(planned_memory, _keys(one), bench) for one in models}
        for variant in VARIANTS:
            for towers in models:
                name = f"{towers.name}, {variant}"
                with bench.attempt(name):
                    memory = _steps(towers, variant, name, peak, bench)
                    if variant == "plain":
                        record_planned(name, plans[towers].result(), memory, bench)
                gc.collect()  # engines are full of circular references
                torch.cuda.empty_cache()
            if variant == "compiled":
                name = f"{models[0].name}, from the loader"
                with bench.attempt(name):
                    _from_loader(models[0], name, bench)


def _steps(towers: Towers, variant: str, name: str, peak: float, bench: Bench) -> float:
    """Record steps over one batch that lies on the device, of which `peak` FLOP/s can be had.

    Returns the peak of memory, GiB.
    """
    recipe = read_recipe("clip", [*_keys(towers), *VARIANTS[variant]])
    stage, text, size = recipe.stages[0], recipe.method.text, towers.batch
    vocabulary = text.tokenizer.vocabulary
    batch = random_batch(size, recipe.method.image.size, vocabulary, text.context)
    method = build_method(recipe, vocabulary, torch.device(bench.device))
    flops = flops_of_step(method, batch).total
    prepare_method(
        method, stage, recipe.training, encoded=size, batch_size=size, freeze_batch_norm=False
    )
    engine = initialize_engine(method, stage, recipe.training, size, 1)
    step = partial(_step, engine, batch.to(torch.device(bench.device)))
    seconds = seconds_of(step, bench.device, repeats=3 if bench.small else 8)
    bench.record(f"{name}: samples", size / seconds, "samples/s")
    bench.record(f"{name}: MFU", flops / seconds / peak)
    memory = peak_of(step)
    bench.record(f"{name}: peak memory", memory, "GiB")
    close_engine(engine)
    return memory


def _step(engine: Any, batch: Batch) -> None:
    cached(engine, batch, batch.size)
    engine.step()


def _from_loader(towers: Towers, name: str, bench: Bench) -> None:
    """Record what the training command logs of its pace on shards of photographs."""
    shards = photograph_shards(bench.work, 64 if bench.small else 512)
    run = bench.work / "from_loader"
    steps = 6 if bench.small else 24
    words = [
        "launch/train.py",
        "clip",
        *_keys(towers),
        f"run={run}",
        f"data.train={shards}",
        f"data.workers={1 if bench.small else 14}",
        f"stages.0.length={steps} steps",
        f"training.log_every={steps // 3}",
        "evaluation.every=0",
    ]
    launched(*words)
    last = history(run)[-1]
    bench.record(f"{name}: samples", last["samples_per_second"], "samples/s")
    bench.record(f"{name}: wait for data", last["data_wait"], note="share of the time")
    bench.record(f"{name}: peak memory", last["peak_memory_gb"] * 1e9 / GIB, "GiB")
    if "mfu" in last:
        bench.record(f"{name}: MFU", last["mfu"])


def _keys(towers: Towers) -> tuple[str, ...]:
    training = ("training.precision=bf16", "training.zero=0")
    return (f"data.batch_size={towers.batch}", *training, *towers.overrides)
