"""Extra negatives that would be ignored are refused."""

from typing import Any

import pytest
import torch

from xmodal.objectives.extra import Extra

IDS = torch.arange(2)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"side": "z"}, "side must be one of x, y, not 'z'"),
        ({"seen": "some"}, "seen must be one of all, own, not 'some'"),
        ({"ids": torch.arange(3)}, r"the ids of 2 extra columns must be int64 \(n,\)"),
    ],
)
def test_what_would_be_ignored_is_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Extra(torch.zeros(2, 3), **({"ids": IDS} | given))
