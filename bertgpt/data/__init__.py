"""Text to batches: sources, tokenizers, build, execution, loading, and the file format between them."""
