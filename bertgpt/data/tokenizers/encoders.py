"""Bulk encoding: a batch of documents to one flat array of ids. The fast ones are checked against the reference.

    gigatoken    byte-level BPE        tokie        WordPiece
    tiktoken     byte-level BPE, where gigatoken has no wheel
    tokenizers   either; slow, and right by definition

A backend that differs from the reference on the first documents it is given is put aside for the whole task, with a
warning; so which backend ran never shows in the ids.
"""

import itertools
import json
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, cached_property
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bertgpt.data.documents import DocumentBatch
from bertgpt.data.tokenizers.tokenizer import Tokenizer

Ids = NDArray[np.uint32]
Lengths = NDArray[np.int64]

BREAK = re.compile("[ \n]")
SETTLED_ASCII = bytes(c for c in range(128) if (c >= 32 and c != 127) or chr(c) in "\t\n\r")
PIECE = 50_000  # characters that tokie is given at once
LONG = 4000  # bytes of a document, on average, from which encoding one by one costs nothing
CHECKED_BYTES = 4096  # of each task: documents are checked until so many bytes are


class Backend(Protocol):
    """One way to encode a batch."""

    name: str

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        """All ids in one array, and how many belong to each document."""


class Reference:
    """`tokenizers` itself."""

    name = "tokenizers"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.reference = tokenizer.reference

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        return self.encode_strings([document.decode() for document in texts.documents])

    def encode_strings(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """The same of decoded texts."""
        return flat([e.ids for e in self.reference.encode_batch_fast(texts, add_special_tokens=False)])


class Gigatoken:
    """Byte-level BPE with a cache of words."""

    name = "gigatoken"

    def __init__(self, tokenizer: Tokenizer) -> None:
        from gigatoken import Tokenizer as Fast

        self.fast = Fast.from_json(tokenizer.plain_content)

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        if len(texts.data) >= LONG * len(texts):  # one by one, which spares importing awkward
            parts = [self.fast.encode(document) for document in texts.documents]
            lengths = np.fromiter(map(len, parts), np.int64, len(parts))
            return np.concatenate(parts) if parts else np.empty(0, np.uint32), lengths
        layout = self.fast.encode_batch(bytestrings(texts), parallel=False).layout
        offsets = np.asarray(layout.offsets.data)
        return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets).astype(np.int64)


def bytestrings(texts: DocumentBatch) -> Any:
    """A batch as awkward has it, without a copy."""
    ak: Any = import_module("awkward")  # has no types

    content = ak.contents.NumpyArray(np.frombuffer(texts.data, np.uint8), parameters={"__array__": "byte"})
    offsets = ak.index.Index64(texts.offsets)
    return ak.Array(ak.contents.ListOffsetArray(offsets, content, parameters={"__array__": "bytestring"}))


class Tokie:
    """WordPiece; words with characters that it may normalise otherwise go to the reference."""

    name = "tokie"

    def __init__(self, tokenizer: Tokenizer) -> None:
        Fast: Any = import_module("tokie").Tokenizer  # noqa: N806 - its stubs lack what is called here

        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as file:  # it reads files only
            file.write(tokenizer.plain_content)
            file.flush()
            self.fast = Fast.from_json(file.name)
        self.reference = Reference(tokenizer)

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        strings = strings_of(texts)
        search = unsettled_character().search
        if max(map(len, strings), default=0) <= PIECE:
            plain = texts.data.isascii() and not texts.data.translate(None, SETTLED_ASCII)  # ten times faster to see
            if plain or search(texts.data.decode()) is None:
                return self.encode_plain(strings)
        pieces: list[str] = []  # WordPiece never looks past a space, so a text can be encoded in pieces
        owners: list[int] = []
        odd: list[int] = []
        for owner, text in enumerate(strings):
            if len(text) <= PIECE and search(text) is None:
                pieces.append(text)
                owners.append(owner)
                continue
            for piece, is_odd in split_for_tokie(text):
                if is_odd:
                    odd.append(len(pieces))
                pieces.append(piece)
                owners.append(owner)
        odd_ids, odd_lengths = self.reference.encode_strings([pieces[i] for i in odd])
        for i in odd:
            pieces[i] = ""
        ids, lengths = self.encode_plain(pieces)
        if odd:
            ends = np.cumsum(lengths)[odd]  # where the ids of each odd piece belong
            ids = np.insert(ids, np.repeat(ends, odd_lengths), odd_ids)
            lengths[odd] = odd_lengths
        return ids, np.bincount(owners, weights=lengths, minlength=len(strings)).astype(np.int64)

    def encode_plain(self, strings: list[str]) -> tuple[Ids, Lengths]:
        """By tokie alone."""
        ids, lengths = self.fast.encode_batch_flat(strings, False)
        return ids, lengths.astype(np.int64)


def strings_of(texts: DocumentBatch) -> list[str]:
    """Each document decoded."""
    if not texts.data.isascii():
        return [document.decode() for document in texts.documents]
    whole, places = texts.data.decode("ascii"), texts.offsets.tolist()
    return [whole[start:stop] for start, stop in itertools.pairwise(places)]


class Tiktoken:
    """Byte-level BPE whose ids are in the order of the merges."""

    name = "tiktoken"

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tiktoken import Encoding
        from tiktoken_ext.openai_public import r50k_pat_str

        ranks = {tokenizer.bytes_of(i): i for i in tokenizer.vocab.values() if i not in tokenizer.special_ids}
        merged = [tokenizer.vocab["".join(merge)] for merge in tokenizer.content["model"]["merges"]]
        if merged != sorted(merged):
            raise ValueError("its ids are not in the order of its merges")
        self.encoding = Encoding(
            tokenizer.fingerprint[:8], pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={}
        )

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        return flat([self.encoding.encode_ordinary(document.decode()) for document in texts.documents])


