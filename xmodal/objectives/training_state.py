"""State that objectives keep from step to step, beside their parameters."""

from typing import Any

from torch import nn


class TrainingState(nn.Module):
    """Buffers that training alone needs, the same on all ranks; checkpoints hold them.

    They are empty until `make_room` is called. Where it is not, as in a model that is only used,
    those of a checkpoint are left unread.
    """

    def make_room(self, num_samples: int) -> None:
        """Make the buffers for training on so many samples, as they are before the first step."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if not buffer.numel() and f"{prefix}{name}" in state_dict:
                state_dict[f"{prefix}{name}"] = buffer
        super()._load_from_state_dict(state_dict, prefix, *others)
