"""Composed retrieval: TIRG, mutual information on it, their baselines, and ridge regression.

All on the same frozen features. Each run is also one command, such as

    python launch/train.py benchmarks/recipes/tirg.yaml data.train=URL data.val=URL
        data.gallery=URL method.fusion=sum training.seed=0

Training stops on queries apart from those of the test: the split composed_val of products and
emoji, queries of another seed of scenes.
"""

from collections.abc import Sequence

from benchmarks.ridge import fit_ridge
from benchmarks.studies.study import Arm, DataSet, Study


def _queries(val: str, gallery: str) -> list[str]:
    return [f"data.val={val!r}", f"data.gallery={gallery!r}"]


def _stopping(train: str, steps: int, every: int) -> list[str]:
    return [
        f"data.train={train!r}",
        f"stages.0.length={steps} steps",
        f"evaluation.every={every} steps",
        "training.early_stopping={patience: 4}",
    ]


def _split(name: str, split: str) -> list[str]:
    folder = f"data/{name}/composed_{split}"
    return _queries(folder, f"{folder}_gallery")


SETS = {
    "fashion": DataSet(
        [*_stopping("data/fashion/composed_train", 800, 50), *_split("fashion", "val")],
        _split("fashion", "test"),
    ),
    "emoji": DataSet(
        [*_stopping("data/emoji/composed_train", 400, 25), *_split("emoji", "val")],
        _split("emoji", "test"),
    ),
    # 4,000 of its 20,000 queries.
    "scenes": DataSet(
        [
            *_stopping("data/scenes/composed_train/composed_train-{000000..000003}.tar", 400, 25),
            *_queries("data/scenes_stopping/composed_val", "data/scenes_stopping/composed_gallery"),
        ],
        _queries("data/scenes/composed_val", "data/scenes/composed_gallery"),
    ),
}


def _dim(estimator: str = "jsd", *terms: str) -> Sequence[str]:
    """Return overrides of dim.yaml that maximise the information of some terms by an estimator."""
    losses = {"batch_classification": 1, **dict.fromkeys(terms, 0.1)}
    return [f"stages.0.losses={losses}", f"method.estimator={estimator}"]


# Of a fusion without parameters.
NO_PARTS = "stages.0.train=[image.head, text.head, classification]"
BOTH = ("text_image", "fusion_target")
ESTIMATORS = {
    "jsd": "DIM, both, JSD",
    "dv": "DIM, both, Donsker-Varadhan",
    "nwj": "DIM, both, NWJ",
    "info_nce": "DIM, both, InfoNCE",
}
ARMS = {
    "ridge": Arm("ridge regression", "tirg", fit=fit_ridge, seeds=1),
    "text": Arm("text alone", "tirg", ["method.fusion=text", NO_PARTS]),
    "image": Arm("image alone", "tirg", ["method.fusion=image", NO_PARTS]),
    "sum": Arm("sum", "tirg", ["method.fusion=sum", NO_PARTS]),
    "concatenation": Arm("concatenation", "tirg", ["method.fusion=concatenation"]),
    "tirg": Arm("TIRG", "tirg"),
    "tirg_text_image": Arm(
        "TIRG + information of text and target (JSD)", "dim", _dim("jsd", "text_image")
    ),
    "tirg_fusion_target": Arm(
        "TIRG + information of query and lower map (JSD)", "dim", _dim("jsd", "fusion_target")
    ),
    **{f"dim_{name}": Arm(label, "dim", _dim(name, *BOTH)) for name, label in ESTIMATORS.items()},
}
STUDY = Study(
    SETS,
    ARMS,
    {
        "R@1": "composed/recall@1",
        "R@5": "composed/recall@5",
        "R@10": "composed/recall@10",
        "R@50": "composed/recall@50",
        "median rank": "composed/median_rank",
        "steps": "steps",
    },
    differences=[
        ("TIRG", "ridge regression"),
        ("TIRG", "concatenation"),
        *((arm.label, "TIRG") for arm in ARMS.values() if arm.recipe == "dim"),
    ],
    compared=["R@1", "R@10"],
    quick="emoji",
)
