"""Parity of ids with `tokenizers` on every document of the real data, with both vocabularies. Takes minutes."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bertgpt.data.documents import DocumentBatch
from bertgpt.data.sources.read import BadDataPolicy, read_documents
from bertgpt.data.sources.resolve import resolve_sources
from bertgpt.data.sources.source import ReadOptions
from bertgpt.data.sources.splits import input_splits
from bertgpt.data.tokenizers.encoders import Encoder, Reference
from bertgpt.data.tokenizers.load import load_tokenizer

SOURCES = {  # folder or file: text column
    "fineweb-edu": "text",
    "enwiki": "text",
    "tinyshakespeare": "text",
    "wikitext-103": "text",
    "glue/SST-2": "sentence",
    "agnews/train-25k.csv": "text",
    "hellaswag": "ctx_full",
    "lambada": "context",
    "blimp": "sentence_good",
}


def batches(data: Path) -> Iterator[DocumentBatch]:
    for name, column in SOURCES.items():
        for split in input_splits(resolve_sources([str(data / name)]), ReadOptions(text_column=column), None):
            yield from read_documents(split, BadDataPolicy("stop"))
    yield DocumentBatch.from_list(
        [text.encode() for text in json.loads((data / "edge_text" / "blns.json").read_text(encoding="utf-8")) if text]
    )
    yield DocumentBatch.from_list(
        [line for line in (data / "edge_text" / "emoji-test.txt").read_bytes().splitlines() if line]
    )
    yield DocumentBatch.from_list(
        [(data / "edge_text" / "utf8tests.bin").read_bytes().decode(errors="replace").encode()]
    )
    yield DocumentBatch.from_list(
        [(data / "agnews" / "test.csv").read_bytes(), (data / "glue" / "CoLA" / "train.tsv").read_bytes()]
    )


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["gpt2", "bert-base-uncased"])
def test_every_document(name: str, data: Path) -> None:
    tokenizer = load_tokenizer(data / "tokenizers" / name)
    encoder, reference = Encoder(tokenizer, pytest.fail), Reference(tokenizer)
    assert encoder.backend.name in ("gigatoken", "tokie")
    documents = 0
    for batch in batches(data):
        for actual, expected in zip(encoder.encode(batch), reference.encode(batch), strict=True):
            assert np.array_equal(actual, expected)
        documents += len(batch)
    assert documents > 150_000
