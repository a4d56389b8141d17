"""One module per command; each reads top to bottom as the whole stage."""
