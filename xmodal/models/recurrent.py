"""Text encoders that read word by word: the GRU of VSE++ and PVSE, the LSTM of TIRG."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from xmodal.models.config import LstmConfig, RecurrentConfig
from xmodal.models.encoder import Encoder, Local, zero_padding


class Recurrent(Encoder):
    """The state after the last word (VSE++: Faghri et al. 2018), or those of both directions.

    Of an LSTM that is h, not the cell's (TIRG: Vo et al. 2019). Its features of words are the words
    themselves, not states: PVSE attends to these (Song and Soleymani 2019).
    """

    def __init__(self, config: RecurrentConfig, vocabulary: int) -> None:
        super().__init__()
        self.directions = 2 if config.bidirectional else 1
        self.features, self.local_features = self.directions * config.width, config.word
        self.words = nn.Embedding(vocabulary, config.word)
        network: type[nn.GRU | nn.LSTM] = nn.LSTM
        if not isinstance(config, LstmConfig):
            network = nn.GRU
            nn.init.uniform_(self.words.weight, -0.1, 0.1)
        self.dropout = nn.Dropout(config.dropout)
        self.states = network(
            config.word,
            config.width,
            config.layers,
            batch_first=True,
            bidirectional=config.bidirectional,
        )

    def forward(self, tokens: Tensor, mask: Tensor, *, local: bool = False) -> Tensor | Local:
        """Return features (batch, features) of tokens (batch, length) and mask (batch, length)."""
        words = self.dropout(self.words(tokens))
        lengths = mask.sum(1).cpu()
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        # Autocast would have cuDNN compute in float16, whose small gradients vanish.
        with torch.autocast(words.device.type, enabled=False):
            _, last = self.states(packed)  # (layers * directions, batch, width), of an LSTM two
        last = last[0] if isinstance(last, tuple) else last
        pooled = last[-self.directions :].transpose(0, 1).flatten(1)
        return Local(zero_padding(words, mask), mask, pooled) if local else pooled
