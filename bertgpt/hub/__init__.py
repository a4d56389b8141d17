"""Pretrained-model folders, and import from and export to `transformers`."""
