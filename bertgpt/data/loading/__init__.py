"""Shards to batches: order, causal windows, MLM rows, masking, prefetch."""
