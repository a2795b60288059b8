"""Known GPUs: what they compute, hold and move at most, by their makers' data sheets."""

from collections.abc import Mapping
from dataclasses import dataclass

GB, GIB, TERA = 1e9, 2**30, 1e12


@dataclass(frozen=True)
class GPU:
    """Limits of a GPU. Peaks are dense: without the factor of two for sparse matrices."""

    name: str  # as on the command line: h100-80
    words: tuple[str, ...]  # all of them are in the name that its driver gives
    memory: float  # bytes; about one percent of them is taken before a program starts
    peak: Mapping[str, float]  # FLOP/s by precision: fp32, and where it has it tf32 and bf16
    bandwidth: float  # bytes per second of its memory
    link: float  # bytes per second to the other GPUs of its node, each way


def named(name: str) -> GPU | None:
    """Return the GPU of a short name (`h100-80`)."""
    return next((gpu for gpu in GPUS if gpu.name == name.lower()), None)


def of_driver(name: str) -> GPU | None:
    """Return the GPU of its driver's name (`NVIDIA H100 80GB HBM3`)."""
    upper = name.upper().replace("-", " ").split()
    return next((gpu for gpu in GPUS if set(gpu.words) <= set(upper)), None)


def variants(name: str) -> list[str]:
    """Return the short names of GPUs that a shorter one (`a100`) may mean; none if it is one."""
    names = [gpu.name for gpu in GPUS]
    short = name.lower()
    return [] if short in names else [one for one in names if one.startswith(f"{short}-")]


def _gpu(
    name: str,
    words: str,
    *,
    gib: float,
    fp32: float,
    tf32: float = 0,
    bf16: float = 0,
    bandwidth: float,
    link: float,
) -> GPU:
    """Return a GPU of teraFLOP/s, GiB and GB/s."""
    rates = {"fp32": fp32, "tf32": tf32, "bf16": bf16}
    peak = {precision: rate * TERA for precision, rate in rates.items() if rate}
    return GPU(name, tuple(words.split()), gib * GIB, peak, bandwidth * GB, link * GB)


# Of two that match, the first one counts. Links: NVLink, half of what data sheets add up over both
# directions; else PCI Express.
GPUS = (
    _gpu("gb200", "GB200", gib=186, fp32=80, tf32=1250, bf16=2500, bandwidth=8000, link=900),
    _gpu("b200", "B200", gib=180, fp32=75, tf32=1125, bf16=2250, bandwidth=7700, link=900),
    _gpu("gh200-96", "GH200", gib=96, fp32=67, tf32=494, bf16=989, bandwidth=4000, link=450),
    _gpu("h200", "H200", gib=141, fp32=67, tf32=494, bf16=989, bandwidth=4800, link=450),
    _gpu("h100-nvl", "H100 NVL", gib=94, fp32=60, tf32=417, bf16=835, bandwidth=3900, link=300),
    _gpu("h100-pcie", "H100 PCIE", gib=80, fp32=51, tf32=378, bf16=756, bandwidth=2000, link=64),
    _gpu("h100-80", "H100", gib=80, fp32=67, tf32=494, bf16=989, bandwidth=3350, link=450),
    _gpu("a100-40", "A100 40GB", gib=40, fp32=19.5, tf32=156, bf16=312, bandwidth=1555, link=300),
    _gpu("a100-80", "A100", gib=80, fp32=19.5, tf32=156, bf16=312, bandwidth=2039, link=300),
    _gpu("a40", "A40", gib=48, fp32=37.4, tf32=74.8, bf16=149.7, bandwidth=696, link=32),
    _gpu("a30", "A30", gib=24, fp32=10.3, tf32=82, bf16=165, bandwidth=933, link=32),
    _gpu("a10g", "A10G", gib=24, fp32=35, tf32=35, bf16=70, bandwidth=600, link=32),
    _gpu("a10", "A10", gib=24, fp32=31.2, tf32=62.5, bf16=125, bandwidth=600, link=32),
    _gpu("l40s", "L40S", gib=48, fp32=91.6, tf32=183, bf16=362, bandwidth=864, link=32),
    _gpu("l40", "L40", gib=48, fp32=90.5, tf32=90.5, bf16=181, bandwidth=864, link=32),
    _gpu("l4", "L4", gib=24, fp32=30.3, tf32=60, bf16=121, bandwidth=300, link=32),
    _gpu("v100-32", "V100 32GB", gib=32, fp32=15.7, bandwidth=900, link=150),
    _gpu("v100-16", "V100", gib=16, fp32=15.7, bandwidth=900, link=150),
    _gpu("t4", "T4", gib=16, fp32=8.1, bandwidth=320, link=16),
    _gpu(
        "rtx-a6000", "RTX A6000", gib=48, fp32=38.7, tf32=77.4, bf16=154.8, bandwidth=768, link=32
    ),
    _gpu("rtx-6000-ada", "6000 ADA", gib=48, fp32=91.1, tf32=182, bf16=364, bandwidth=960, link=32),
    _gpu(
        "rtx-5090", "RTX 5090", gib=32, fp32=104.8, tf32=104.8, bf16=209.5, bandwidth=1792, link=64
    ),
    _gpu("rtx-4090", "RTX 4090", gib=24, fp32=82.6, tf32=82.6, bf16=165.2, bandwidth=1008, link=32),
    _gpu("rtx-3090", "RTX 3090", gib=24, fp32=35.6, tf32=35.6, bf16=71, bandwidth=936, link=32),
)
