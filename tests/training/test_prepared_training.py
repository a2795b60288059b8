"""Steps of DeepSpeed with blocks that are computed again, on two ranks."""

import os
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.towers import two_towers
from tests.processes import on_ranks
from xmodal.data.batch import Batch
from xmodal.distributed.collectives import rank, world_size
from xmodal.models.prepare_blocks import Checkpointing, prepare_blocks
from xmodal.runs.deepspeed_adapter import weights_stay
from xmodal.training.config import StageConfig, TrainingConfig
from xmodal.training.ema import set_decay
from xmodal.training.engine import close_engine, initialize_engine
from xmodal.training.gradient_cache import GradientCache
from xmodal.training.parts import select_trained, set_modes

SHARE, STEPS = 4, 3
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
IMAGE = {
    "kind": "timm",
    "name": "vit_tiny_patch16_224",
    "size": 32,
    "patch_dropout": 0.25,
    "options": VIT | {"proj_drop_rate": 0.2},
}
WIDE = IMAGE | {"options": VIT | {"embed_dim": 320}}  # shared out
RESNET = {"kind": "timm", "name": "test_resnet", "size": 32}
TEXT = {"kind": "transformer", "width": 320, "layers": 2, "heads": 2, "dropout": 0.1}
STAGE: dict[str, Any] = {"optimizer": {"lr": 1e-3}}


def share(step: int) -> Batch:
    generator = torch.Generator().manual_seed(100 * step + rank())
    length = 5 + 2 * step
    return Batch(
        images=torch.randint(0, 256, (SHARE, 3, 32, 32), dtype=torch.uint8, generator=generator),
        tokens=torch.randint(1, 50, (SHARE, length), generator=generator),
        token_mask=torch.ones(SHARE, length, dtype=torch.bool),
        image_ids=torch.arange(SHARE) + SHARE * rank(),
    )


def trained(
    image: dict[str, Any], stage: dict[str, Any], zero: int, checkpointing: Checkpointing
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses a step and weights at the end."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing to compile
    os.environ["LOCAL_RANK"] = str(rank())
    config = StageConfig.model_validate(stage)
    method = two_towers(image, TEXT)
    select_trained(method, config.train, config.lock)
    set_modes(method, freeze_batch_norm=False)
    prepare_blocks(method, checkpointing, compiles=False, again=weights_stay)
    ranks = world_size()
    training = TrainingConfig.model_validate({"zero": zero})
    engine = initialize_engine(method, config, training, SHARE * ranks, ranks)
    losses = []
    for step in range(STEPS):
        set_decay(engine, config, step)
        cache = GradientCache(engine, share(step).cut(2), (7, step))
        loss = torch.stack(list(cache.forward().values())).sum()
        cache.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        state = {name: value.clone() for name, value in engine.module.state_dict().items()}
    close_engine(engine)
    return losses, state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "stage", "zero", "checkpointing"),
    [
        (IMAGE, STAGE, 0, "selective"),
        (RESNET, STAGE, 2, "blocks"),
        (RESNET, STAGE, 1, "selective"),
        (IMAGE, STAGE, 3, "blocks"),
        (
            WIDE | {"lora": {"rank": 2, "targets": ["attention", "mlp"], "dora": True}},
            STAGE,
            3,
            "blocks",
        ),
        (IMAGE, STAGE | {"lock": {"image": 2, "text": ["blocks.0"]}, "ema": {}}, 3, "blocks"),
    ],
    ids=["plain", "batch-norm", "batch-norm-selective", "shares", "adapters", "locks"],
)
def test_steps_are_those_of_plain_training(
    image: dict[str, Any], stage: dict[str, Any], zero: int, checkpointing: Checkpointing
) -> None:
    runs = partial(on_ranks, 2, trained, image, stage, zero)
    # Statistics over ranks differ in their last bits: supposedly summed in another order of memory.
    tolerance = 1e-6 if image is RESNET else 0.0
    for (losses, state), (others, its) in zip(runs("none"), runs(checkpointing), strict=True):
        assert others == pytest.approx(losses, rel=tolerance, abs=0)
        assert len(set(losses)) == STEPS
        assert its.keys() == state.keys()
        for name, value in state.items():
            torch.testing.assert_close(its[name], value, rtol=0, atol=300 * tolerance)
