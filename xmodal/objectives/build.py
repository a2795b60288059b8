"""From a recipe's objective over pairs to its module."""

from xmodal.objectives.config import (
    InfoNCEConfig,
    MarginConfig,
    MutualInformationConfig,
    ObjectiveConfig,
    SigmoidConfig,
    TripletConfig,
)
from xmodal.objectives.contrastive import InfoNCE
from xmodal.objectives.margin import Margin
from xmodal.objectives.mutual_information import MutualInformation
from xmodal.objectives.sigmoid import Sigmoid
from xmodal.objectives.triplet import Triplet

# Of x, y and ids, a rank's share of the loss.
PairObjective = InfoNCE | Sigmoid | Margin | Triplet | MutualInformation


def build_objective(config: ObjectiveConfig) -> PairObjective:
    """Return the objective that a recipe names."""
    match config:
        case InfoNCEConfig():
            return InfoNCE(config)
        case SigmoidConfig():
            return Sigmoid(config)
        case MarginConfig():
            return Margin(config)
        case TripletConfig():
            return Triplet(config)
        case MutualInformationConfig():
            return MutualInformation(config)
    raise AssertionError(config)
