"""Base classes of components: of a plugin's families, and of the configurations that it defines.

    from xmodal.components import Config, Mark

Most components derive from a family, such as `xmodal.objectives.ObjectiveConfig`; these names are
for parts of theirs, for fields with a meaning of their own, and for new families.
"""

from typing import TYPE_CHECKING

from xmodal.lazy_names import lazy_names

if TYPE_CHECKING:
    from xmodal.components.component import Buildable, Component
    from xmodal.components.config import Config, Duration, Mark, Secret, Span, Was

__all__ = ["Buildable", "Component", "Config", "Duration", "Mark", "Secret", "Span", "Was"]

__getattr__ = lazy_names(__name__)
