"""Sources of images and texts: the interface to the builder, and lookup by name.

A source is one file: a configuration that registers its name and has its options as fields, and the
function that reads it.

    class SketchesConfig(SourceConfig):
        kind: Literal["sketches"] = "sketches"
        seed: int = 0
        layout: ClassVar[str] = "drawings/*.png, sentences.json"
        builds: ClassVar[str] = "read"

    def read(root: Path, *, seed: int = 0) -> Splits:
        return {"train": lambda: Split([Item(…), …])}

The first line of its docstring describes the data.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from xmodal.components.component import Component
from xmodal.components.declared import declare
from xmodal.components.validation import nearest, validate
from xmodal.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# An image: its file, or something picklable that returns the bytes of one when it is called, or
# raises `Skipped`.
Picture = Path | Callable[[], bytes]


@dataclass(frozen=True)
class Item:
    """An image and its captions, or features computed from them, or both.

    `image_features` are (features,) or (regions, features), `text_features` (captions, features);
    they are stored in float32. An item with features may lack the image or captions.
    `false_captions` has for each caption those that are false of the image. `details` are further
    fields of the sample's JSON, for protocols.
    """

    image_id: str
    picture: Picture | None
    captions: Sequence[str] = ()
    labels: Sequence[str] = ()
    image_features: "np.ndarray | None" = None
    text_features: "np.ndarray | None" = None
    false_captions: Sequence[Sequence[str]] = ()
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.image_id

    @property
    def pictures(self) -> dict[str, Picture]:
        """Images by the role in their file names."""
        return {} if self.picture is None else {"": self.picture}

    @property
    def features(self) -> "dict[str, np.ndarray]":
        """Features by the role in their file names."""
        both = {"image.": self.image_features, "text.": self.text_features}
        return {role: array for role, array in both.items() if array is not None}

    @property
    def texts(self) -> Sequence[str]:
        return self.captions

    @property
    def record(self) -> dict[str, object]:
        """Contents of the sample's JSON file."""
        record: dict[str, object] = {"image_id": self.image_id, "captions": list(self.captions)}
        if self.labels:
            record["labels"] = list(self.labels)
        if self.false_captions:
            record["false_captions"] = [list(one) for one in self.false_captions]
        return {**record, **self.details}


@dataclass(frozen=True)
class Composed:
    """Composed query: a source image, a modification text, and the target, if it is published.

    `details` are further fields of the sample's JSON, for protocols.
    """

    source_id: str
    source: Picture
    modification: str
    target_id: str | None
    target: Picture | None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.source_id} → {self.target_id or self.modification}"

    @property
    def pictures(self) -> dict[str, Picture]:
        """Images by the role in their file names."""
        pictures = {"source.": self.source, "target.": self.target}
        return {role: picture for role, picture in pictures.items() if picture is not None}

    @property
    def features(self) -> "dict[str, np.ndarray]":
        return {}

    @property
    def texts(self) -> Sequence[str]:
        return [self.modification]

    @property
    def record(self) -> dict[str, object]:
        """Contents of the sample's JSON file."""
        return {
            **self.details,
            "modification": self.modification,
            "source_id": self.source_id,
        } | ({} if self.target_id is None else {"target_id": self.target_id})


# For each image id, one list of image ids a caption: all that it is true of, itself included.
Relevance = Mapping[str, Sequence[Sequence[str]]]


# A sample that cannot be used: its name, the cause (one of a few) and the detail found.
SkippedSample = tuple[str, str, str]


@dataclass(frozen=True)
class Split:
    """Samples of a split, in order, and the relevance of their captions, if known.

    `skipped` lists what the source itself could not use. The images of a `gallery`
    may have no captions. `notes` are lines to print during the build. Image files are read only
    `below` this folder, if given.
    """

    items: Sequence[Item | Composed]
    relevance: Relevance | None = None
    skipped: Sequence[SkippedSample] = ()
    gallery: bool = False
    notes: Sequence[str] = ()
    below: Path | None = None


class MissingError(UserError):
    """A file or folder of the expected layout is missing."""


def require(root: Path, *names: str) -> Path:
    """Return the first existing one of `names` below `root`; raises `MissingError`."""
    for name in names:
        if (root / name).exists():
            return root / name
        if (root / name).is_symlink():
            target = (root / name).readlink()
            raise MissingError(f"{root / name} is a link to {target}, which is not there")
    raise MissingError(f"{root} has no {' or '.join(names)}")


