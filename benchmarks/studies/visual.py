"""Visual similarity: SimSiam and PTF-SimCM from scratch, beside backbones as they are.

Each run is also one command, such as

    python launch/train.py benchmarks/recipes/ptf_simcm.yaml data.train=URL data.val=URL
        training.seed=0

Training stops on the split val. PTF-SimCM is measured for images alone and for images with their
captions.
"""

from benchmarks.studies.study import Arm, DataSet, Study, as_it_is


def _stopping(train: str, val: str, steps: int, every: int) -> list[str]:
    return [
        f"data.train={train!r}",
        f"data.val={val!r}",
        f"stages.0.length={steps} steps",
        f"evaluation.every={every} steps",
        "training.early_stopping={patience: 4}",
    ]


SETS = {
    "fashion": DataSet(
        _stopping(
            "data/fashion/train/train-{000000,000004,000008,000012,000016,000020,000024,000028,000032}.tar",
            "data/fashion/val/val-{000000,000002}.tar",
            2000,
            200,
        ),
        ["data.val=data/fashion/test/test-{000000,000002}.tar"],
    ),
    "emoji": DataSet(
        _stopping("data/emoji/styles_train", "data/emoji/styles_val", 600, 100),
        ["data.val=data/emoji/styles_test"],
    ),
    "openclipart": DataSet(
        _stopping("data/openclipart/train", "data/openclipart/val", 600, 100),
        ["data.val=data/openclipart/test"],
    ),
}
WITH_TEXT = "images with their texts"
ARMS = {
    "pretrained": Arm(
        "EfficientNet-lite0, pretrained",
        "simsiam",
        ["method.image={kind: timm, name: tf_efficientnet_lite0, weights: package, size: 64}"],
        fit=as_it_is,
        seeds=1,
    ),
    "random": Arm("random weights", "simsiam", fit=as_it_is),
    "simsiam": Arm("SimSiam", "simsiam"),
    "ptf_simcm": Arm("PTF-SimCM", "ptf_simcm"),
}
STUDY = Study(
    SETS,
    ARMS,
    {
        "R@1": "visual/recall@1",
        "R@2": "visual/recall@2",
        "R@4": "visual/recall@4",
        "R@8": "visual/recall@8",
        "mAP@R": "visual/map@r",
        "NMI": "visual/nmi",
        "of chance": "visual/nmi_chance",
        "k-NN": "visual/knn_accuracy",
        "steps": "steps",
    },
    differences=[
        ("SimSiam", "random weights"),
        ("PTF-SimCM", "SimSiam"),
        (f"PTF-SimCM, {WITH_TEXT}", "SimSiam"),
    ],
    compared=["R@1", "mAP@R", "k-NN"],
    variants={"-with-text": WITH_TEXT},
    quick="openclipart",
)
