"""Tokenizers that this process has loaded, so that workers in the process of the command do not load them again."""

from pathlib import Path

from bertgpt.data.tokenizers.load import from_path
from bertgpt.data.tokenizers.tokenizer import Tokenizer

_tokenizers: dict[str, Tokenizer] = {}


def remember_tokenizer(tokenizer: Tokenizer) -> None:
    """Keep a tokenizer for the workers of this process."""
    _tokenizers[tokenizer.fingerprint] = tokenizer


def worker_tokenizer(folder: str, fingerprint: str) -> Tokenizer:
    """The tokenizer with this fingerprint, loaded from the folder on first use."""
    if fingerprint not in _tokenizers:
        _tokenizers[fingerprint] = from_path(Path(folder))
    return _tokenizers[fingerprint]
