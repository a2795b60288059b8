"""GPUs are known by the names of their drivers and by short ones."""

import pytest

from xmodal.costs.hardware import GPUS, named, of_driver


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", "gh200-96"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla V100-SXM2-16GB", "v100-16"),
        ("Tesla V100-SXM2-32GB", "v100-32"),
        ("Tesla T4", "t4"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_a_driver_s_name_finds_its_gpu(driver: str, name: str) -> None:
    gpu = of_driver(driver)
    assert gpu is not None
    assert gpu.name == name
    assert named(name) is gpu


def test_an_unknown_name_finds_nothing() -> None:
    assert of_driver("AMD EPYC") is None
    for name in ("h1000", "h100-81", "h100", "a10-48", "l40-s", "NVIDIA H100 80GB HBM3"):
        assert named(name) is None


def test_limits_are_in_flops_bytes_and_seconds() -> None:
    h100 = named("h100-80")
    assert h100 is not None
    assert h100.peak["bf16"] == 989e12
    assert (h100.memory, h100.bandwidth, h100.link) == (80 * 2**30, 3350e9, 450e9)


def test_narrower_numbers_are_never_slower() -> None:
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS:
        rates = [gpu.peak[one] for one in ("fp32", "tf32", "bf16") if one in gpu.peak]
        assert rates == sorted(rates), gpu.name
