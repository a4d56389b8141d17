"""Tokenizers: load, train, encode and detokenize."""
