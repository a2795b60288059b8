"""Objectives over the global batch, exact on any number of ranks, for any PyTorch loop.

    from xmodal.objectives import InfoNCE

    objective = InfoNCE(scale=14.3)
    loss = objective(images, texts)  # (pairs, dim) each, this rank's rows

Ranks are those of `torch.distributed`'s default process group; without one there is one rank. The
value returned is this rank's *share*: its mean over the ranks is the loss, and the mean over the
ranks of the parameters' gradients, which `DistributedDataParallel` takes, is the loss's gradient.
Nothing has to be multiplied by the number of ranks. An objective with parameters of its own, such
as a temperature, has to be inside the module that is wrapped.

Names are imported when first used: configurations of recipes need no torch.
"""

from typing import TYPE_CHECKING

from xmodal.components.declared import declare
from xmodal.lazy_names import lazy_names

if TYPE_CHECKING:
    from xmodal.distributed.collectives import (
        gather,
        mean_of_shares,
        row_counts,
        share_of_mean,
        sum_over_ranks,
    )
    from xmodal.objectives.adversarial import ModalityAdversary, ModalityClassification
    from xmodal.objectives.affinity import Affinity
    from xmodal.objectives.batch_classification import BatchClassification
    from xmodal.objectives.circle import Circle
    from xmodal.objectives.config import ObjectiveConfig, PairwiseConfig, TiledConfig
    from xmodal.objectives.double_triplet import DoubleTriplet
    from xmodal.objectives.embedding_queue import EmbeddingQueue
    from xmodal.objectives.extra import Extra
    from xmodal.objectives.feature_distillation import FeatureDistillation
    from xmodal.objectives.frozen import frozen_parameters
    from xmodal.objectives.global_contrastive import GlobalContrastive
    from xmodal.objectives.info_nce import InfoNCE
    from xmodal.objectives.late_interaction import LateInteraction
    from xmodal.objectives.margin import Margin
    from xmodal.objectives.matryoshka import Matryoshka
    from xmodal.objectives.matryoshka_of_each import MatryoshkaOfEach
    from xmodal.objectives.metric_pairs import MetricPairs
    from xmodal.objectives.multi_similarity import MultiSimilarity
    from xmodal.objectives.mutual_information import MutualInformation, SampledMutualInformation
    from xmodal.objectives.norm_softmax import NormSoftmax, PairedNormSoftmax
    from xmodal.objectives.pairs import Pairs
    from xmodal.objectives.pairwise import (
        Cell,
        hardest,
        log_sum_exp,
        num_negatives,
        pair_sum,
        total_log_sum_exp,
    )
    from xmodal.objectives.polysemous import diversity, maximum_mean_discrepancy
    from xmodal.objectives.prior import PriorMatching
    from xmodal.objectives.proxy_anchor import PairedProxyAnchor, ProxyAnchor
    from xmodal.objectives.self_distillation import NegativeCosine
    from xmodal.objectives.sigmoid import Sigmoid
    from xmodal.objectives.smooth_ap import SmoothAp
    from xmodal.objectives.soft_relevance import SoftRelevance
    from xmodal.objectives.soft_triplet import SoftTriplet
    from xmodal.objectives.supervised_contrastive import SupervisedContrastive
    from xmodal.objectives.triplet import Triplet
    from xmodal.objectives.warmup import Scheduled

__all__ = [
    "Affinity",
    "BatchClassification",
    "Cell",
    "Circle",
    "DoubleTriplet",
    "EmbeddingQueue",
    "Extra",
    "FeatureDistillation",
    "GlobalContrastive",
    "InfoNCE",
    "LateInteraction",
    "Margin",
    "Matryoshka",
    "MatryoshkaOfEach",
    "MetricPairs",
    "ModalityAdversary",
    "ModalityClassification",
    "MultiSimilarity",
    "MutualInformation",
    "NegativeCosine",
    "NormSoftmax",
    "ObjectiveConfig",
    "PairedNormSoftmax",
    "PairedProxyAnchor",
    "Pairs",
    "PairwiseConfig",
    "PriorMatching",
    "ProxyAnchor",
    "SampledMutualInformation",
    "Scheduled",
    "Sigmoid",
    "SmoothAp",
    "SoftRelevance",
    "SoftTriplet",
    "SupervisedContrastive",
    "TiledConfig",
    "Triplet",
    "diversity",
    "frozen_parameters",
    "gather",
    "hardest",
    "log_sum_exp",
    "maximum_mean_discrepancy",
    "mean_of_shares",
    "num_negatives",
    "pair_sum",
    "row_counts",
    "share_of_mean",
    "sum_over_ranks",
    "total_log_sum_exp",
]

__getattr__ = lazy_names(__name__)
declare(__name__)
