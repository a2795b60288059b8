"""Write the versions of the libraries of this environment, which has none of xmodal."""

import argparse
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
folder = parser.parse_args().folder
assert find_spec("xmodal") is None
names = ("open_clip_torch", "sentence-transformers", "transformers", "torch")
(folder / "versions.txt").write_text("\n".join(f"{name}=={version(name)}" for name in names))
