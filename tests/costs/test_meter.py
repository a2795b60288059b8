"""The figures of a lap: from the batch, the number of ranks, and counted FLOPs."""

from typing import Any, cast

import pytest
import torch

from xmodal.costs import meter
from xmodal.costs.flops import Flops, StepFlops
from xmodal.costs.meter import StepMeter
from xmodal.data.batch import Batch
from xmodal.distributed.environment import Environment

BATCH = Batch(images=torch.zeros(4, 3, 2, 2, dtype=torch.uint8))
CPU = torch.device("cpu")


class Fixed:
    """FLOPs that are the same for every batch."""

    def of(self, batch: Batch, size: int) -> Flops:
        assert (batch.size, size) == (4, 8)
        return Flops({"image": 2e12}, {"image": 4e12})


class Unknown:
    """FLOPs of an encoder that looks at values."""

    def of(self, *_: object) -> Flops:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors\nmore")


def meter_of(flops: Any, rank: int = 0) -> StepMeter:
    return StepMeter(cast(StepFlops, flops), Environment(rank, 2, CPU), 8, bf16=False)


def lap_of(one: StepMeter, steps: int = 3) -> dict[str, float]:
    for _ in range(steps):
        with one.waiting():
            pass
        with one.step(BATCH):
            pass
    return one.lap(5)


def test_rates_are_of_all_ranks_and_of_each() -> None:
    lap = lap_of(meter_of(Fixed()))
    rate = lap["samples_per_second"]
    assert lap["samples_per_second_per_device"] == rate / 2
    # 6 TFLOP a step of 8 samples, on two devices.
    assert lap["tflops_per_device"] == pytest.approx(rate / 8 * 6 / 2)
    assert sum(share for name, share in lap.items() if name.startswith("time/")) == pytest.approx(1)
    assert "mfu" not in lap  # of a CPU, whose peak nobody states
    assert lap["peak_memory_gb"] > 0.05


def test_steps_that_are_logged_at_once_share_a_lap() -> None:
    one = meter_of(Fixed())
    assert lap_of(one) == one.lap(5)
    assert lap_of(one) == one.lap(4)


def test_mfu_is_the_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    one = meter_of(Fixed())
    monkeypatch.setattr(one, "peak", 989e12)
    lap = lap_of(one)
    assert lap["mfu"] == pytest.approx(lap["tflops_per_device"] / 989)


@pytest.mark.parametrize(
    ("name", "bf16", "peak", "warns"),
    [
        ("NVIDIA H200", True, 989e12, False),
        ("NVIDIA H200", False, 67e12, False),
        ("Tesla V100-SXM2-16GB", True, None, True),
        ("NVIDIA Next 1", True, None, True),
    ],
)
def test_the_peak_is_that_of_the_gpu_and_the_precision(
    name: str, bf16: bool, peak: float | None, warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    found, warnings = meter._peak(torch.device("cuda"), bf16=bf16)
    assert found == peak
    assert [name in line for line in warnings] == [True] * warns


def test_flops_that_cannot_be_counted_are_said_once_and_stop_nothing() -> None:
    one = meter_of(Unknown())
    assert "tflops_per_device" not in lap_of(one)
    (line,) = one.warnings()
    assert line.startswith("warning: the FLOPs of a step cannot be counted (RuntimeError: Tensor.")
    assert "\n" not in line
    lap_of(one)
    assert one.warnings() == []


def test_a_rank_that_logs_nothing_counts_nothing() -> None:
    assert "tflops_per_device" not in lap_of(meter_of(Unknown(), rank=1))
