"""Documents to tokenized files, to shuffled shards, to mask plans."""
