"""`aro`: an image's own caption among those of another order, relation or attribution.

Yuksekgonul et al. 2023, arXiv 2210.01936. What they print is the mean over relations, or over
pairs of attributes: `aro/category_mean`; of the sets of order `aro/accuracy`.
"""

from typing import ClassVar, Literal

from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.false_captions import FalseCaptions


class AroConfig(ProtocolConfig):
    """Accuracy of the choice of ARO's captions, by relation or attributes."""

    kind: Literal["aro"] = "aro"
    builds: ClassVar[str] = "Aro"


class Aro(FalseCaptions):
    """Accuracy of all captions, of each relation or pair of attributes, and the mean of these."""

    name = "aro"
