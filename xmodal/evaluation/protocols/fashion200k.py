"""`fashion200k`: composed queries of Fashion200k, any of whose targets counts."""

from typing import ClassVar, Literal

from xmodal.evaluation.protocols.composed import Composed
from xmodal.evaluation.protocols.config import ProtocolConfig


class Fashion200kConfig(ProtocolConfig):
    """Recall of composed queries of Fashion200k."""

    kind: Literal["fashion200k"] = "fashion200k"
    builds: ClassVar[str] = "Fashion200k"


class Fashion200k(Composed):
    """Recall of composed queries of Fashion200k."""

    name = "fashion200k"
    cutoffs = (1, 10, 50)
    higher_is_better = tuple(f"recall@{k}" for k in cutoffs)
    reads = "target_ids"
