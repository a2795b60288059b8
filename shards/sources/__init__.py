"""One module a data set; `shards.source` says what such a module has."""
