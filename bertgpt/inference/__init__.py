"""Inference: load a model, then generate, fill masks, score, embed or classify."""
