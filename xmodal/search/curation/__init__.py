"""Curation: what embeddings tell of a shard set, and lists of the samples to keep. A file a task."""
