import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
ROOT = Path(__file__).parents[1]
# Page faults of taking 8 MiB ten times more, after it was taken and freed fifty times: glibc finds
# room that fits an aligned block only after some rounds.
TAKEN_AGAIN = """
import resource, torch
from xmodal.freed_memory import give_back_freed_memory, keep_freed_memory

def take_and_free(times):
    for _ in range(times):
        torch.ones(2**21)
        {between}

keep_freed_memory()
take_and_free(50)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take_and_free(10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(between: str = "pass", **variables: str) -> int:
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    environment = {k: v for k, v in os.environ.items() if k not in names} | variables
    command = [sys.executable, "-c", TAKEN_AGAIN.format(between=between)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment, check=True
    )
    return int(result.stdout)


def test_freed_memory_is_taken_again_without_the_system() -> None:
    assert page_faults() < 100


def test_it_is_given_back_on_demand() -> None:
    # 2,048 pages of 4 KiB, ten times.
    assert page_faults("give_back_freed_memory()") >= 1000


@pytest.mark.parametrize(
    "variable",
    [
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
    ids=lambda variable: next(iter(variable)),
)
def test_settings_of_the_user_prevail(variable: dict[str, str]) -> None:
    assert page_faults(**variable) >= 1000
