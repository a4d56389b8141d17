"""Options, presets, named corpora, resolution of values, YAML."""
