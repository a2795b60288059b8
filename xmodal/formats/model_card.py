"""Model cards: README.md of an exported folder, as model hubs and their readers expect it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

_TAGS = {
    "open_clip": "open_clip",
    "hf": "transformers",
    "sentence-transformers": "sentence-transformers",
    "onnx": "onnx",
}
_USES = {
    "open_clip": """import open_clip

model, preprocess = open_clip.create_model_from_pretrained("local-dir:FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")""",
    "hf": """from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained("FOLDER"), AutoProcessor.from_pretrained("FOLDER")""",
    "sentence-transformers": """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("FOLDER")""",
}
# Folders of this machine before a name: to a reader of the card they say nothing.
_FOLDERS = re.compile(r"(?<![\w.:/~-])/(?:[^\s/'\"`|,;:]+/)+(?=[^\s/])")
_OWN = """import xmodal

model = xmodal.load("FOLDER")"""


def model_card(
    *,
    name: str,
    to: str,
    licence: str,
    recipe: str,
    data: Mapping[str, Any],
    metrics: Mapping[str, float],
    notes: Sequence[str],
) -> str:
    """Return the card of a model: what it is, its use, its data, its metrics, its recipe.

    `data` are the shards by their key in the recipe, `metrics` those of the run's results, named
    by their protocol; `notes` are lines on what was written. Of absolute paths the last name is
    left; addresses (`s3://…`) stay.
    """
    front = {
        "license": licence,
        "library_name": _TAGS.get(to, "xmodal"),
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["image-text retrieval", "xmodal"],
    }
    uses = [_OWN] if to not in _USES else [_USES[to], _OWN]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {name}",
        "A model of image-text similarity, trained with xmodal.",
        "## Use",
        *(f"```python\n{use}\n```" for use in uses),
        "## Data",
        _table(("shards", "place"), [(key, str(place)) for key, place in data.items() if place]),
        "## Metrics",
        _metrics(metrics),
        "## Recipe",
        f"```yaml\n{recipe.strip()}\n```",
    ]
    if notes:
        parts[3:3] = ["\n".join(f"- {note}" for note in notes)]
    return _FOLDERS.sub("", "\n\n".join(parts)) + "\n"


def _metrics(metrics: Mapping[str, float]) -> str:
    """Return tables of metrics, one a protocol, each beside that of chance where it has one."""
    if not metrics:
        return "Not measured."
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for full, value in metrics.items():
        protocol, _, name = full.partition("/")
        if not name.endswith("_chance"):
            chance = metrics.get(f"{full}_chance")
            shown = "" if chance is None else f"{chance:.4g}"
            rows.setdefault(protocol, []).append((name, f"{value:.4g}", shown))
    tables = [
        f"By the protocol `{protocol}`:\n\n" + _table(("metric", "value", "chance"), of_protocol)
        for protocol, of_protocol in rows.items()
    ]
    return "\n\n".join(tables)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
