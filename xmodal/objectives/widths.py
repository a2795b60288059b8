"""Widths of embeddings that are trained together."""

from collections.abc import Sequence


def check_widths(widths: Sequence[int], weights: Sequence[float] | None) -> None:
    """Raise `ValueError` where widths do not rise, or weights are not one for each."""
    if list(widths) != sorted(set(widths)):
        raise ValueError(f"widths must rise: {list(widths)} do not")
    if weights is not None and len(weights) != len(widths):
        raise ValueError(f"weights must be {len(widths)}, one a width, not {len(weights)}")
