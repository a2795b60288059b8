"""The recipes of the methods, changed to tiny encoders and shards, which train in seconds."""

from pathlib import Path

from xmodal.assembly.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"
LOSSES = 20  # that are compared
LENGTH = 7  # steps of a stage, of three or more
CLASSES, SAMPLES, IMAGE, TEXT = 4, 48, 24, 20
# What takes the place of a paper's encoders: none normalises over a batch, which at these rates
# would amplify rounding.
SMALL_IMAGE = (
    "method.image={kind: timm, name: test_resnet, size: 32, weights: random, "
    "options: {norm_layer: groupnorm1}}"
)
SMALL_ENCODERS = (SMALL_IMAGE, "method.embedding=16")
# Views that differ, and a rate at which the batch normalisation of these methods themselves does
# not amplify rounding.
SMALL_VIEWS = (
    SMALL_IMAGE,
    "data.crop=[0.5, 1]",
    "data.flip=true",
    "method.projection=16",
    "method.prediction=8",
    "stages.0.optimizer.lr=1e-4",
)
WORDS = "tokenizer: {kind: words, min_count: 1}"
SMALL_COMPOSED = (
    *SMALL_ENCODERS,
    f"method.text={{kind: lstm, word: 8, width: 16, {WORDS}}}",
    "method.text_head.dropout=0",
    "stages.0.optimizer.lr=1e-3",
)
CHANGES = {
    "vsepp": (
        *SMALL_ENCODERS,
        f"method.text={{kind: gru, word: 8, width: 16, {WORDS}}}",
    ),
    "pvse": (
        *SMALL_ENCODERS,
        f"method.text={{kind: gru, word: 8, width: 8, bidirectional: true, {WORDS}}}",
    ),
    "mite": (
        *SMALL_ENCODERS,
        f"method.text={{kind: gru, word: 8, width: 16, {WORDS}}}",
        "method.classifier=[8, 8]",
        "method.classifier_dropout=0",
    ),
    "uncsm": (
        f"method.image.features={IMAGE}",
        f"method.text.features={TEXT}",
        "method.image_head={hidden: [16]}",
        "method.text_head={hidden: [16]}",
        "method.embedding=16",
        "method.metric=[16, 8]",
    ),
    "simsiam": SMALL_VIEWS,
    "ptf_simcm": (
        *SMALL_VIEWS,
        f"method.text={{kind: gru, word: 8, width: 8, bidirectional: true, {WORDS}}}",
        "method.sentence=16",
    ),
    "tirg": SMALL_COMPOSED,
    "dim": (*SMALL_COMPOSED, "method.units=16", "method.level=1"),
}
STAGES = {method: read_recipe(method, [], RECIPES).stages for method in CHANGES}


def length(method: str) -> int:
    """Steps of each stage of a method's recipe."""
    return LENGTH if len(STAGES[method]) * LENGTH >= LOSSES else LOSSES
