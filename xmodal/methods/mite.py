"""MITE: modality-invariant image-text embedding (Liu et al. 2019, doi 10.1145/3300939).

A reconstruction: the abstract says what the parts are, a triplet baseline, a modality
classification network with an adversarial loss, training in several stages; sizes and weights are
ours. The stages of xmodal/recipes/mite.yaml are

1. the triplet baseline: `sum`, then `semi_hard`;
2. the classifier D alone, on encoders that stay as they are: `classifier`;
3. all together: `semi_hard`, `classifier`, and λ times `adversarial`, with λ rising from 0;
4. the same with the image encoder.

The encoders learn from the adversarial loss through a classifier that is held fixed, the classifier
from its own through encoders that are, in one backward pass.

Three things decide whether this brings the modalities together or drives them apart. The heads
centre features (`normalise: batch`) and have a bias: features have a mean far from 0, by which one
step of Adam on a plain projection moves all embeddings of a modality further than the modalities
are apart. The classifier's slope is penalised, and it is linear on scaled embeddings: encoders run
away from one that is steep or late.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from xmodal.components.component import Buildable
from xmodal.methods.config import TowersConfig
from xmodal.methods.method import Loss
from xmodal.methods.towers import Embeddings, pairs
from xmodal.methods.vsepp import Vsepp
from xmodal.models.adversary import ModalityClassifier
from xmodal.models.heads.mlp import Mlp
from xmodal.models.tower import Build
from xmodal.objectives import ModalityAdversary, ModalityClassification
from xmodal.objectives.adversarial import AdversarialConfig


class ModalityClassifierConfig(Buildable):
    """A classifier of embeddings: of an image, or of a text?"""

    hidden: list[PositiveInt] = Field([], description="widths of hidden layers; none: linear")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout after each hidden layer")
    scale: bool = Field(
        True,
        description="multiply embeddings, which have length 1, by the root of their width first",
    )
    builds: ClassVar[str] = "xmodal.models.adversary:ModalityClassifier"


class MiteConfig(TowersConfig):
    """VSE++ against a classifier of modalities (MITE: Liu et al. 2019)."""

    kind: Literal["mite"] = "mite"
    margin: PositiveFloat = Field(
        0.2, description="margin between the positive score and negative scores"
    )
    classifier: ModalityClassifierConfig = Field(
        ModalityClassifierConfig(), description="the classifier of modalities"
    )
    slope_penalty: NonNegativeFloat = Field(
        3.0,
        description="weight of the squared slope of the classifier's log odds in `classifier`; 0: "
        "none",
    )
    adversary: AdversarialConfig = Field(AdversarialConfig(), description="the adversarial loss")
    builds: ClassVar[str] = "Mite"

    @model_validator(mode="before")
    @classmethod
    def _classifier_of_before(cls, values: Any) -> Any:
        """Take widths of hidden layers alone, as recipes of before have them."""
        if not isinstance(values, dict) or not isinstance(values.get("classifier"), list):
            return values
        hidden, dropout = values["classifier"], values.get("classifier_dropout", 0.5)
        kept = {key: value for key, value in values.items() if key != "classifier_dropout"}
        before = {"hidden": hidden, "dropout": dropout, "scale": False}
        return {"slope_penalty": 0.0, **kept, "classifier": before}


class Mite(Vsepp):
    """VSE++ whose embeddings do not show whether they are of an image v or of a text t."""

    monitored = ("collapse", "adversary_accuracy")

    def __init__(
        self,
        image: Build,
        text: Build,
        image_head: Build | None = Mlp,
        text_head: Build | None = Mlp,
        embedding: int = 256,
        margin: float = 0.2,
        classifier: Build = ModalityClassifier,
        slope_penalty: float = 3.0,
        adversary: Build = ModalityAdversary,
        *,
        vocabulary: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(
            image, text, image_head, text_head, embedding, margin, vocabulary=vocabulary, bf16=bf16
        )
        self.classifier = classifier(embedding)
        self.classification = ModalityClassification(penalty=slope_penalty)
        self.adversary = adversary()

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Those of the baseline, the classifier's, and the encoders' against it."""
        return {
            **super().losses,
            "classifier": self.classifier_loss,
            "adversarial": self.adversarial_loss,
        }

    def classifier_loss(self, embeddings: Embeddings) -> Tensor:
        """L_D = −(1/2B) Σᵢ [log D(img | vᵢ) + log D(txt | tᵢ)], for the classifier alone.

        And the penalty on its slope.
        """
        both = pairs(embeddings)
        return self.classification(both.images, both.texts, self.classifier, self.seed)

    def adversarial_loss(self, embeddings: Embeddings) -> Tensor:
        """L_adv, for the encoders alone: `method.adversary.encoders` says in which form.

        `reversal`: −L_D, as by a gradient reversal layer; `flipped`: L_D with the classes
        swapped; `confusion`: the cross entropy to one half and one half.
        """
        both = pairs(embeddings)
        return self.adversary(both.images, both.texts, self.classifier)
