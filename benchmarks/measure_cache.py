"""One measurement of a training step whose batch is cut into micro-batches: prints a line of JSON.

    python -m benchmarks.measure_cache SIDE BATCH MICRO [--threads 1]

SIDE is `ours` (the gradient cache: the objective sees BATCH pairs), `naive` (plain accumulation of
gradients: the objective sees MICRO pairs at a time) or `whole` (BATCH pairs in memory at once).
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import hardware, measure
from xmodal.assembly.recipe import read_recipe
from xmodal.data.batch import Batch
from xmodal.data.tokenizers.byte_pair import BytePairConfig
from xmodal.distributed.environment import start
from xmodal.training.engine import initialize_engine
from xmodal.training.gradient_cache import GradientCache

RECIPES = Path(__file__).parents[1] / "launch" / "recipes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("side", choices=STEPS)
    parser.add_argument("batch", type=int)
    parser.add_argument("micro", type=int)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    start()
    recipe = read_recipe("quickstart", [f"data.batch_size={args.batch}"], RECIPES)
    text = recipe.method.text
    assert isinstance(text.tokenizer, BytePairConfig)
    torch.manual_seed(0)
    method = recipe.method.build(vocabulary=text.tokenizer.vocabulary)
    engine = initialize_engine(method, recipe.stages[0], recipe.training, args.batch, 1)
    batch = random_batch(
        args.batch, recipe.method.image.size, text.tokenizer.vocabulary, text.context
    )

    def step(batch: Batch) -> Tensor:
        value = STEPS[args.side](engine, batch.to(engine.device), args.micro)
        engine.step()
        return value

    step(batch.cut(args.micro)[0])  # what is done once is done
    print(json.dumps(measure(lambda: step(batch)) | {"hardware": hardware()}))


def random_batch(batch: int, size: int, vocabulary: int, length: int) -> Batch:
    return Batch(
        images=torch.randint(256, (batch, 3, size, size), dtype=torch.uint8),
        tokens=torch.randint(vocabulary, (batch, length)),
        token_mask=torch.ones(batch, length, dtype=torch.bool),
        image_ids=torch.arange(batch),
    )


def cached(engine: Any, batch: Batch, micro: int) -> Tensor:
    cache = GradientCache(engine, batch.cut(micro), (0, 0))
    loss = torch.stack(list(cache.forward().values())).sum()
    cache.backward(loss)
    return loss


def whole(engine: Any, batch: Batch, _: int) -> Tensor:
    assert batch.images is not None
    return cached(engine, batch, len(batch.images))


def accumulated(engine: Any, batch: Batch, micro: int) -> Tensor:
    parts, total = batch.cut(micro), torch.zeros(())
    for number, part in enumerate(parts, 1):
        losses = engine(lambda method, part=part: method.objective(method.encode(part)))
        loss = torch.stack(list(losses.values())).sum()
        engine.set_gradient_accumulation_boundary(number == len(parts))
        engine.backward(loss / len(parts))
        total = total + loss.detach().cpu() / len(parts)
    return total


STEPS: dict[str, Callable[[Any, Batch, int], Tensor]] = {
    "ours": cached,
    "naive": accumulated,
    "whole": whole,
}

if __name__ == "__main__":
    main()
