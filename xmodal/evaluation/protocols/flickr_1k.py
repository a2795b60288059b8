"""`flickr-1k`: the test split of Flickr30k, whole."""

from typing import ClassVar, Literal

from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.karpathy import KarpathySplit


class Flickr1kConfig(ProtocolConfig):
    """Recall on the 1000 test images of Flickr30k, five captions each."""

    kind: Literal["flickr-1k"] = "flickr-1k"
    builds: ClassVar[str] = "Flickr1k"


class Flickr1k(KarpathySplit):
    """Recall on the test split of Flickr30k."""

    name = "flickr-1k"
    images = 1000
