"""GPT-2's tokenizer by name, from what `tiktoken` downloads and keeps ($TIKTOKEN_CACHE_DIR is honoured)."""

from collections.abc import Mapping
from itertools import pairwise

from bertgpt.data.tokenizers.layouts import byte_level
from bertgpt.data.tokenizers.tokenizer import BYTE_OF, Tokenizer
from bertgpt.utils.errors import BertGPTError


def from_tiktoken() -> Tokenizer:
    """The 50 257 tokens of GPT-2."""
    from tiktoken_ext.openai_public import gpt2

    try:
        encoding = gpt2()
    except Exception as error:  # tiktoken lets whatever its download raised through
        raise BertGPTError(
            "BG405",
            "GPT-2's vocabulary cannot be downloaded, and is not in tiktoken's cache",
            cause=f"{type(error).__name__}: {error}"[:300],
            hint="set TIKTOKEN_CACHE_DIR to a folder that has it, or give a folder with vocab.bpe and encoder.json",
        ) from None
    ranks: Mapping[bytes, int] = encoding["mergeable_ranks"]
    char_of = {byte: char for char, byte in BYTE_OF.items()}

    def written(token: bytes) -> str:
        return "".join(char_of[byte] for byte in token)

    vocab = {written(token): rank for token, rank in ranks.items()} | encoding["special_tokens"]
    longer = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    return byte_level(vocab, [[written(part) for part in parts_of(token, ranks)] for token in longer])


def parts_of(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The two tokens whose merge made this one: what BPE leaves of it when only earlier merges are allowed."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        merged = [ranks.get(a + b, 1 << 30) for a, b in pairwise(parts)]
        best = min(range(len(merged)), key=merged.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts
