"""Text that people type to ids, and ids to text that people read."""

import codecs
from collections.abc import Sequence

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError


def encode_checked(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text that somebody typed, which may be none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BertGPTError("BG301", "this text is not UTF-8", cause=ascii(text)[:80]) from None
    return tokenizer.encode(text)


def decode_fragment(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Ids within a text; the pieces of WordPiece as they are, with spaces between words."""
    if tokenizer.kind == "bpe":
        return tokenizer.decode(ids)
    return "".join(token if token.startswith("##") else f" {token}" for token in (tokenizer.tokens[i] for i in ids))


class IncrementalDetokenizer:
    """The text of ids as they come: what was said never has to be taken back, since bytes wait for whole characters.

    All that it returns, one after the other, is what `Tokenizer.decode` makes of all the ids.
    """

    def __init__(self, tokenizer: Tokenizer, goes_on: bool = False) -> None:
        self.tokenizer = tokenizer
        self.is_first = not goes_on  # words of WordPiece have a space before them, but the first
        self.bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, i: int) -> str:
        """What one more id adds to the text."""
        if self.tokenizer.kind != "bpe":
            return self.word(self.tokenizer.tokens[i])
        if i in self.tokenizer.special_ids:
            return self.end() + self.tokenizer.tokens[i]
        return self.bytes.decode(self.tokenizer.bytes_of(i))

    def word(self, token: str) -> str:
        """A piece of WordPiece."""
        first, self.is_first = self.is_first, False
        return token if first else token.removeprefix("##") if token.startswith("##") else f" {token}"

    def end(self) -> str:
        """What is left where no more ids come: a mark, for a character that was never finished."""
        left = self.bytes.decode(b"", final=True)
        self.bytes.reset()
        return left
