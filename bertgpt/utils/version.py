"""The version of the package and of its file formats."""

__version__ = "0.1.0"
FORMAT_VERSION = 2  # of manifests, checkpoints and run directories; 1 had other names and keys, and is rejected
