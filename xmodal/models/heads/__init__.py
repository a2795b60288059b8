"""Projections into the common space, one file each."""

from xmodal.components.declared import declare

declare(__name__)
