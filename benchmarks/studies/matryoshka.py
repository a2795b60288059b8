"""Several widths of one embedding beside embeddings of one width, on the same frozen features.

Each run is also one command, such as

    python launch/train.py benchmarks/recipes/matryoshka.yaml data.train=URL data.val=URL
        training.seed=0

Data and test are those of the study `matching`; training takes 400 steps, less where it stops.
"""

from dataclasses import replace

from benchmarks.studies import matching
from benchmarks.studies.study import Arm, Study

ARMS = {
    "narrow": Arm("InfoNCE of 64", "clip", ["method.embedding=64"]),
    "whole": Arm("InfoNCE of 512", "clip", widths=[64, 512]),
    "matryoshka": Arm("matryoshka of 512", "matryoshka", widths=[64, 128, 256, 512]),
}
STUDY = Study(
    {"flickr8k": replace(matching.SETS["flickr8k"], arms=[], changes=matching.adapted)},
    ARMS,
    {
        "i → t R@1": "image_to_text/recall@1",
        "i → t R@10": "image_to_text/recall@10",
        "t → i R@1": "text_to_image/recall@1",
        "t → i R@10": "text_to_image/recall@10",
        "rsum": "rsum",
    },
    differences=[
        ("matryoshka of 512, at 64", "InfoNCE of 64"),
        ("InfoNCE of 512, at 64", "InfoNCE of 64"),
        ("matryoshka of 512, at 512", "InfoNCE of 512, at 512"),
    ],
    compared=["i → t R@10", "t → i R@10", "rsum"],
    quick="flickr8k",
)
