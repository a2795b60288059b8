"""Objectives of one method beside each other: heads on frozen features, with papers' settings.

All arms have CLIP's recipe, steps and rate, on 5,000 of the 6,000 training images. Their
length is fixed and their last checkpoint is measured: nothing is chosen by the test images, and
nothing was searched.
"""

from benchmarks.studies.matching import FLICKR8K, FLICKR8K_TEST
from benchmarks.studies.study import Arm, DataSet, Study

TRAIN, VAL, _ = FLICKR8K
KINDS = {
    "info_nce": "InfoNCE",
    "soft_relevance": "soft relevance",
    "supervised_contrastive": "supervised contrastive",
    "multi_similarity": "multi-similarity",
    "circle": "circle",
    "smooth_ap": "smooth AP",
}
LEARNED = ("info_nce", "soft_relevance")  # a temperature; the others have no parameters
ARMS = {
    kind: Arm(
        label,
        "clip",
        [
            f"method.objective={{kind: {kind}}}",
            f"stages.0.train={['image.head', 'text.head', *['loss'] * (kind in LEARNED)]}",
        ],
        measured="latest",
    )
    for kind, label in KINDS.items()
}
STUDY = Study(
    {"flickr8k": DataSet([f"data.train={TRAIN!r}", f"data.val={VAL!r}"], FLICKR8K_TEST)},
    ARMS,
    {
        "i → t R@1": "image_to_text/recall@1",
        "R@10": "image_to_text/recall@10",
        "t → i R@1": "text_to_image/recall@1",
        "R@10 ": "text_to_image/recall@10",
        "rsum": "rsum",
        "gap": "gap/centroid_distance",
    },
    differences=[(label, "InfoNCE") for label in KINDS.values() if label != "InfoNCE"],
    compared=["rsum"],
    quick="flickr8k",
)
