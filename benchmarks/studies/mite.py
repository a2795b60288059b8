"""MITE's adversary beside its triplet baseline: recall, and whether embeddings show their modality.

On the set they are trained on, on others (`to-…`), on few pairs, on pairs of which 40 % are wrong
(benchmarks/noisy_pairs.py makes them), and with a GRU from scratch. Rows without centred heads, the
penalty or a linear classifier show what each is for. All rows have the same number of steps of the
heads, and none is stopped early.
"""

from functools import partial

from benchmarks.studies.matching import FLICKR8K, FLICKR8K_TEST, GRU, adapted
from benchmarks.studies.study import Arm, DataSet, Study

TRAIN = f"data.train={FLICKR8K[0]!r}"
ALL = f"data.val={FLICKR8K[1]!r}"
PLAIN_HEADS = ["method.image_head={dropout: 0.2}", "method.text_head={dropout: 0.2}"]
DEEP = ["method.classifier={hidden: [128]}"]


def _weight(value: float) -> list[str]:
    return [f"stages.3.losses.adversarial.weight={value}"]


def _elsewhere(val: str) -> list[str]:
    return [f"data.val={val!r}", "evaluation.protocols=[relevance, gap]"]


ARMS = {
    "baseline": Arm("triplets", "mite_baseline", measured="latest"),
    "plain": Arm("triplets, heads not centred", "mite_baseline", PLAIN_HEADS, measured="latest"),
    "mite": Arm("MITE", "mite", measured="latest"),
    "weak": Arm("MITE, weight 0.1", "mite", _weight(0.1), measured="latest"),
    "strong": Arm("MITE, weight 10", "mite", _weight(10), measured="latest"),
    "not-centred": Arm("MITE, heads not centred", "mite", PLAIN_HEADS, measured="latest"),
    "no-penalty": Arm("MITE, no penalty", "mite", ["method.slope_penalty=0"], measured="latest"),
    "deep": Arm("MITE, deep classifier", "mite", DEEP, measured="latest"),
}
TWO = ("baseline", "mite")
STUDY = Study(
    {
        "flickr8k": DataSet([TRAIN, ALL], FLICKR8K_TEST),
        "to-fashion": DataSet(
            [TRAIN, ALL], _elsewhere("data/fashion/test/test-{000000,000002}.tar"), TWO
        ),
        "to-tuxpaint": DataSet([TRAIN, ALL], _elsewhere("data/tuxpaint/train"), TWO),
        "few-pairs": DataSet(
            ["data.train=data/flickr8k/train/train-000000.tar", ALL], FLICKR8K_TEST, TWO
        ),
        "noisy-pairs": DataSet(["data.train=data/flickr8k_noisy", ALL], FLICKR8K_TEST, TWO),
        "gru": DataSet(
            [TRAIN, ALL, GRU], FLICKR8K_TEST, TWO, partial(adapted, from_scratch=["text"])
        ),
    },
    ARMS,
    {
        "i → t R@1": "image_to_text/recall@1",
        "R@10": "image_to_text/recall@10",
        "t → i R@1": "text_to_image/recall@1",
        "R@10 ": "text_to_image/recall@10",
        "rsum": "rsum",
        "gap": "gap/centroid_distance",
        "probe": "gap/probe_accuracy",
        "steps": "steps",
    },
    differences=[
        *(
            (arm.label, "triplets")
            for name, arm in ARMS.items()
            if name not in ("baseline", "plain")
        ),
        ("triplets, heads not centred", "triplets"),
    ],
    compared=["rsum", "probe"],
    quick="few-pairs",
)
