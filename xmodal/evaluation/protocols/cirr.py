"""`cirr`: composed queries of CIRR, among all images and among those that look alike."""

from typing import ClassVar, Literal

from xmodal.evaluation.metrics.own_ranks import OwnRanks
from xmodal.evaluation.metrics.tiles import Choice
from xmodal.evaluation.protocols.composed import Composed
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics
from xmodal.evaluation.protocols.search import Search

SUBSET_CUTOFFS = (1, 2, 3)


class CirrConfig(ProtocolConfig):
    """Recall of composed queries of CIRR, and in the subset that looks like the source."""

    kind: Literal["cirr"] = "cirr"
    builds: ClassVar[str] = "Cirr"


class Cirr(Composed):
    """Recall among all images, and among the members of the source's group."""

    name = "cirr"
    cutoffs = (1, 5, 10, 50)
    higher_is_better = (
        *(f"recall@{k}" for k in (1, 5, 10, 50)),
        *(f"recall_subset@{k}" for k in SUBSET_CUTOFFS),
    )
    reads = "members"

    def recalls(self, search: Search, found: OwnRanks) -> Metrics:
        subset = search.ranks(search.relevant, self.not_member(search))
        return super().recalls(search, found) | subset.recalls(
            SUBSET_CUTOFFS, f"{self.name}/recall_subset"
        )

    def not_member(self, search: Search) -> Choice:
        """Return the images that are not in the subsets of some queries."""
        removed = self.removed(search)
        return lambda rows: removed(rows) | ~search.is_member(rows)
