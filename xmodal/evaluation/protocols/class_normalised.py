"""`class-normalised`: `class` by cosines of embeddings that are standardised over the set."""

from typing import ClassVar, Literal

from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.metrics.average_precision import class_precisions, standardised
from xmodal.evaluation.metrics.similarity import Similarity
from xmodal.evaluation.protocols.by_class import ByClass, ByDirection
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.methods.scores import dot_product


class ClassNormalisedConfig(ProtocolConfig):
    """Mean average precision by class, of embeddings standardised over the test set."""

    kind: Literal["class-normalised"] = "class-normalised"
    builds: ClassVar[str] = "ByClassNormalised"


class ByClassNormalised(ByClass):
    """Mean average precision as in CCL's published evaluation."""

    name = "class-normalised"
    variants = ()

    def judge(self, context: EvaluationContext) -> dict[str, ByDirection]:
        self.check_one_embedding(context.gallery, "one of a text")
        gallery, similarity = standardised(context.gallery), Similarity(dot_product)
        return {"": class_precisions(gallery, context.classes, similarity, context.config.tile)}
