"""Vision transformer as in CLIP and SigLIP, described by its sizes."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from xmodal.errors import UserError
from xmodal.models.activations import ACTIVATIONS
from xmodal.models.config import Activation, ImageEncoderConfig, ImagePooling
from xmodal.models.images.timm_features import POOLINGS, TimmFeatures


class VitConfig(ImageEncoderConfig):
    """A vision transformer by its sizes: that of CLIP by default, of SigLIP with other settings."""

    kind: Literal["vit"] = "vit"
    size: PositiveInt = Field(224, description="height and width of its input, pixels")
    patch: PositiveInt = Field(32, description="height and width of a patch, pixels")
    width: PositiveInt = Field(768, description="width of the residual stream")
    layers: PositiveInt = Field(12, description="number of blocks")
    heads: PositiveInt = Field(12, description="attention heads; divide the width")
    mlp: PositiveInt = Field(3072, description="width of the hidden layer of a block")
    activation: Activation = Field(
        "gelu", description="`gelu` (exact), `quick_gelu` (OpenAI's CLIP) or `gelu_tanh` (SigLIP)"
    )
    pooling: ImagePooling = Field(
        "class", description="`class` token, `mean` of patches, or `attention` (SigLIP)"
    )
    class_token: bool = Field(True, description="whether a class token precedes the patches")
    pre_norm: bool = Field(True, description="normalise before the first block (CLIP)")
    norm_after_pooling: bool = Field(
        False, description="apply the last normalisation to the pooled features"
    )
    patch_bias: bool = Field(False, description="whether the patch embedding has a bias")
    eps: PositiveFloat = Field(1e-5, description="epsilon of layer normalisation")
    layer_scale: PositiveFloat | None = Field(
        None, description="initial scale of each block's residuals; null: they are not scaled"
    )
    patch_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of patches dropped in training (FLIP, Li et al. 2023)"
    )
    has_levels: ClassVar[bool] = True
    builds: ClassVar[str] = "Vit"


class Vit(TimmFeatures):
    """A vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), as CLIP's and SigLIP's.

    CLIP's normalises before the first block and is pooled at its class token; SigLIP's is pooled
    by attention of a learned query. `mean` and `std` are those of CLIP by default.
    """

    tower_of_transformers = "vision_model"

    def __init__(
        self,
        *,
        size: int = 224,
        patch: int = 32,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        activation: Activation = "gelu",
        pooling: ImagePooling = "class",
        class_token: bool = True,
        pre_norm: bool = True,
        norm_after_pooling: bool = False,
        patch_bias: bool = False,
        eps: float = 1e-5,
        layer_scale: float | None = None,
        patch_dropout: float = 0.0,
        level: int | None = None,
        mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
    ) -> None:
        _check(size, patch, width, heads, pooling, class_token=class_token)
        model: Any = VisionTransformer(
            img_size=size,
            patch_size=patch,
            num_classes=0,
            global_pool=POOLINGS[pooling],
            embed_dim=width,
            depth=layers,
            num_heads=heads,
            # The library rounds down what it multiplies.
            mlp_ratio=(mlp + 0.5) / width,
            init_values=layer_scale,
            class_token=class_token,
            pre_norm=pre_norm,
            final_norm=True,
            fc_norm=norm_after_pooling,
            patch_drop_rate=patch_dropout,
            norm_layer=partial(nn.LayerNorm, eps=eps),
            act_layer=ACTIVATIONS[activation],
        )
        _set_patch_bias(model.patch_embed.proj, has_bias=patch_bias)
        super().__init__(model, "vit", mean=mean, std=std, level=level)


def _check(
    size: int, patch: int, width: int, heads: int, pooling: str, *, class_token: bool
) -> None:
    if width % heads:
        raise UserError(
            f"method.image.heads: {heads} heads do not divide width {width}; change one of the two"
        )
    if size < patch:
        raise UserError(f"method.image.size={size} is less than a patch of {patch}: raise it")
    if pooling == "class" and not class_token:
        raise UserError(
            "method.image.pooling: there is no class token (class_token: false) to pool; use mean "
            "or attention"
        )


def _set_patch_bias(projection: nn.Conv2d, *, has_bias: bool) -> None:
    """Have a patch embedding have a bias or none; the library ties that to the first norm."""
    if not has_bias:
        projection.bias = None
    elif projection.bias is None:
        projection.bias = nn.Parameter(projection.weight.new_zeros(projection.out_channels))
