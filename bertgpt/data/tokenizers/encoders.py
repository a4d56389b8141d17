"""Bulk encoding: a batch of documents to one flat array of ids, with fast backends checked against the reference.

    gigatoken    byte-level BPE
    tiktoken     byte-level BPE, on platforms without a wheel of gigatoken
    tokie        WordPiece
    tokenizers   both; slow, and correct by definition

A backend whose ids differ from the reference on the first documents of a task is disabled for the rest of the task,
with a warning. So the ids never depend on which backend ran.
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

WORD_BREAK = re.compile("[ \n]")
STABLE_ASCII = bytes(c for c in range(128) if (c >= 32 and c != 127) or chr(c) in "\t\n\r")
MAX_TOKIE_CHARS = 50_000  # per text given to tokie
LONG_DOCUMENT_BYTES = 4000  # mean document size from which encoding one by one is as fast as in a batch
CHECKED_BYTES = 4096  # of the first documents of each task are compared with the reference


class Backend(Protocol):
    """An encoder of batches."""

    name: str

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        """The ids of all documents in one array, and the number of ids of each document."""


class Reference:
    """`tokenizers`, which defines the correct ids."""

    name = "tokenizers"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.reference = tokenizer.reference

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        return self.encode_strings([document.decode() for document in texts.documents])

    def encode_strings(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """Encode strings."""
        return flatten([e.ids for e in self.reference.encode_batch_fast(texts, add_special_tokens=False)])


class Gigatoken:
    """gigatoken: byte-level BPE with a word cache."""

    name = "gigatoken"

    def __init__(self, tokenizer: Tokenizer) -> None:
        from gigatoken import Tokenizer as Fast

        self.fast = Fast.from_json(tokenizer.json_without_specials)

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        if len(texts.data) >= LONG_DOCUMENT_BYTES * len(texts):  # avoids importing awkward
            parts = [self.fast.encode(document) for document in texts.documents]
            lengths = np.fromiter(map(len, parts), np.int64, len(parts))
            return np.concatenate(parts) if parts else np.empty(0, np.uint32), lengths
        layout = self.fast.encode_batch(to_awkward(texts), parallel=False).layout
        offsets = np.asarray(layout.offsets.data)
        return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets).astype(np.int64)


def to_awkward(texts: DocumentBatch) -> Any:
    """A batch as an awkward array of bytestrings, without a copy."""
    ak: Any = import_module("awkward")  # has no types

    content = ak.contents.NumpyArray(np.frombuffer(texts.data, np.uint8), parameters={"__array__": "byte"})
    offsets = ak.index.Index64(texts.offsets)
    return ak.Array(ak.contents.ListOffsetArray(offsets, content, parameters={"__array__": "bytestring"}))


class Tokie:
    """tokie: WordPiece; words with characters that it may normalize differently go to the reference."""

    name = "tokie"

    def __init__(self, tokenizer: Tokenizer) -> None:
        Fast: Any = import_module("tokie").Tokenizer  # noqa: N806 - its stubs are incomplete

        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as file:  # reads only files
            file.write(tokenizer.json_without_specials)
            file.flush()
            self.fast = Fast.from_json(file.name)
        self.reference = Reference(tokenizer)

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        strings = decode_documents(texts)
        find_unsettled = unsettled_character().search
        if max(map(len, strings), default=0) <= MAX_TOKIE_CHARS:
            is_stable = texts.data.isascii() and not texts.data.translate(None, STABLE_ASCII)  # ten times faster
            if is_stable or find_unsettled(texts.data.decode()) is None:
                return self.encode_strings(strings)
        pieces: list[str] = []  # WordPiece never looks past a space, so a text can be encoded in pieces
        owners: list[int] = []  # document of each piece
        for_reference: list[int] = []
        for owner, text in enumerate(strings):
            if len(text) <= MAX_TOKIE_CHARS and find_unsettled(text) is None:
                pieces.append(text)
                owners.append(owner)
                continue
            for piece, is_unsettled in split_for_tokie(text):
                if is_unsettled:
                    for_reference.append(len(pieces))
                pieces.append(piece)
                owners.append(owner)
        reference_ids, reference_lengths = self.reference.encode_strings([pieces[i] for i in for_reference])
        for i in for_reference:
            pieces[i] = ""
        ids, lengths = self.encode_strings(pieces)
        if for_reference:
            positions = np.cumsum(lengths)[for_reference]  # where to insert the ids of each piece
            ids = np.insert(ids, np.repeat(positions, reference_lengths), reference_ids)
            lengths[for_reference] = reference_lengths
        return ids, np.bincount(owners, weights=lengths, minlength=len(strings)).astype(np.int64)

    def encode_strings(self, strings: list[str]) -> tuple[Ids, Lengths]:
        """Encode strings with tokie only."""
        ids, lengths = self.fast.encode_batch_flat(strings, False)
        return ids, lengths.astype(np.int64)


def decode_documents(texts: DocumentBatch) -> list[str]:
    """The documents as strings."""
    if not texts.data.isascii():
        return [document.decode() for document in texts.documents]
    text = texts.data.decode("ascii")  # one byte per character, so the offsets are valid for the string
    return [text[start:stop] for start, stop in itertools.pairwise(texts.offsets.tolist())]


class Tiktoken:
    """tiktoken: byte-level BPE, if the ids are in the order of the merges."""

    name = "tiktoken"

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tiktoken import Encoding
        from tiktoken_ext.openai_public import r50k_pat_str

        ranks = {tokenizer.id_to_bytes(i): i for i in tokenizer.vocab.values() if i not in tokenizer.special_ids}
        merged = [tokenizer.vocab["".join(merge)] for merge in tokenizer.content["model"]["merges"]]
        if merged != sorted(merged):
            raise ValueError("ids are not in the order of the merges")
        self.encoding = Encoding(
            tokenizer.fingerprint[:8], pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={}
        )

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        return flatten([self.encoding.encode_ordinary(document.decode()) for document in texts.documents])


def flatten(lists: list[list[int]]) -> tuple[Ids, Lengths]:
    """Lists of ids as one array, and their lengths."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    ids = np.fromiter((i for ids in lists for i in ids), np.uint32, int(lengths.sum()))
    return ids, lengths


