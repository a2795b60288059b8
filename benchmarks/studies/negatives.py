"""Texts that are false of an image as extra negatives (NegCLIP), on drawn scenes of two things.

Measured is the choice of a caption beside the same words with the colours or sizes of the two
things swapped, and retrieval of the same images. Each run is also one command, such as

    python launch/train.py benchmarks/recipes/negatives.yaml data.negatives.texts=3 training.seed=0
"""

from benchmarks.studies.study import Arm, DataSet, Study

PLAIN, ALL, OWN = "batch alone", "with false texts", "with false texts, of their own image"
STUDY = Study(
    {
        "scenes": DataSet(
            ["data.train=data/two_things/train", "data.val=data/two_things/val"],
            [
                "data.val=data/two_things/swapped",
                "evaluation.protocols=[all-captions, false-captions]",
            ],
        )
    },
    {
        "plain": Arm(PLAIN, "negatives", measured="latest"),
        "texts": Arm(ALL, "negatives", ["data.negatives.texts=3"], measured="latest"),
        "own": Arm(
            OWN,
            "negatives",
            ["data.negatives.texts=3", "method.extra_negatives=own"],
            measured="latest",
        ),
    },
    {
        "swapped": "false-captions/accuracy",
        "colour": "false-captions/colour/accuracy",
        "size": "false-captions/size/accuracy",
        "i→t R@1": "all-captions/image_to_text/recall@1",
        "R@10": "all-captions/image_to_text/recall@10",
        "t→i R@1": "all-captions/text_to_image/recall@1",
        "t R@10": "all-captions/text_to_image/recall@10",
    },
    differences=[(ALL, PLAIN), (OWN, PLAIN)],
    compared=["swapped", "R@10", "t R@10"],
    quick="scenes",
)
