"""`coco-5k`: the test split of COCO, whole."""

from typing import ClassVar, Literal

from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.karpathy import KarpathySplit


class Coco5kConfig(ProtocolConfig):
    """Recall on the 5000 test images of COCO, five captions each."""

    kind: Literal["coco-5k"] = "coco-5k"
    builds: ClassVar[str] = "Coco5k"


class Coco5k(KarpathySplit):
    """Recall on the test split of COCO."""

    name = "coco-5k"
    images = 5000
