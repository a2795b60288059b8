"""`relevance`: captions are relevant to all images that the set's relevance.json lists."""

from typing import ClassVar, Literal

from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext, EvaluationData
from xmodal.evaluation.protocols.all_captions import AllCaptions, Ranking, rank_captions
from xmodal.evaluation.protocols.config import ProtocolConfig


class RelevanceConfig(ProtocolConfig):
    """Recall of captions and images, with the ground truth of relevance.json."""

    kind: Literal["relevance"] = "relevance"
    builds: ClassVar[str] = "ByRelevance"


class ByRelevance(AllCaptions):
    """Recall with the ground truth of `relevance.json`."""

    name = "relevance"

    def check(self, data: EvaluationData) -> None:
        super().check(data)
        if data.relevance is None:
            url = data.reader.manifest.url
            raise UserError(f"{url} has no relevance.json, which relevance reads; use all-captions")

    def rank(self, context: EvaluationContext) -> Ranking:
        return rank_captions(context, context.gallery, context.relevance)
