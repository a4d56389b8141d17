"""The HTML report on runs: one self-contained page."""
