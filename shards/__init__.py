"""Data sets as WebDataset shards: `python -m shards` builds, indexes, checks and shows them."""
