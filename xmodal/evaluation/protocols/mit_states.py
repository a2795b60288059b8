"""`mit-states`: composed queries of MIT-States, and images that share a word of the target's."""

from typing import ClassVar, Literal

import torch

from xmodal.evaluation.metrics.own_ranks import OwnRanks
from xmodal.evaluation.metrics.tiles import Choice
from xmodal.evaluation.protocols.composed import Composed
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics
from xmodal.evaluation.protocols.search import Search

WORDS = ("adjective", "noun")


class MitStatesConfig(ProtocolConfig):
    """Recall of composed queries of MIT-States, and of their adjective and noun alone."""

    kind: Literal["mit-states"] = "mit-states"
    builds: ClassVar[str] = "MitStates"


class MitStates(Composed):
    """Recall of targets, and of images with the target's adjective or noun."""

    name = "mit-states"
    cutoffs = (1, 5, 10)
    higher_is_better = (
        *(f"recall@{k}" for k in (1, 5, 10)),
        *(f"{word}/recall@{k}" for word in WORDS for k in (1, 5, 10)),
    )
    logged = ("recall@1", *(f"{word}/recall@1" for word in WORDS))
    reads = "target_ids"
    labels = len(WORDS)

    def recalls(self, search: Search, found: OwnRanks) -> Metrics:
        metrics = super().recalls(search, found)
        for place, word in enumerate(WORDS):
            of_word = search.ranks(_same_word(search, place), self.removed(search))
            metrics |= of_word.recalls(self.cutoffs, f"{self.name}/{word}/recall")
        return metrics


def _same_word(search: Search, place: int) -> Choice:
    """Return the images that have the target's label in a place of their labels."""
    codes: dict[str, int] = {}
    labels = search.gallery.labels
    of_images = [
        codes.setdefault(one[place], len(codes)) if len(one) > place else -1 for one in labels
    ]
    of_queries = [of_images[targets[0]] if targets else -2 for targets in search.targets]
    device = search.gallery.images.device
    images, queries = (torch.tensor(side, device=device) for side in (of_images, of_queries))
    return lambda rows: queries[rows, None] == images
