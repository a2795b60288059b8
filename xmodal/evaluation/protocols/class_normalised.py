"""`class-normalised`: `class` by cosines of embeddings that are standardised over the set."""

from typing import ClassVar, Literal

from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.metrics.average_precision import class_metrics, standardised
from xmodal.evaluation.metrics.similarity import Similarity
from xmodal.evaluation.protocols.by_class import ByClass
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics
from xmodal.methods.scores import dot_product


class ClassNormalisedConfig(ProtocolConfig):
    """Mean average precision by class, of embeddings standardised over the test set."""

    kind: Literal["class-normalised"] = "class-normalised"
    builds: ClassVar[str] = "ByClassNormalised"


class ByClassNormalised(ByClass):
    """Mean average precision as in CCL's published evaluation."""

    name = "class-normalised"
    variants = ()

    def measure(self, context: EvaluationContext) -> Metrics:
        self.check_one_embedding(context.gallery, "one of a text")
        return class_metrics(
            standardised(context.gallery),
            context.classes,
            Similarity(dot_product),
            self.name,
            context.config.tile,
        )
