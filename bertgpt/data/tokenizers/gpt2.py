"""GPT-2's tokenizer, from the vocabulary that `tiktoken` downloads and caches ($TIKTOKEN_CACHE_DIR is honored)."""

from collections.abc import Mapping
from itertools import pairwise

from bertgpt.data.tokenizers.layouts import byte_level
from bertgpt.data.tokenizers.tokenizer import BYTE_OF, Tokenizer
from bertgpt.utils.errors import BertGPTError


def from_tiktoken() -> Tokenizer:
    """GPT-2's byte-level BPE with 50,257 tokens."""
    from tiktoken_ext.openai_public import gpt2

    try:
        encoding = gpt2()
    except Exception as error:  # tiktoken does not catch the exceptions of its HTTP client
        raise BertGPTError(
            "BG405",
            "GPT-2's vocabulary cannot be downloaded and is not in tiktoken's cache",
            cause=f"{type(error).__name__}: {error}"[:300],
            hint="set TIKTOKEN_CACHE_DIR to a folder that has it, or use a folder with vocab.bpe and encoder.json",
        ) from None
    ranks: Mapping[bytes, int] = encoding["mergeable_ranks"]
    char_of = {byte: char for char, byte in BYTE_OF.items()}

    def to_unicode(token: bytes) -> str:
        return "".join(char_of[byte] for byte in token)

    vocab = {to_unicode(token): rank for token, rank in ranks.items()} | encoding["special_tokens"]
    merged = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    return byte_level(vocab, [[to_unicode(part) for part in merged_pair(token, ranks)] for token in merged])


def merged_pair(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The two tokens that were merged into this one: the result of BPE with the earlier merges only."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pair_ranks = [ranks.get(a + b, 1 << 30) for a, b in pairwise(parts)]
        best = min(range(len(pair_ranks)), key=pair_ranks.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts
