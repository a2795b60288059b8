"""Preprocessing of images that belongs to a model: how an image becomes the square it reads."""

from typing import Literal

from pydantic import Field

from xmodal.components.config import Config

Interpolation = Literal["bicubic", "bilinear", "lanczos"]
Resizer = Literal["torch", "pillow"]
ResizeMode = Literal["crop", "shortest", "squash", "longest"]


class PreprocessingConfig(Config):
    """Preprocessing that a model was trained with; evaluation and `xmodal.load` follow it exactly.

    `crop` cuts the largest central square out and resizes it. `shortest` resizes the image until
    its shorter side fits, then cuts the centre out, as CLIP does. `squash` resizes both sides and
    changes the aspect ratio, as SigLIP does. `longest` resizes until the longer side fits, and
    fills the rest.
    """

    mean: tuple[float, float, float] | None = Field(
        None, description="mean of each channel, of pixels from 0 to 1; null: the encoder's own"
    )
    std: tuple[float, float, float] | None = Field(
        None, description="standard deviation of each channel; null: the encoder's own"
    )
    interpolation: Interpolation = Field("bicubic", description="antialiased, of every resizing")
    resize: ResizeMode = Field(
        "crop",
        description="`crop` (central square, then resize), `shortest` (resize, then crop), "
        "`squash` (change the aspect ratio), or `longest` (resize, then pad)",
    )
    resizer: Resizer = Field(
        "torch",
        description="`torch`, as Hugging Face's processors, or `pillow`, as open_clip; they differ "
        "by 1 to 4 grey levels, and by a pixel in the place of some centres",
    )
    fill: int = Field(0, ge=0, le=255, description="value of padding; of `longest`")
