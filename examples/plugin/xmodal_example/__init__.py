"""Components for xmodal, one file each: copy the one that you need and change it."""

from xmodal.components.declared import declare

# Registers the configurations of all modules of this package. What they build, and with it torch,
# is imported once it is built. Importing the modules here would do as well, and make `--help` slow.
declare(__name__)
