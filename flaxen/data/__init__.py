"""Files of records to packed batches of tokens; the position in the data can be saved."""
