"""Parameters of a network by depth: the embeddings (or the stem) first, then each block.

What follows the last block, such as the last norm, belongs to it: the groups are those of timm.
"""

from typing import Any

from timm.models import group_parameters
from torch import nn


def by_matcher(network: Any, prefix: str) -> list[list[str]] | None:
    """Return the groups of a timm model by its `group_matcher`, each name behind `prefix`.

    None where it has no such patterns.
    """
    matcher = network.group_matcher(coarse=False) if hasattr(network, "group_matcher") else None
    if not isinstance(matcher, dict):
        return None
    # timm's mark for what belongs to the group before: here all that no pattern matches.
    groups = group_parameters(network, {**matcher, "others": [("", (99999,))]})
    return [[prefix + name for name in groups[number]] for number in sorted(groups)]


def by_blocks(network: nn.Module) -> list[list[str]]:
    """Return groups around the longest row of modules of one class: what is before it, each one.

    A network without such a row is a single group.
    """
    blocks = _blocks(network)
    groups: list[list[str]] = [[] for _ in range(len(blocks) + 1)]
    current = 0
    for name, _ in network.named_parameters():
        own = next((i for i, block in enumerate(blocks, 1) if name.startswith(f"{block}.")), None)
        # What stands before the blocks is listed before them, what follows them after.
        current = own or (len(blocks) if current else 0)
        groups[current].append(name)
    return groups


def _blocks(network: nn.Module) -> list[str]:
    rows = [
        [f"{name}.{child}" if name else child for child in dict(module.named_children())]
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len({type(one) for one in module.children()}) == 1
    ]
    return max(rows, key=len, default=[])
