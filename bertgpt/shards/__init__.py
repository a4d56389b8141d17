"""Ids on disk, and batches of them."""
