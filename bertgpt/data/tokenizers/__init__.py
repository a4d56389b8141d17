"""Load, train, encode and detokenize."""