def split_for_tokie(text: str) -> Iterator[tuple[str, bool]]:
    """Split a text at spaces into pieces that are short enough, words with an unsettled character apart (True).

    tokie splits long texts itself, to share them among threads, and not always between words.
    """
    start = 0
    while start < len(text):
        stop = min(start + MAX_TOKIE_CHARS, len(text))
        match = unsettled_character().search(text, start, stop)
        if match is not None:
            word_start = max(text.rfind(" ", start, match.start()), text.rfind("\n", start, match.start())) + 1 or start
            word_stop = end_of_word(text, match.start())
            yield text[start:word_start], False
            yield text[word_start:word_stop], True
            start = word_stop
            continue
        if stop < len(text):
            cut = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop)) + 1
            if not cut:  # a single word that is too long for tokie
                stop = end_of_word(text, stop)
                yield text[start:stop], True
                start = stop
                continue
            stop = cut
        yield text[start:stop], False
        start = stop


def end_of_word(text: str, position: int) -> int:
    """The next space or newline, or the end of the text."""
    match = WORD_BREAK.search(text, position)
    return match.start() if match else len(text)


@cache
def unsettled_character() -> re.Pattern[str]:
    """Characters that are new in Unicode, or whose category has changed since Unicode 3.2.

    Normalizers use Unicode tables of different years. On all other characters tokie and tokenizers agree: each was
    checked alone and inside a word.
    """
    old = unicodedata.ucd_3_2_0
    settled = [
        code
        for code, char in enumerate(map(chr, range(0x10000)))
        if char in "\t\n\r"
        or (unicodedata.category(char)[0] != "C" and old.category(char) == unicodedata.category(char))
    ]
    runs = np.split(settled, np.flatnonzero(np.diff(settled) > 1) + 1)
    return re.compile("[^" + "".join(f"\\u{run[0]:04x}-\\u{run[-1]:04x}" for run in runs) + "]")