def flat(lists: list[list[int]]) -> tuple[Ids, Lengths]:
    """Lists of ids as one array and their lengths."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    ids = np.fromiter((i for ids in lists for i in ids), np.uint32, int(lengths.sum()))
    return ids, lengths


def split_for_tokie(text: str) -> Iterator[tuple[str, bool]]:
    """A text in pieces cut at spaces, none of them long, words with an odd character apart (True).

    tokie cuts long texts to share them among threads, and not always between words; so they come to it in pieces.
    """
    start = 0
    while start < len(text):
        stop = min(start + PIECE, len(text))
        match = unsettled_character().search(text, start, stop)
        if match is not None:
            begin = max(text.rfind(" ", start, match.start()), text.rfind("\n", start, match.start())) + 1 or start
            after = BREAK.search(text, match.start())
            end = after.start() if after else len(text)
            yield text[start:begin], False
            yield text[begin:end], True
            start = end
            continue
        if stop < len(text):
            cut = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop)) + 1
            if not cut:  # one endless word: no matter how, but by the reference
                after = BREAK.search(text, stop)
                stop = after.start() if after else len(text)
                yield text[start:stop], True
                start = stop
                continue
            stop = cut
        yield text[start:stop], False
        start = stop


@cache
def unsettled_character() -> re.Pattern[str]:
    """Characters that are young, or that Unicode has put into another category since version 3.2.

    Normalisers follow tables of different years. On all other characters tokie and tokenizers agree, each checked alone
    and inside a word.
    """
    then = unicodedata.ucd_3_2_0
    settled = [
        code
        for code in range(0x10000)
        if chr(code) in "\t\n\r"
        or (unicodedata.category(chr(code))[0] != "C" and then.category(chr(code)) == unicodedata.category(chr(code)))
    ]
    runs: list[list[int]] = []
    for code in settled:
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return re.compile("[^" + "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in runs) + "]")


def is_gpt2_like(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is byte-level BPE just as GPT-2's: what the fast backends are known to do right."""
    content = tokenizer.content
    split = content.get("pre_tokenizer") or {}
    usual = split.get("type") == "ByteLevel" and split.get("use_regex", True) and not split.get("add_prefix_space")
    return tokenizer.kind == "bpe" and usual and content.get("normalizer") is None and not tokenizer.non_special_added


def is_bert_like(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is WordPiece just as BERT's, lower-casing or not."""
    content = tokenizer.content
    change = content.get("normalizer") or {}
    usual = change.get("type") == "BertNormalizer" and change.get("clean_text") and change.get("handle_chinese_chars")
    split = (content.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
    kept = change.get("strip_accents") is None and not tokenizer.non_special_added
    return tokenizer.kind == "wordpiece" and bool(usual) and split and kept


class Encoder:
    """Encodes batches with the fastest backend that agrees with the reference."""

    def __init__(self, tokenizer: Tokenizer, warn: Callable[[str], None]) -> None:
        self.tokenizer, self.warn = tokenizer, warn
        self.bytes_to_check = CHECKED_BYTES

    @cached_property
    def backend(self) -> Backend:
        """The first backend that this tokenizer and this installation allow."""
        makers: list[Callable[[], Backend]] = []
        if is_gpt2_like(self.tokenizer):
            makers = [lambda: Gigatoken(self.tokenizer), lambda: Tiktoken(self.tokenizer)]
        elif is_bert_like(self.tokenizer):
            makers = [lambda: Tokie(self.tokenizer)]
        for make in makers:
            with suppress(Exception):  # young packages: an import that fails, a tokenizer that one cannot read
                return make()
        return Reference(self.tokenizer)

    def reset_check(self) -> None:
        """A new task begins: check again."""
        self.bytes_to_check = CHECKED_BYTES

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        """All ids in one array, and how many belong to each document."""
        try:
            ids, lengths = self.backend.encode(texts)
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # panics of Rust are no Exceptions
            if isinstance(self.backend, Reference):
                raise
            return self.fall_back(f"it fails with {type(error).__name__}", texts)
        if self.bytes_to_check > 0 and not isinstance(self.backend, Reference):
            difference = self.difference(texts, ids, lengths)
            if difference is not None:
                return self.fall_back(f"it differs from tokenizers {difference}", texts)
        return ids, lengths

    def fall_back(self, reason: str, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        """Go on with the reference."""
        self.warn(f"{self.backend.name} is put aside: {reason}")
        self.backend = Reference(self.tokenizer)
        return self.backend.encode(texts)

    def difference(self, texts: DocumentBatch, ids: Ids, lengths: Lengths) -> str | None:
        """What the reference makes of the first documents, where that is something else."""
        if len(lengths) != len(texts) or int(lengths.sum()) != len(ids):
            return "in the number of documents"
        some = texts.head(self.bytes_to_check)
        self.bytes_to_check -= len(some.data)
        expected, spans = Reference(self.tokenizer).encode(some)
        for i, (end, right_end) in enumerate(zip(lengths.cumsum(), spans.cumsum(), strict=False)):
            if not np.array_equal(ids[end - lengths[i] : end], expected[right_end - spans[i] : right_end]):
                return f"in a document that begins {json.dumps(some[i].decode()[:60])}"
        return None
