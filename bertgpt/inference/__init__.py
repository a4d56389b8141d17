"""Load a model; generate, fill masks, score, embed, classify."""
