"""GRU over words (VSE++: Faghri et al. 2018; PVSE: Song and Soleymani 2019)."""

from typing import ClassVar, Literal

from torch import nn

from xmodal.models.texts.config import RecurrentConfig
from xmodal.models.texts.recurrent import Recurrent


class GruConfig(RecurrentConfig):
    """A GRU over words learned with it (VSE++, PVSE), those that the shards' captions have."""

    kind: Literal["gru"] = "gru"
    builds: ClassVar[str] = "Gru"


class Gru(Recurrent):
    """The state of a GRU after the last word."""

    network = nn.GRU
    word_range = 0.1
