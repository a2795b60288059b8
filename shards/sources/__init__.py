"""Sources of data sets, one module each; see `shards.source`."""
