"""Encode text that a user typed, and decode ids to text for display, also token by token."""

import codecs
from collections.abc import Sequence

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError


def encode_checked(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a text that a user typed; raises BertGPTError if it is not valid Unicode (lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BertGPTError("BG301", "invalid UTF-8 in text", cause=ascii(text)[:80]) from None
    return tokenizer.encode(text)


def decode_fragment(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Decode ids from inside a text; WordPiece tokens keep their ##, with a space in front of each word."""
    if tokenizer.kind == "bpe":
        return tokenizer.decode(ids)
    return "".join(token if token.startswith("##") else f" {token}" for token in (tokenizer.tokens[i] for i in ids))


class IncrementalDetokenizer:
    """Streaming decoder: text is returned as soon as it is final, since bytes wait until a character is complete.

    The concatenation of everything it returns is what `Tokenizer.decode` returns for all ids.
    """

    def __init__(self, tokenizer: Tokenizer, continuing: bool = False) -> None:
        self.tokenizer = tokenizer
        self.is_first = not continuing  # WordPiece puts a space in front of every word but the first
        self.utf8_decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        """Add one id; returns the text that it completes."""
        if self.tokenizer.kind != "bpe":
            return self.add_wordpiece(self.tokenizer.tokens[token_id])
        if token_id in self.tokenizer.special_ids:
            return self.flush() + self.tokenizer.tokens[token_id]
        return self.utf8_decoder.decode(self.tokenizer.id_to_bytes(token_id))

    def add_wordpiece(self, token: str) -> str:
        """Add a WordPiece token."""
        is_first, self.is_first = self.is_first, False
        return token if is_first else token.removeprefix("##") if token.startswith("##") else f" {token}"

    def flush(self) -> str:
        """End the stream; returns U+FFFD for an incomplete character, else an empty string."""
        rest = self.utf8_decoder.decode(b"", final=True)
        self.utf8_decoder.reset()
        return rest
