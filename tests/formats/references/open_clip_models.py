"""Write small random models of open_clip, a folder each, with inputs and embeddings."""

import argparse
import json
from pathlib import Path

import open_clip
import torch
from processors import siglip_tokenizer
from safetensors.torch import save_file

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
TEXT = {"context_length": 12, "vocab_size": 60, "width": 24, "heads": 2, "layers": 2}
SIGLIP_TEXT = TEXT | {
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}


def timm(name: str, **settings: object) -> dict[str, object]:
    return {"timm_model_name": name, "timm_model_pretrained": False, "image_size": 160, **settings}


MODELS: dict[str, dict] = {
    "clip": {"vision_cfg": VISION, "text_cfg": TEXT},
    "quick": {"vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True, "embed_dim": 24},
    "custom": {
        "vision_cfg": VISION
        | {"pool_type": "avg", "no_ln_pre": True, "mlp_ratio": 3.0, "ls_init_value": 0.1},
        "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 7, "ls_init_value": 0.1},
        "custom_text": True,
    },
    "pooled_before_norm": {
        "vision_cfg": VISION | {"pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": TEXT | {"pool_type": "first", "no_causal_mask": True},
        "custom_text": True,
    },
    "siglip": {
        "vision_cfg": timm("test_vit3", timm_pool="map", timm_proj="none"),
        "text_cfg": SIGLIP_TEXT | {"vocab_size": 80, "hf_tokenizer_name": "siglip"},
        "custom_text": True,
        "init_logit_bias": -10,
        "embed_dim": 96,
    },
    "classifier": {  # as MobileCLIP's
        "vision_cfg": timm("test_vit", timm_pool="token", timm_proj=None),
        "text_cfg": TEXT | {"no_causal_mask": True},
        "custom_text": True,
    },
    "mobile": {
        "vision_cfg": timm("fastvit_mci0", timm_pool="avg", timm_proj=None) | {"image_size": 64},
        "text_cfg": TEXT | {"no_causal_mask": True},
        "custom_text": True,
    },
    "linear": {
        "vision_cfg": timm("test_vit", timm_pool="avg", timm_proj="linear", timm_proj_bias=True),
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "mlp": {
        "vision_cfg": timm("test_convnext", timm_pool="avg", timm_proj="mlp"),
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "bert": {
        "vision_cfg": VISION,
        "text_cfg": {"hf_tokenizer_name": "", "hf_pooler_type": "mean_pooler"},
    },
    "bert_class": {
        "vision_cfg": VISION,
        "text_cfg": {
            "hf_tokenizer_name": "",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "hf_proj_type": "linear",
        },
    },
}


def settings_of(name: str, folder: Path) -> dict:
    """Return the `model_cfg` of a model; a tower of transformers has its settings in the folder."""
    settings = {"embed_dim": 16, **MODELS[name]}
    if name.startswith("bert"):
        from transformers import BertConfig

        small = BertConfig(
            vocab_size=60,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=40,
            max_position_embeddings=96,
        )
        small.save_pretrained(folder / "bert")
        text = {"hf_model_name": str(folder / "bert"), "hf_model_pretrained": False}
        settings["text_cfg"] = settings["text_cfg"] | text
    return settings


def model_of(settings: dict) -> torch.nn.Module:
    """Return a model with weights that are all random, those of norms and biases too."""
    kind = open_clip.CLIP
    if settings.get("custom_text") or "hf_model_name" in settings["text_cfg"]:
        kind = open_clip.CustomTextCLIP
    given = {key: value for key, value in settings.items() if key != "custom_text"}
    torch.manual_seed(0)
    model = kind(**given).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim < 2 and "logit" not in name:
                weights.add_(0.1 * torch.randn_like(weights))
            else:
                weights.mul_(1.5 if weights.ndim >= 2 else 1)
    return model


def inputs(settings: dict) -> tuple[torch.Tensor, torch.Tensor]:
    size, length = settings["vision_cfg"]["image_size"], settings["text_cfg"].get("context_length")
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    tokens = torch.randint(8, 59, (4, length or 12))
    for row, ending in zip(tokens, (11, 4, 7, 2), strict=True):
        row[ending] = 59 if settings["text_cfg"].get("pool_type") != "eos" else 7
        row[ending + 1 :] = 0
    return images, tokens


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    top = parser.parse_args().folder
    for name in MODELS:
        (top / name / "outputs").mkdir(parents=True)
        write(name, top / name)


def write(name: str, folder: Path) -> None:
    settings = settings_of(name, folder)
    model = model_of(settings)
    images, tokens = inputs(settings)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)))
    with torch.no_grad():
        outputs = {
            "images": images,
            "tokens": tokens,
            "mask": tokens != 0,
            "image_embeddings": model.encode_image((images / 255 - mean) / std, True),
            "text_embeddings": model.encode_text(tokens, True),
        }
    preprocessing = {
        "mean": mean.flatten().tolist(),
        "std": std.flatten().tolist(),
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    config = {"model_cfg": settings, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if name == "siglip":
        siglip_tokenizer().save_pretrained(folder)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    save_file(outputs, folder / "outputs" / "outputs.safetensors")


if __name__ == "__main__":
    main()
