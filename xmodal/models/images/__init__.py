"""Image encoders, one file each."""

from xmodal.components.declared import declare

declare(__name__)
