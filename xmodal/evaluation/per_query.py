"""Results of each query of an evaluation, by which two evaluations are compared query by query."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Role = Literal["image", "caption", "query"]  # query: a source and its modification
NOWHERE = 2**31 - 1  # rank of a query without a relevant item


@dataclass(frozen=True)
class PerQuery:
    """Results of the queries of one direction of a protocol.

    Attributes:
        name: beginning of the names of its metrics, such as `relevance/image_to_text`.
        role: what a query is.
        numbers: (queries,) int64, the samples' numbers in the manifest.
        captions: (queries,) int64, the captions' numbers among those of their samples; else 0.
        ranks: (queries,) int64, 0-based, by the name of a recall: `recall` of `NAME/recall@K`.
        values: (queries,), in percent, by the name of the metric that is their mean.
    """

    name: str
    role: Role
    numbers: Tensor
    captions: Tensor
    ranks: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)

    def of(self, rows: Tensor, name: str) -> "PerQuery":
        """Return the results of some queries, under a name."""
        return combined([self], lambda columns: columns[0][rows], name)


def joined(parts: Sequence[PerQuery]) -> PerQuery:
    """Return the results of several sets of queries as those of one."""
    return combined(parts, torch.cat, parts[0].name)


def combined(
    parts: Sequence[PerQuery], combine: Callable[[list[Tensor]], Tensor], name: str
) -> PerQuery:
    """Return results of which each column is combined from that of all parts."""
    first = parts[0]
    return PerQuery(
        name,
        first.role,
        combine([one.numbers for one in parts]),
        combine([one.captions for one in parts]),
        {key: combine([one.ranks[key] for one in parts]) for key in first.ranks},
        {key: combine([one.values[key] for one in parts]) for key in first.values},
    )
