"""Text encoders that read word by word: the base of the GRU and of the LSTM."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from xmodal.devices import copy_to, has_values
from xmodal.models.encoder import Encoder, Local, zero_padding
from xmodal.models.texts.config import RecurrentPooling


class Recurrent(Encoder):
    """The state after the last word (VSE++: Faghri et al. 2018), or those of both directions.

    Or, by `pooling` max, the greatest of each number of all words' states (InferSent: Conneau et
    al. 2017, arXiv 1705.02364, section 3.2.2).

    Its features of words are the words themselves, not states: PVSE attends to these (Song and
    Soleymani 2019).
    """

    skips_padding = True
    network: ClassVar[type[nn.GRU | nn.LSTM]]
    word_range: ClassVar[float | None] = None  # words begin uniform within ±this; None: normal

    def __init__(
        self,
        vocabulary: int,
        *,
        word: int = 300,
        width: int = 1024,
        layers: int = 1,
        bidirectional: bool = False,
        pooling: RecurrentPooling = "last",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.directions = 2 if bidirectional else 1
        self.features, self.local_features = self.directions * width, word
        self.words = nn.Embedding(vocabulary, word)
        if self.word_range is not None:
            nn.init.uniform_(self.words.weight, -self.word_range, self.word_range)
        self.dropout = nn.Dropout(dropout)
        self.states = self.network(
            word, width, layers, batch_first=True, bidirectional=bidirectional
        )

    def names_by_depth(self) -> list[list[str]]:
        """Return the names of the parameters by depth: words, then each layer of states."""
        names = [f"states.{name}" for name, _ in self.states.named_parameters()]
        # PyTorch names a layer's weights weight_ih_l0, bias_hh_l0_reverse, …
        numbers = [int(name.removesuffix("_reverse").rpartition("_l")[2]) for name in names]
        layers = [list[str]() for _ in range(self.states.num_layers)]
        for name, number in zip(names, numbers, strict=True):
            layers[number].append(name)
        return [["words.weight"], *layers]

    def forward(
        self, tokens: Tensor, mask: Tensor, lengths: Tensor | None = None, *, local: bool = False
    ) -> Tensor | Local:
        """Return features (batch, features) of tokens (batch, length) and mask (batch, length).

        Given `lengths` (batch,) int64 of the texts, on the host, nothing waits for the mask.
        """
        words = self.dropout(self.words(tokens))
        pooled = self.pool(words, mask, lengths)
        return Local(zero_padding(words, mask), mask, pooled) if local else pooled

    def pool(self, words: Tensor, mask: Tensor, lengths: Tensor | None) -> Tensor:
        """Return features (batch, features) of words (batch, length, word)."""
        if not has_values(mask):  # as if all were as long as the longest
            states, last = self.states(words)
            return states.amax(1) if self.pooling == "max" else self._beside(last)
        lengths = mask.sum(1).cpu() if lengths is None else lengths
        # In descending order, which packing would find too, but copy to the device and wait.
        lengths, order = lengths.sort(descending=True)
        order = copy_to(words.device, order)
        packed = pack_padded_sequence(words.index_select(0, order), lengths, batch_first=True)
        # Autocast would have cuDNN compute in float16, whose small gradients vanish.
        with torch.autocast(words.device.type, enabled=False):
            states, last = self.states(packed)
        pooled = _greatest(states) if self.pooling == "max" else self._beside(last)
        return pooled.index_select(0, order.argsort())

    def _beside(self, last: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Return the last states of the last layer (batch, features), those of the directions
        beside each other, of a GRU's, or of an LSTM's and its cells.
        """
        states = last[0] if isinstance(last, tuple) else last  # (layers * directions, batch, width)
        return states[-self.directions :].transpose(0, 1).flatten(1)


def _greatest(states: PackedSequence) -> Tensor:
    """Return the greatest of each number of the states of a text's words (batch, features)."""
    padded, _ = pad_packed_sequence(states, batch_first=True, padding_value=float("-inf"))
    return padded.amax(1)
