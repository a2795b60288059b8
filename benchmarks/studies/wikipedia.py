"""UNCSM on Wikipedia's published features beside CCA and logistic-regression semantic matching.

2,173 pairs to train on and 693 of the test, in 10 classes: bags of 128 visual words and shares of
10 topics. UNCSM is the package's recipe, of which the widths alone are changed; its lengths
are fixed, since the set has no part to stop on.
"""

from benchmarks.cca import fit_cca
from benchmarks.semantic_matching import fit_semantic_matching
from benchmarks.studies.study import Arm, DataSet, Study
from xmodal.evaluation.metrics.similarity import BY_DISTANCE

UNCSM = "../../xmodal/recipes/uncsm"
INPUTS = [
    "method.image={kind: features, features: 128}",
    "method.text={kind: features, features: 10}",
    "checkpoints.best=class/map",
]
# A quarter of the recipe's, since its inputs are 4,096 and 3,000 numbers.
WIDTHS = [
    "method.image_head.hidden=[256]",
    "method.text_head.hidden=[256]",
    "method.embedding=256",
    "method.metric=[256, 64]",
]
STUDY = Study(
    {
        "wikipedia": DataSet(
            [
                "data.train=data/wikipedia_features/train",
                # Trained on too: what is logged there chooses nothing.
                "data.val=data/wikipedia_features/train/train-000002.tar",
                "evaluation.protocols=[class]",
                *INPUTS,
            ],
            ["data.val=data/wikipedia_features/test", "evaluation.protocols=[class, gap]"],
        )
    },
    {
        "cca": Arm("CCA", "clip", ["data.feature_cache=null"], fit=fit_cca, seeds=1),
        "semantic_matching": Arm(
            "semantic matching",
            "clip",
            ["data.feature_cache=null"],
            fit=fit_semantic_matching,
            seeds=1,
        ),
        "uncsm": Arm(
            "UNCSM",
            UNCSM,
            [*WIDTHS, "checkpoints.every=0 steps", "checkpoints.keep_last=9"],
            measured="stages",
        ),
    },
    {
        "mAP i → t": "class/image_to_text/map",
        "mAP t → i": "class/text_to_image/map",
        "mAP": "class/map",
        "gap": "gap/centroid_distance",
        "probe": "gap/probe_accuracy",
        "steps": "steps",
    },
    differences=[
        ("UNCSM, joint", "CCA"),
        ("UNCSM, joint", "semantic matching"),
        ("UNCSM, joint", "UNCSM, joint, by distance"),
        ("UNCSM, joint", "UNCSM, fine-tuning"),
    ],
    compared=["mAP i → t", "mAP t → i", "mAP"],
    variants={BY_DISTANCE: "by distance"},
    quick="wikipedia",
)
