"""`visual-graded`: images find images, each worth the share of labels in common."""

from typing import ClassVar, Literal

from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.metrics.visual import GRADED_HIGHER_IS_BETTER, graded_metrics
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics
from xmodal.evaluation.protocols.visual import Visual


class VisualGradedConfig(ProtocolConfig):
    """Discounted gain of images by the share of labels that they have in common."""

    kind: Literal["visual-graded"] = "visual-graded"
    builds: ClassVar[str] = "VisualGraded"


class VisualGraded(Visual):
    """Normalised discounted cumulative gain, over all images and over ten."""

    name = "visual-graded"
    higher_is_better = GRADED_HIGHER_IS_BETTER
    logged = ("ndcg",)

    def measure(self, context: EvaluationContext) -> Metrics:
        return self.measure_visual(context, graded_metrics)
