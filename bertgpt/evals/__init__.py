"""What a model is worth: scores, each with its definition."""
