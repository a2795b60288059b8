"""DeepSpeed gets the options of `training.zero`, its own defaults where a stage stands alone."""

from typing import Any

import pytest

from xmodal.training.config import TrainingConfig
from xmodal.training.zero import ZeroConfig


def options(on_gpus: bool, **given: Any) -> dict[str, Any]:
    return ZeroConfig.model_validate(given).options(on_gpus=on_gpus)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_stage_alone_is_deepspeed_s_on_a_cpu(stage: int) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    assert TrainingConfig.model_validate({"zero": stage}).zero == ZeroConfig(stage=stage)  # type: ignore[arg-type]
    theirs = DeepSpeedZeroConfig(stage=stage)  # type: ignore[arg-type]
    assert DeepSpeedZeroConfig(**options(on_gpus=False, stage=stage)) == theirs


def test_reduction_overlaps_on_gpus_in_small_buckets() -> None:
    for stage in (0, 1, 2, 3):
        found = options(on_gpus=True, stage=stage)
        # Of the first two, DeepSpeed's own is not used.
        assert (found["overlap_comm"], found["reduce_bucket_size"]) == (stage > 1, 25_000_000)
        assert ZeroConfig.model_validate({"stage": stage}).overlaps(on_gpus=True)
    assert options(on_gpus=True, stage=1, overlap=False)["reduce_bucket_size"] == 500_000_000
    assert options(on_gpus=False, stage=2, overlap=True, bucket_size=9)["reduce_bucket_size"] == 9
    offloaded = ZeroConfig.model_validate({"stage": 1, "offload_optimizer": "cpu"})
    assert not offloaded.overlaps(on_gpus=True)


def test_offload_is_passed_through() -> None:
    found = options(
        on_gpus=True,
        stage=3,
        offload_optimizer="cpu",
        offload_parameters={"device": "cpu", "pin_memory": False},
        secondary_partition=8,
    )
    assert found["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert found["offload_param"] == {"device": "cpu", "pin_memory": False}
    assert found["zero_hpz_partition_size"] == 8
    disk = {"device": "nvme", "path": "/local"}  # a rank's folder there is the engine's matter
    both = {"offload_optimizer": disk, "offload_parameters": disk}
    found = options(on_gpus=True, stage=3, sub_group_size=9, **both)
    assert found["sub_group_size"] == 9
    assert found["offload_optimizer"] == {"device": "nvme", "pin_memory": True}
    assert found["offload_param"] == {"device": "cpu", "pin_memory": False}  # files, mapped
