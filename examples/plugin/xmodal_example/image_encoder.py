"""An image encoder: a few convolutions, trained from scratch."""

from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from xmodal.models.config import ImageEncoderConfig
from xmodal.models.encoder import Encoder, Local, masked_local


class ConvNetConfig(ImageEncoderConfig):
    """A small convolutional network."""

    kind: Literal["convnet"] = "convnet"
    # Every image encoder has a size: images are resized to it, or cropped.
    size: PositiveInt = Field(32, description="height and width of its input, pixels")
    width: PositiveInt = Field(32, description="channels of the first layer; each layer doubles it")
    layers: PositiveInt = Field(3, description="layers, each of which halves the resolution")
    builds: ClassVar[str] = "ConvNet"
    # Fields that the class does not take: the network fits any size.
    recipe_only: ClassVar[frozenset[str]] = frozenset({"size"})


class ConvNet(Encoder):
    """Convolutions with group normalisation, mean-pooled.

    Batch normalisation would make an image's features depend on the rank's other images, and so
    the loss on the number of ranks.
    """

    def __init__(self, *, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        widths = [3, *(width * 2**layer for layer in range(layers))]
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1)
            blocks += [convolution, nn.GroupNorm(1, after), nn.GELU()]
        self.blocks = nn.Sequential(*blocks)
        # Widths of what `forward` returns, which the head is built for: of an image, of a position.
        self.features = self.local_features = widths[-1]

    def forward(self, images: Tensor, *, local: bool = False) -> Tensor | Local:
        """Return features (batch, features) of images (batch, 3, height, width) uint8.

        With `local`, those of the positions of the last map too: some methods attend to them.
        """
        rows = self.blocks(images.float() / 127.5 - 1).flatten(2).transpose(1, 2)
        return masked_local(rows, rows.new_ones(rows.shape[:2]).bool()) if local else rows.mean(1)
