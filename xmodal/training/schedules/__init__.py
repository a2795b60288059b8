"""Learning-rate schedules, one file each, as `stages.N.schedule` names them by `kind`."""

from xmodal.components.declared import declare

declare(__name__)
