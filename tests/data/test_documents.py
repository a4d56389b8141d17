"""Batches of documents: batched checks give the same result as checks of each document."""

import hashlib

import pyarrow as pa
import pytest

from bertgpt.data.documents import DocumentBatch

DOCUMENTS = [b"a", "é und ß".encode(), b" b", "日本".encode()]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_sliced_column(kind: pa.DataType) -> None:
    column = pa.array([b"before", *DOCUMENTS, b"after"], pa.binary()).cast(kind).slice(1, len(DOCUMENTS))
    texts = DocumentBatch.from_arrow(column)
    assert texts.documents == DocumentBatch.from_list(DOCUMENTS).documents == DOCUMENTS
    assert [texts[i] for i in range(len(texts))] == DOCUMENTS
    assert texts.sizes.tolist() == list(map(len, DOCUMENTS))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_binary()])
def test_empty_column(kind: pa.DataType) -> None:
    assert DocumentBatch.from_arrow(pa.array([], kind)).documents == []
    assert DocumentBatch.from_arrow(pa.array([""], kind)).documents == [b""]


def test_all_valid() -> None:
    assert DocumentBatch.from_list(DOCUMENTS).all_valid(max_bytes=8 + 1)
    assert not DocumentBatch.from_list(DOCUMENTS).all_valid(max_bytes=8)


@pytest.mark.parametrize(
    "documents",
    [
        [b"one", b"\xc3", b"\xa9 two"],  # two halves of a character, valid when concatenated
        [b"one", b"tw\xffo"],
        [b"one", b"", b"two"],
        [b"one", b" \n", b"two"],
        [b"one", "\u3000\u2003".encode(), b"two"],
        [],
    ],
)
def test_not_all_valid(documents: list[bytes]) -> None:
    assert not DocumentBatch.from_list(documents).all_valid(max_bytes=100)


def test_occurrences_are_not_counted_across_documents() -> None:
    assert DocumentBatch.from_list([b"<|en", b"d|>"]).count_occurrences([b"<|end|>", b"[SEP]"]) == 0
    assert (
        DocumentBatch.from_list([b"<|en", b"d|> <|end|>", b"<|end|><|end|>"]).count_occurrences([b"<|end|>", b"[SEP]"])
        == 3
    )


@pytest.mark.parametrize(("num_bytes", "count"), [(0, 1), (1, 1), (2, 2), (100, 4)])
def test_head(num_bytes: int, count: int) -> None:
    assert DocumentBatch.from_list(DOCUMENTS).head(num_bytes).documents == DOCUMENTS[:count]


def test_hashes() -> None:
    one_by_one = [hashlib.blake2b(document, digest_size=16).digest() for document in DOCUMENTS]
    assert DocumentBatch.from_list(DOCUMENTS).hashes() == b"".join(one_by_one)
