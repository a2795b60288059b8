"""Curation: what embeddings tell of a shard set, and which samples to keep; a file a task."""
