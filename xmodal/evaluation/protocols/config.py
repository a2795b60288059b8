"""The family of evaluation protocols; imports no torch, so that help lists them at once."""

from typing import ClassVar

from xmodal.components.component import Component


class ProtocolConfig(Component):
    """An evaluation protocol: `evaluation.protocols` and `--protocol` name it by its kind."""

    family: ClassVar[str] = "evaluation protocol"
