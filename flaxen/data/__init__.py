"""Sources to packed batches of tokens; how far they were read can be saved."""
