"""Distillation: small towers from scratch, alone and with a fine-tuned teacher's embeddings.

The teacher is a run of the recipe flickr8k_finetuned, in runs/flickr8k_finetuned:

    deepspeed launch/train.py flickr8k_finetuned

Its embeddings are computed by the first run that needs them. All arms have the same towers, steps
and rates. Their length is fixed, on 5,000 of the 6,000 training images, and their last checkpoint
is measured: nothing is chosen by the test images.
"""

from benchmarks.studies.study import Arm, DataSet, Study

SCRATCH, DISTILLED = (f"../../xmodal/recipes/flickr8k_{name}" for name in ("scratch", "distilled"))
SETS = {
    "flickr8k": DataSet(
        [
            "data.train='data/flickr8k/train/train-{000000..000004}.tar'",
            "data.val=data/flickr8k/train/train-000005.tar",
        ],
        ["data.val=data/flickr8k/val", "evaluation.protocols=[all-captions]"],
    ),
}
ARMS = {
    "alone": Arm("alone", SCRATCH, measured="latest"),
    "distilled": Arm("distilled", DISTILLED, measured="latest"),
    "affinity": Arm(
        "contrastive and affinity",
        DISTILLED,
        ["stages.0.losses={contrastive: 0.25, affinity: 0.75}"],
        measured="latest",
    ),
    "features": Arm(
        "contrastive and features",
        DISTILLED,
        ["stages.0.losses={contrastive: 1, features: 100}"],
        measured="latest",
    ),
}
STUDY = Study(
    SETS,
    ARMS,
    {
        "image → text R@1": "image_to_text/recall@1",
        "R@5": "image_to_text/recall@5",
        "R@10": "image_to_text/recall@10",
        "text → image R@1": "text_to_image/recall@1",
        "R@5 ": "text_to_image/recall@5",
        "R@10 ": "text_to_image/recall@10",
        "rsum": "rsum",
    },
    differences=[(arm.label, "alone") for name, arm in ARMS.items() if name != "alone"],
    compared=["R@10 ", "rsum"],
    overrides=[
        # ResNet-10, slim, 30,000 images in all: a run takes minutes on one core.
        "method.image.options={channels: [24, 48, 96, 192], stem_width: 8}",
        "method.embedding=512",
        "data.batch_size=128",
        "stages.0.length=6 epochs",
        "evaluation.every=0",
        "checkpoints={every: 0, keep_last: 1}",
    ],
    quick="flickr8k",
)
