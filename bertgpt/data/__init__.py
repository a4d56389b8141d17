"""Data pipeline, from text to batches: sources, tokenizers, build, execution, loading, and the format of the files."""
