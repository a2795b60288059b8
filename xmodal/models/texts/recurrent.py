"""Text encoders that read word by word: the base of the GRU and of the LSTM."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from xmodal.devices import copy_to, has_values
from xmodal.models.encoder import Encoder, Local, zero_padding


class Recurrent(Encoder):
    """The state after the last word (VSE++: Faghri et al. 2018), or those of both directions.

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
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
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
        last = self._last_states(words, mask, lengths)  # (layers * directions, batch, width)
        pooled = last[-self.directions :].transpose(0, 1).flatten(1)
        return Local(zero_padding(words, mask), mask, pooled) if local else pooled

    def _last_states(self, words: Tensor, mask: Tensor, lengths: Tensor | None) -> Tensor:
        if not has_values(mask):  # as if all were as long as the longest
            return _hidden(self.states(words)[1])
        lengths = mask.sum(1).cpu() if lengths is None else lengths
        # In descending order, which packing would find too, but copy to the device and wait.
        lengths, order = lengths.sort(descending=True)
        order = copy_to(words.device, order)
        packed = pack_padded_sequence(words.index_select(0, order), lengths, batch_first=True)
        # Autocast would have cuDNN compute in float16, whose small gradients vanish.
        with torch.autocast(words.device.type, enabled=False):
            last = _hidden(self.states(packed)[1])
        return last.index_select(1, order.argsort())


def _hidden(states: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Return the states of a GRU, and those of an LSTM without its cells."""
    return states[0] if isinstance(states, tuple) else states