Splits = dict[str, Callable[[], Split]]
Reads = Literal["folder", "folder or table", "nothing"]

_ARCHIVES = {".gz", ".tgz", ".tar", ".zip", ".bz2", ".xz", ".zst", ".7z", ".rar"}


class SourceConfig(Component):
    """A data set that can be converted into shards.

    The first line of its docstring describes the data; the fields are its options, of type
    bool, int, float or str. It builds, from the folder `root` (a generator: from nothing) and the
    fields, a mapping of each split's name to a function that makes the split. Only this function
    requires the split's files.
    """

    family: ClassVar[str] = "source"
    layout: ClassVar[str]  # what the folder holds and what the splits are, for users
    reads: ClassVar[Reads] = "folder"  # nothing: the data set is generated


@dataclass(frozen=True)
class Source:
    """Data set that can be converted, found by its name."""

    name: str
    config: type[SourceConfig]

    @property
    def summary(self) -> str:
        return " ".join(inspect.cleandoc(self.config.__doc__ or "").partition("\n\n")[0].split())

    @property
    def layout(self) -> str:
        return inspect.cleandoc(self.config.layout)

    @property
    def is_generator(self) -> bool:
        return self.config.reads == "nothing"

    @property
    def defaults(self) -> dict[str, Any]:
        """The options of the source and their defaults."""
        fields = self.config.model_fields.items()
        return {name: field.default for name, field in fields if name != "kind"}

    def read(self, root: Path | None, options: Mapping[str, object]) -> Splits:
        """Find the splits in the folder `root`; raises `UserError` for missing files."""
        unknown = sorted(set(options) - set(self.defaults))
        if unknown:
            known = ", ".join(self.defaults) or "none"
            raise UserError(f"unknown option {unknown[0]} of {self.name}; its options are: {known}")
        config = validate(self.config, dict(options), self.name)
        if self.is_generator:
            if root is not None:
                raise UserError(f"{self.name} is generated and reads no folder: remove --from")
            found: Splits = config.build()
            return found
        with self._explained():
            splits: Splits = config.build(self._checked(root))
        # What a split needs is required when it is made.
        return {name: self._explained()(make) for name, make in splits.items()}

    def _checked(self, root: Path | None) -> Path:
        takes_files = self.config.reads == "folder or table"
        expected = "the folder or table" if takes_files else "the folder"
        if root is None:
            raise UserError(f"--from is missing: {expected} of {self.name}")
        if not root.exists():
            raise UserError(f"--from {root}: no such file or folder")
        if root.is_file() and root.suffix.lower() in _ARCHIVES:
            raise UserError(f"--from {root} is an archive: unpack it and name its folder")
        if not root.is_dir() and not (takes_files and root.is_file()):
            raise UserError(f"--from {root} is not a folder: {self.name} wants {expected}")
        return root

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except MissingError as error:
            raise UserError(f"{error}; {self.hint}") from None

    @property
    def hint(self) -> str:
        """Advice on the expected layout, for an error."""
        return f"`python -m shards sources {self.name}` prints the layout it expects"


def source_names() -> list[str]:
    """Return the names of all sources, including those of imported plugins."""
    declare("shards.sources")
    return sorted(SourceConfig.kinds)


def find_source(name: str) -> Source:
    """Return a source by name; raises `UserError` if it is unknown."""
    names = source_names()
    if not SourceConfig.is_known(name):
        hint = f"{nearest(name, names)}; the sources are: {', '.join(names)}"
        raise UserError(f"unknown source {name!r}{hint}; for one of a plugin give --plugin MODULE")
    config = SourceConfig.kinds[name]
    assert issubclass(config, SourceConfig)
    return Source(name, config)


def check_generated(name: str) -> None:
    """Raise `UserError` unless `data.build` of a recipe names a source that needs no folder."""
    generated = [one for one in source_names() if find_source(one).is_generator]
    if SourceConfig.is_known(name) and find_source(name).is_generator:
        return
    what = "reads a folder" if SourceConfig.is_known(name) else "is no source"
    raise UserError(
        f"data.build: {name} {what}{nearest(name, generated)}; sources that need no folder: "
        + ", ".join(generated)
    )
