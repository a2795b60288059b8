"""Methods of image-text matching beside each other and beside CCA, on the same frozen features.

Each run is also one command, such as

    python launch/train.py benchmarks/recipes/mite.yaml data.train=URL data.val=URL training.seed=0

Training of one stage stops on images apart from those of the test: on Flickr8k, whose dev images
are the test, on a sixth of the training images, elsewhere on the split val.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks.cca import fit_cca
from benchmarks.semantic_matching import fit_semantic_matching
from benchmarks.studies.study import Arm, DataSet, Study
from xmodal.assembly.recipe import Recipe
from xmodal.evaluation.metrics.similarity import BY_DISTANCE


def _fashion(split: str, numbers: Sequence[int]) -> str:
    listed = ",".join(f"{number:06d}" for number in numbers)
    return f"data/fashion/{split}/{split}-{{{listed}}}.tar"


def adapted(
    recipe: Recipe,
    *,
    batch: float = 1,
    longer: float = 1,
    from_scratch: Sequence[str] = (),
    lr: float | None = None,
) -> list[str]:
    """Return overrides that adapt a recipe to a data set.

    Args:
        batch: size of batches, by that of the recipe.
        longer: length of stages, by that of the recipe.
        from_scratch: sides whose encoders are trained too.
        lr: of all stages, where not that of the heads alone.
    """
    overrides = [f"data.batch_size={int(recipe.data.batch_size * batch)}"]
    for number, stage in enumerate(recipe.stages):
        # `image.head` becomes `image`: all of the tower.
        sides = {name: name.split(".")[0] for name in stage.train}
        parts = [side if side in from_scratch else name for name, side in sides.items()]
        steps = int(stage.length.amount * longer)
        overrides += [
            f"stages.{number}.train={list(dict.fromkeys(parts))}",
            f"stages.{number}.length={steps} steps",
        ]
        if lr:
            overrides.append(f"stages.{number}.optimizer.lr={lr}")
    return overrides


def _stopping(train: str, val: str, protocol: str) -> list[str]:
    return [
        f"data.train={train!r}",
        f"data.val={val!r}",
        f"evaluation.protocols=[{protocol}]",
        "evaluation.every=10%",
        "training.early_stopping={patience: 4}",
    ]


def _test(val: str, *protocols: str) -> list[str]:
    return [f"data.val={val!r}", f"evaluation.protocols={list(protocols)}"]


# Of 6,000 training images 5,000 are trained on and the last 1,000 are stopped on.
FLICKR8K = (
    "data/flickr8k/train/train-{000000..000004}.tar",
    "data/flickr8k/train/train-000005.tar",
    "all-captions",
)
FLICKR8K_TEST = _test("data/flickr8k/val", "all-captions", "gap")
GRU = "method.text={kind: gru, word: 300, width: 512}"
BY_CLASS = ("relevance", "class", "gap")
PAIRWISE = (
    "vsepp_sum",
    "vsepp_hardest",
    "pvse",
    "mite_baseline",
    "mite",
    "clip",
    "siglip",
)
SETS = {
    "flickr8k": DataSet(
        _stopping(*FLICKR8K),
        FLICKR8K_TEST,
        ("cca", *PAIRWISE),
        partial(adapted, longer=2),
    ),
    "fashion": DataSet(
        _stopping(
            _fashion("train", range(0, 36, 4)),
            _fashion("val", (0, 2)),
            "relevance",
        ),
        _test(_fashion("test", (0, 2)), *BY_CLASS),
        changes=partial(adapted, longer=2),
    ),
    "openclipart": DataSet(
        _stopping("data/openclipart/train", "data/openclipart/val", "relevance"),
        _test("data/openclipart/test", *BY_CLASS),
        changes=adapted,
    ),
    "tuxpaint": DataSet(
        _stopping("data/tuxpaint/train", "data/tuxpaint/val", "relevance"),
        _test("data/tuxpaint/test", *BY_CLASS),
        changes=partial(adapted, batch=1 / 2, longer=0.4),
    ),
    "flickr8k-gru": DataSet(
        [*_stopping(*FLICKR8K), GRU],
        FLICKR8K_TEST,
        PAIRWISE,
        partial(adapted, longer=2, from_scratch=["text"]),
    ),
    "flickr8k-end-to-end": DataSet(
        [
            *_stopping(*FLICKR8K),
            "method.text={kind: gru, word: 300, width: 256}",
            # ResNet-10, slim, so that seven methods take an hour on one core.
            "method.image={kind: timm, name: resnet10t, size: 96, "
            "options: {channels: [24, 48, 96, 192], stem_width: 8}}",
            "data.feature_cache=null",
            "data.crop=[0.5, 1.0]",
            "data.flip=true",
        ],
        FLICKR8K_TEST,
        PAIRWISE,
        partial(adapted, batch=1 / 2, from_scratch=["image", "text"], lr=1e-3),
    ),
}
# Of methods of several stages all are taken: the rate begins anew in each, by which rsum falls at
# first, and MITE and UNCSM are about their last.
UNSTOPPED = ["training.early_stopping=null", "evaluation.every=0"]
ARMS = {
    "cca": Arm("CCA", "clip", fit=fit_cca, seeds=1),
    "semantic_matching": Arm("semantic matching", "clip", fit=fit_semantic_matching, seeds=1),
    "vsepp_sum": Arm("VSE++, sum of hinges", "vsepp_sum"),
    "vsepp_hardest": Arm("VSE++, sum, then hardest", "vsepp_hardest", UNSTOPPED, measured="latest"),
    "pvse": Arm("PVSE", "pvse", UNSTOPPED, measured="latest"),
    "mite_baseline": Arm("MITE's triplet baseline", "mite_baseline", UNSTOPPED, measured="latest"),
    "mite": Arm("MITE", "mite", UNSTOPPED, measured="latest"),
    "clip": Arm("CLIP", "clip"),
    "siglip": Arm("SigLIP", "siglip"),
    "uncsm": Arm(
        "UNCSM",
        "uncsm",
        [*UNSTOPPED, "checkpoints.keep_last=4"],
        measured="stages",
    ),
}
STUDY = Study(
    SETS,
    ARMS,
    {
        "i → t R@1": "image_to_text/recall@1",
        "R@5": "image_to_text/recall@5",
        "R@10": "image_to_text/recall@10",
        "t → i R@1": "text_to_image/recall@1",
        "R@5 ": "text_to_image/recall@5",
        "R@10 ": "text_to_image/recall@10",
        "rsum": "rsum",
        "mAP i → t": "class/image_to_text/map",
        "mAP t → i": "class/text_to_image/map",
        "mAP": "class/map",
        "gap": "gap/centroid_distance",
        "probe": "gap/probe_accuracy",
        "steps": "steps",
    },
    differences=[
        ("CLIP", "CCA"),
        ("SigLIP", "CLIP"),
        ("VSE++, sum, then hardest", "VSE++, sum of hinges"),
        ("PVSE", "VSE++, sum, then hardest"),
        ("MITE", "MITE's triplet baseline"),
        ("UNCSM, fine-tuning", "UNCSM, pretraining"),
        ("UNCSM, joint", "UNCSM, fine-tuning"),
        ("UNCSM, joint", "UNCSM, joint, by distance"),
        ("UNCSM, joint", "semantic matching"),
        ("UNCSM, joint", "CCA"),
    ],
    variants={BY_DISTANCE: "by distance"},
    compared=["rsum", "mAP", "probe"],
    quick="tuxpaint",
)
