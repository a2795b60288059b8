"""`sugarcrepe`: an image's own caption or a false one, in SugarCrepe's seven categories.

Hsieh et al. 2023, arXiv 2306.14610.
"""

from typing import ClassVar, Literal

from xmodal.data.evaluation import Contrast
from xmodal.errors import UserError
from xmodal.evaluation.metrics.contrasts import HIGHER_IS_BETTER
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.false_captions import FalseCaptions

CATEGORIES = (
    *("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"),
)


class SugarCrepeConfig(ProtocolConfig):
    """Accuracy of the choice of two captions, by SugarCrepe's categories."""

    kind: Literal["sugarcrepe"] = "sugarcrepe"
    builds: ClassVar[str] = "SugarCrepe"


class SugarCrepe(FalseCaptions):
    """Accuracy in each of the seven categories, of all captions, and the categories' mean."""

    name = "sugarcrepe"
    higher_is_better = (*HIGHER_IS_BETTER, *(f"{name}/accuracy" for name in CATEGORIES))

    def check_contrasts(self, contrasts: list[Contrast], url: str) -> None:
        found = {one.category or "none" for one in contrasts}
        if found != set(CATEGORIES):
            raise UserError(
                f"sugarcrepe is measured on its seven categories, and {url} has "
                f"{', '.join(sorted(found))}; use false-captions"
            )
