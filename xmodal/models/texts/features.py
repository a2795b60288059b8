"""Features of texts that the shards hold (KEY.text.npy)."""

from typing import Literal

from xmodal.data.tokenizers.bytes import BytesConfig
from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.models.config import FeaturesConfig, TextEncoderConfig


class TextFeaturesConfig(FeaturesConfig, TextEncoderConfig):
    """No encoder: the shards hold features of texts (KEY.text.npy), only the head learns."""

    kind: Literal["features"] = "features"

    @property
    def has_own_vocabulary(self) -> bool:
        """True: nothing reads tokens."""
        return True

    @property
    def context(self) -> int:
        """Tokens of captions, which are not encoded."""
        return 1

    @property
    def tokenizer(self) -> TokenizerConfig:
        """A tokenizer that reads nothing, so that every run has one."""
        return BytesConfig()
