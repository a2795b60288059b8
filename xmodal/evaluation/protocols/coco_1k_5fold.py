"""`coco-1k-5fold`: the test split of COCO in five folds of 1,000 images."""

from typing import ClassVar, Literal

from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.per_query import PerQuery, joined
from xmodal.evaluation.protocols.all_captions import Ranking, rank_captions
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.karpathy import KarpathySplit
from xmodal.evaluation.protocols.protocol import Metrics

FOLD = 1000  # images


class Coco1kFiveFoldConfig(ProtocolConfig):
    """Mean recall of five folds of the 5,000 test images of COCO, each measured apart."""

    kind: Literal["coco-1k-5fold"] = "coco-1k-5fold"
    builds: ClassVar[str] = "Coco1kFiveFold"


class Coco1kFiveFold(KarpathySplit):
    """The mean of each metric over folds of consecutive images."""

    name = "coco-1k-5fold"
    images = 5000
    shows = None

    def measure(self, context: EvaluationContext) -> Metrics:
        of_folds = [fold.metrics(self.name) for fold in self.rank_folds(context)]
        return {name: sum(fold[name] for fold in of_folds) / len(of_folds) for name in of_folds[0]}

    def rank_folds(self, context: EvaluationContext) -> list[Ranking]:
        """Rank the captions of each fold, once."""
        gallery = self.five_captions(context.gallery, context.reader)
        return context.once(
            self.name, lambda: [rank_captions(context, fold, None) for fold in folds(gallery)]
        )

    def per_query(self, context: EvaluationContext) -> list[PerQuery]:
        of_folds = [fold.per_query(self.name) for fold in self.rank_folds(context)]
        # Folds have equally many queries, so that the mean over all is that over folds.
        return [joined(parts) for parts in zip(*of_folds, strict=True)]


def folds(gallery: Gallery) -> list[Gallery]:
    """Return consecutive parts of 1,000 images and their captions."""
    return [gallery.part(at, at + FOLD) for at in range(0, len(gallery.images), FOLD)]
