"""Linear, attention and cross-entropy kernels."""
