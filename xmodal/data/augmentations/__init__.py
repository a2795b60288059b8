"""Augmentations of a view, one file each, as `data.augment` names them by `kind`."""

from xmodal.components.declared import declare

declare(__name__)
