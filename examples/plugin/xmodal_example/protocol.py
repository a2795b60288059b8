"""An evaluation protocol: of two captions, how often the image prefers its own."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from rich.table import Table
from torch import Tensor

from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics, Protocol
from xmodal.evaluation.report.tables import add_columns, new_table

DIRECTIONS = {"image_to_text": "image → text", "text_to_image": "text → image"}
BLOCK = 1024  # rows of scores in memory at a time


class TwoChoiceConfig(ProtocolConfig):
    """Percentage of correct choices between a relevant item and another one."""

    # The name in `evaluation.protocols` and after `--protocol`.
    kind: Literal["two-choice"] = "two-choice"
    builds: ClassVar[str] = "TwoChoice"


class TwoChoice(Protocol):
    """Two-alternative forced choice: an item's match against each other item in turn.

    Of an image and its first caption. Ties count half, so that a method without any knowledge has
    50 percent whatever it answers.
    """

    name = "two-choice"
    # The metrics, without the protocol's name; the first is the headline. Each may choose the best
    # checkpoint (`checkpoints.best`) or be what a sweep maximises.
    higher_is_better = ("accuracy", *(f"{one}/accuracy" for one in DIRECTIONS))

    def measure(self, context: EvaluationContext) -> Metrics:
        """Return accuracies in percent. Every rank has all embeddings, and computes the same."""
        pairs = context.gallery.first_captions(1)
        images, texts, score = pairs.images[pairs.owners], pairs.texts, context.method.score
        found = {
            "image_to_text": _accuracy(images, lambda rows: score(images[rows], texts)),
            "text_to_image": _accuracy(texts, lambda rows: score(images, texts[rows]).T),
        }
        metrics = {f"{one}/accuracy": value for one, value in found.items()}
        metrics["accuracy"] = sum(found.values()) / len(found)
        # What a random order reaches is beside each metric as NAME_chance.
        metrics |= {f"{one}_chance": 50.0 for one in metrics}
        metrics["pairs"] = float(len(texts))
        return {f"{self.name}/{one}": value for one, value in metrics.items()}

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        """Return the table for the terminal; the base class has a plain one for any protocol."""
        table = new_table(f"{name}: {metrics[f'{name}/pairs']:,.0f} pairs")
        add_columns(table, "", "right, %", "chance")
        for direction, label in DIRECTIONS.items():
            value = metrics[f"{name}/{direction}/accuracy"]
            table.add_row(label, f"{value:.1f}", "50.0")
        return table


def _accuracy(queries: Tensor, scores_of: Callable[[Tensor], Tensor]) -> float:
    """Return the percentage of right choices of queries (n, …); `scores_of` rows is (rows, n)."""
    right = 0.0
    for rows in torch.arange(len(queries), device=queries.device).split(BLOCK):
        scores = scores_of(rows).double()
        own = scores.gather(1, rows[:, None])
        right += float((own > scores).sum() + ((own == scores).sum() - len(rows)) / 2)
    return 100 * right / (len(queries) * (len(queries) - 1))
