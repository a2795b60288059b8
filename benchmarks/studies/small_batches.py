"""Ways to learn from batches of 32: CLIP's heads on frozen features, with papers' settings.

InfoNCE has 31 negatives. The queue adds the last 1,024 pairs, as the encoders
embed them or a momentum encoder does, and the global contrastive loss keeps
averages over all samples. InfoNCE of batches of 256 has as many steps, and so sees eight times as
many pairs. Lengths are fixed and last checkpoints measured: nothing is chosen by the test images,
and nothing was searched.
"""

from benchmarks.studies.matching import FLICKR8K, FLICKR8K_TEST
from benchmarks.studies.study import Arm, DataSet, Study

TRAIN, VAL, _ = FLICKR8K
HEADS = "stages.0.train=[image.head, text.head]"  # a temperature that is constant is no parameter
GLOBAL = "method.objective={{kind: global_contrastive, scale: {}}}"
ARMS = {
    "info_nce": Arm("InfoNCE", "clip", measured="latest"),
    "queue": Arm(
        "InfoNCE, queue of 1,024", "clip", ["method.queue={size: 1024}"], measured="latest"
    ),
    "momentum": Arm(
        "InfoNCE, queue of 1,024, momentum encoder",
        "clip",
        ["method.queue={size: 1024, momentum: 0.999}"],
        measured="latest",
    ),
    "global": Arm(
        "global contrastive", "clip", [GLOBAL.format(1 / 0.07), HEADS], measured="latest"
    ),
    "global_learned": Arm(
        "global contrastive, learned temperature",
        "clip",
        ["method.objective={kind: global_contrastive, rho: 6.5}"],
        measured="latest",
    ),
    "large": Arm("InfoNCE, batches of 256", "clip", ["data.batch_size=256"], measured="latest"),
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
    },
    differences=[(arm.label, "InfoNCE") for name, arm in ARMS.items() if name != "info_nce"],
    compared=["rsum"],
    overrides=["data.batch_size=32", "stages.0.length=1200 steps"],
    quick="flickr8k",
)
