"""LSTM over words (TIRG: Vo et al. 2019)."""

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import nn

from xmodal.models.texts.config import RecurrentConfig
from xmodal.models.texts.recurrent import Recurrent


class LstmConfig(RecurrentConfig):
    """An LSTM over words learned with it (TIRG), those that the shards' captions have."""

    kind: Literal["lstm"] = "lstm"
    word: PositiveInt = Field(512, description="width of a word")
    width: PositiveInt = Field(512, description="width of the state, of each direction")
    builds: ClassVar[str] = "Lstm"


class Lstm(Recurrent):
    """The state h of an LSTM, not the cell's, after the last word."""

    network = nn.LSTM

    def __init__(
        self, vocabulary: int, *, word: int = 512, width: int = 512, **others: Any
    ) -> None:
        super().__init__(vocabulary, word=word, width=width, **others)
