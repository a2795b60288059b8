"""Optimisers, one file each, as `stages.N.optimizer` names them by `kind`."""

from xmodal.components.declared import declare

declare(__name__)
