"""Data sources: local files, URLs, Hub datasets and tinyworld, and the readers that give their documents."""
