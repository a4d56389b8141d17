"""Datasets and batches: shards and mask plans in, causal, masked and classification batches out, in a seeded order."""
