"""Steps of every method and objective, each of few shapes: a recipe, its changes and a stage."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from tests.launch.methods import CHANGES, IMAGE, STAGES, TEXT
from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import Batch
from xmodal.methods.method import Method

BATCH, VOCABULARY, LENGTH = 8, 30, 6
CLIP = (
    "method.image={kind: timm, name: vit_tiny_patch16_224, size: 32, weights: random, options: "
    "{patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2}}",
    "method.text={kind: transformer, width: 16, layers: 1, heads: 2}",
    "method.embedding=16",
)
CLIP_TOWERS = (
    "method.image={kind: vit, size: 32, patch: 16, width: 16, layers: 1, heads: 2, mlp: 32}",
    "method.text={kind: clip_text, width: 16, layers: 1, heads: 2, mlp: 32}",
    "method.embedding=16",
)
RECURRENT = (
    "method.image={kind: timm, name: test_resnet, size: 32, weights: random}",
    "method.text={kind: lstm, word: 8, width: 16, layers: 2, bidirectional: true, pooling: max}",
    "method.embedding=16",
)
BERT = (
    CLIP[0],
    "method.text={kind: transformers, name: bert, weights: random, settings: {model_type: bert, "
    f"vocab_size: {VOCABULARY}, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
    "intermediate_size: 32, hidden_dropout_prob: 0, attention_probs_dropout_prob: 0}}",
    CLIP[2],
)
OBJECTIVES = {
    "info_nce": "{kind: info_nce}",
    "same id": "{kind: info_nce, positives: same_id}",
    "bfloat16": "{kind: info_nce, matmul_dtype: bfloat16}",
    "sigmoid": "{kind: sigmoid}",
    "margin": "{kind: margin}",
    "global": "{kind: global_contrastive, rho: 6.5}",
    "semi-hard": "{kind: triplet, negatives: semi_hard, warmup: 0}",
    "warm-up": "{kind: triplet, negatives: hardest, warmup: 1}",
    **{one: f"{{kind: mutual_information, estimator: {one}}}" for one in ("jsd", "dv", "nwj")},
    **{one: f"{{kind: {one}}}" for one in ("circle", "multi_similarity")},
    "smooth_ap": "{kind: smooth_ap, most_positives: 8}",
    "smooth_ap, counted": "{kind: smooth_ap}",
    **{one: f"{{kind: {one}}}" for one in ("soft_relevance", "supervised_contrastive")},
    **{one: f"{{kind: {one}, classes: 9}}" for one in ("norm_softmax", "proxy_anchor")},
    **{
        f"widths of {one}": f"{{kind: matryoshka, widths: [8, 16], objective: {{kind: {one}}}}}"
        for one in ("info_nce", "multi_similarity", "global_contrastive", "mutual_information")
    },
    "widths of proxies": "{kind: matryoshka, widths: [8, 16], objective: "
    "{kind: norm_softmax, classes: 9}}",
}
EXTRA = (
    "data.train=[{url: shards, mined: table}]",
    "data.negatives={texts: 2, mined_images: 2}",
)
CASES: dict[str, tuple[str, tuple[str, ...], int]] = {
    **{
        f"clip, {name}": ("clip", (*CLIP, f"method.objective={one}"), 0)
        for name, one in OBJECTIVES.items()
    },
    "clip, queue of a momentum encoder": (
        "clip",
        (*CLIP, "method.queue={size: 12, start: 0, momentum: 0.9}"),
        0,
    ),
    "clip, queue": (
        "clip",
        (*CLIP, "method.queue={size: 12, start: 0}", "method.false_negatives={similarity: 0.9}"),
        0,
    ),
    **{
        f"{kind}, {stage.name}": (kind, words, number)
        for kind, words in CHANGES.items()
        for number, stage in enumerate(STAGES[kind])
    },
    "dim, both": ("dim", (*CHANGES["dim"], "method.global_critic=concatenate"), 0),
    "filip": ("filip", (*CLIP, "method.words=4"), 0),
    "distilled": ("flickr8k_distilled", (*CLIP, "method.teacher_embedding=12"), 0),
    "clip's own towers": ("clip", CLIP_TOWERS, 0),
    "lstm, batch normalisation": ("clip", RECURRENT, 0),
    "bert of transformers": ("clip", BERT, 0),
    **{
        f"{name}, extra items": (kind, (*words, *EXTRA), 0)
        for name, kind, words in (
            ("clip, info_nce", "clip", CLIP),
            ("clip, own", "clip", (*CLIP, "method.extra_negatives=own")),
            ("clip, semi-hard", "clip", (*CLIP, f"method.objective={OBJECTIVES['semi-hard']}")),
            *(
                (f"clip, {one}", "clip", (*CLIP, f"method.objective={OBJECTIVES[one]}"))
                for one in (
                    *("circle", "multi_similarity", "smooth_ap", "margin", "jsd", "dv"),
                    *("soft_relevance", "supervised_contrastive", "widths of info_nce"),
                )
            ),
            ("vsepp", "vsepp", CHANGES["vsepp"]),
        )
    },
}


def batch_of(method: Method, recipe: Recipe) -> Batch:
    """A batch of what the method reads; images and classes repeat, captions differ in length."""
    torch.manual_seed(0)
    spec, numbers = method.contents, torch.arange(BATCH)
    images, tokens = (
        torch.randint(256, (3, BATCH, 3, 32, 32), dtype=torch.uint8),
        torch.randint(VOCABULARY, (2, BATCH, LENGTH)),
    )
    masks = torch.arange(LENGTH) < torch.stack([numbers, numbers.flip(0)])[..., None] % LENGTH + 1
    batch = Batch(image_ids=numbers // 2)
    if recipe.method.image.reads_features:
        batch = replace(batch, image_features=torch.randn(BATCH, IMAGE))
        batch = replace(batch, text_features=torch.randn(BATCH, TEXT))
    else:
        batch = replace(batch, images=images[0])
        if spec.captions:
            batch = replace(batch, tokens=tokens[0], token_mask=masks[0])
    if recipe.data.negatives:
        batch = replace(
            batch,
            extra_tokens=torch.randint(VOCABULARY, (BATCH, 2, LENGTH)),
            extra_token_mask=masks.movedim(0, 1),
            text_ids=numbers,
            extra_text_ids=torch.stack([numbers + 2, numbers + 50], 1),
            extra_text_origins=torch.stack([numbers, numbers + 50], 1),
            extra_images=images[1:].movedim(0, 1),
            extra_image_ids=torch.stack([numbers + 2, numbers + 50], 1),
        )
    if spec.views == 2:
        batch = replace(batch, second_images=images[1])
    if spec.captions == 2:
        batch = replace(batch, second_tokens=tokens[1], second_token_mask=masks[1])
        batch = replace(batch, text_dropped=torch.stack([numbers % 3 == 0, numbers % 4 == 0], 1))
    if spec.labels:
        batch = replace(batch, labels=numbers % 3)
    if spec.teacher:
        taught = F.normalize(torch.randn(2, BATCH, spec.teacher), dim=2)
        batch = replace(batch, teacher_images=taught[0], teacher_texts=taught[1])
    if spec.numbers:
        batch = replace(batch, sample_numbers=numbers)
    if spec.composed:
        batch = replace(batch, targets=images[2], source_ids=numbers // 4)
    return batch
