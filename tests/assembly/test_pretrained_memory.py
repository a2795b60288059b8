"""Memory that loading a pretrained model takes, beside the model's own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.pretrained_models import write_pretrained

WIDE = {"kind": "vit", "size": 24, "patch": 8, "width": 1024, "layers": 8, "heads": 8, "mlp": 4096}
LOAD = """
import sys
from pathlib import Path

import torch
from xmodal.assembly.pretrained import load_pretrained
from xmodal.assembly.recipe import Recipe, read_recipe

recipe = read_recipe(sys.argv[1], [])
method = recipe.method.build(vocabulary=300)
copy, seen = torch.Tensor.copy_, []

def copied(tensor, other):
    lines = Path("/proc/self/status").read_text().splitlines()
    seen.append(next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))
    return copy(tensor, other)

torch.Tensor.copy_ = copied
list(load_pretrained(method, recipe))
numbers = sum(one.nbytes for one in method.state_dict().values())
print(1024 * (max(seen) - seen[0]) / numbers)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_checkpoint_is_not_held_beside_the_model(tmp_path: Path, suffix: str) -> None:
    source = write_pretrained(tmp_path / "clip", image=WIDE)
    weights = source / "open_clip_model.safetensors"
    if suffix == "bin":
        torch.save(load_file(weights), source / "open_clip_pytorch_model.bin")
        weights.unlink()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{train: x}}\nmethod: {{kind: clip, pretrained: {source}}}\n")
    answer = subprocess.run(
        [sys.executable, "-c", LOAD, recipe], capture_output=True, text=True, check=True
    )
    # Of memory of its own: pages of a mapped file are the system's to drop.
    assert float(answer.stdout) < 0.25
