"""`css`: composed queries of CSS, any of whose targets counts."""

from typing import ClassVar, Literal

from xmodal.evaluation.protocols.composed import Composed
from xmodal.evaluation.protocols.config import ProtocolConfig


class CssConfig(ProtocolConfig):
    """Recall of composed queries of CSS."""

    kind: Literal["css"] = "css"
    builds: ClassVar[str] = "Css"


class Css(Composed):
    """Recall of composed queries of CSS."""

    name = "css"
    cutoffs = (1,)
    higher_is_better = tuple(f"recall@{k}" for k in cutoffs)
    reads = "target_ids"
