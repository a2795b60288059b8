"""Sources of models, by what `xmodal.load` takes: runs, exported folders, those of other libraries,
names at the hub. Nothing of their weights is read here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.errors import UserError
from xmodal.hub import HUB
from xmodal.runs.recipe_file import RECIPE
from xmodal.runs.run import Run

if TYPE_CHECKING:
    import torch

    from xmodal.assembly.model import Model
    from xmodal.runs.averages import Weights


@dataclass(frozen=True)
class ModelSource:
    """A model by what `xmodal.load` takes; of a run, the checkpoint by its own name."""

    source: str
    checkpoint: str | None
    weights: "Weights | None"
    recipe: Recipe | None  # where it is a run, or was exported from one
    width: int | None = None  # that its embeddings are cut to

    @property
    def run(self) -> Run | None:
        """The run that it is a checkpoint of, if it is of one."""
        return None if self.checkpoint is None else Run(self.source)

    @property
    def path(self) -> Path:
        """Folder of the checkpoint, or of the model; of one at the hub, its name as a path."""
        return (
            Path(self.source) if self.run is None else self.run.checkpoints / str(self.checkpoint)
        )

    def load(self, device: "torch.device") -> "Model":
        """Load the model."""
        from xmodal.assembly.model import load

        return load(
            self.source,
            checkpoint=self.checkpoint or "latest",
            weights=self.weights,
            width=self.width,
            device=device,
        )


def find_model(
    source: str, checkpoint: str, weights: "Weights | None", width: int | None = None
) -> ModelSource:
    """Find a model without reading its weights; raises `UserError` where there is none."""
    recipe = load_recipe(source) if (Path(source) / RECIPE).is_file() else None
    if is_folder_of_model(source):
        if checkpoint != "latest" or weights:
            raise UserError(f"{source} is no run folder: it has no checkpoint or weights to choose")
        return ModelSource(source, None, None, recipe, width)
    recipe = recipe or load_recipe(source)  # which says what is missing
    name = Run(source).find_checkpoint(checkpoint).name
    return ModelSource(source, name, weights, recipe, width)


def is_folder_of_model(source: str | Path) -> bool:
    """Return whether a source is something else than a run: an exported folder, that of another
    library, a file, or, by its prefix alone, a name at the hub.
    """
    path = Path(source)
    if str(source).startswith(HUB) or path.is_file():
        return True
    is_run = (path / RECIPE).exists() or Run(path).checkpoints.exists()
    return is_exported(path) or (path.is_dir() and any(path.iterdir()) and not is_run)


def is_exported(path: Path) -> bool:
    """Return whether a folder is one of `--format xmodal` or `onnx`."""
    if not (path / RECIPE).is_file() or Run(path).checkpoints.exists():
        return False
    return any(path.glob("*.onnx")) or any(path.glob("model*.safetensors"))
