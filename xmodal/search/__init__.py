"""Search and curation: embeddings of a shard set, indices over them, queries, keep-lists."""
