"""Pretrained-model folders and the layouts of transformers: mapping, import, export."""