def is_gpt2_like(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is byte-level BPE exactly as in GPT-2, which the fast backends are known to support."""
    content = tokenizer.content
    split = content.get("pre_tokenizer") or {}
    same_split = split.get("type") == "ByteLevel" and split.get("use_regex", True) and not split.get("add_prefix_space")
    same_text = content.get("normalizer") is None and not tokenizer.non_special_added
    return tokenizer.kind == "bpe" and same_split and same_text


def is_bert_like(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is WordPiece exactly as in BERT, cased or uncased."""
    content = tokenizer.content
    normalizer = content.get("normalizer") or {}
    same_text = normalizer.get("type") == "BertNormalizer" and normalizer.get("strip_accents") is None
    same_text = same_text and bool(normalizer.get("clean_text") and normalizer.get("handle_chinese_chars"))
    same_split = (content.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
    return tokenizer.kind == "wordpiece" and same_text and same_split and not tokenizer.non_special_added


class Encoder:
    """Encodes batches with the fastest backend that agrees with the reference; `warn` receives messages."""

    def __init__(self, tokenizer: Tokenizer, warn: Callable[[str], None]) -> None:
        self.tokenizer, self.warn = tokenizer, warn
        self.bytes_to_check = CHECKED_BYTES

    @cached_property
    def backend(self) -> Backend:
        """The fastest backend that is installed and supports the tokenizer."""
        makers: list[Callable[[], Backend]] = []
        if is_gpt2_like(self.tokenizer):
            makers = [lambda: Gigatoken(self.tokenizer), lambda: Tiktoken(self.tokenizer)]
        elif is_bert_like(self.tokenizer):
            makers = [lambda: Tokie(self.tokenizer)]
        for make in makers:
            with suppress(Exception):  # young packages: imports fail, tokenizers are not supported
                return make()
        return Reference(self.tokenizer)

    def reset_check(self) -> None:
        """Check the first documents again, at the start of a task."""
        self.bytes_to_check = CHECKED_BYTES

    def encode(self, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        """The ids of all documents in one array, and the number of ids of each document."""
        try:
            ids, lengths = self.backend.encode(texts)
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # Rust panics do not derive from Exception
            if isinstance(self.backend, Reference):
                raise
            return self.fall_back(f"failed with {type(error).__name__}", texts)
        if self.bytes_to_check > 0 and not isinstance(self.backend, Reference):
            difference = self.first_difference(texts, ids, lengths)
            if difference is not None:
                return self.fall_back(f"differs from tokenizers {difference}", texts)
        return ids, lengths

    def fall_back(self, reason: str, texts: DocumentBatch) -> tuple[Ids, Lengths]:
        """Switch to the reference, with a warning."""
        self.warn(f"{self.backend.name} {reason}; using tokenizers instead")
        self.backend = Reference(self.tokenizer)
        return self.backend.encode(texts)

    def first_difference(self, texts: DocumentBatch, ids: Ids, lengths: Lengths) -> str | None:
        """Compare the first documents with the reference; returns where they differ, or None."""
        if len(lengths) != len(texts) or int(lengths.sum()) != len(ids):
            return "in the number of documents or ids"
        head = texts.head(self.bytes_to_check)
        self.bytes_to_check -= len(head.data)
        expected, expected_lengths = Reference(self.tokenizer).encode(head)
        ends, expected_ends = lengths.cumsum(), expected_lengths.cumsum()
        for i in range(len(head)):
            document_ids = ids[ends[i] - lengths[i] : ends[i]]
            if not np.array_equal(document_ids, expected[expected_ends[i] - expected_lengths[i] : expected_ends[i]]):
                return f"in a document that starts with {json.dumps(head[i].decode()[:60])}"
        return None
