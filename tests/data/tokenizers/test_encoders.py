"""Fast encoders: the same ids as `tokenizers` on every text, or fall back to it."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bertgpt.data.documents import DocumentBatch
from bertgpt.data.tokenizers.encoders import CHECKED_BYTES, Backend, Encoder, Gigatoken, Reference, Tiktoken, Tokie
from bertgpt.data.tokenizers.layouts import special_token
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.data.tokenizers.train import train_tokenizer

PLAIN = "plain words of the usual kind, and some more of them\n"
BACKENDS: dict[str, tuple[Any, str]] = {
    "gigatoken": (Gigatoken, "gpt2"),
    "tiktoken": (Tiktoken, "gpt2"),
    "tokie": (Tokie, "bert-base-uncased"),
}


load_once = cache(load_tokenizer)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest, data: Path) -> tuple[Backend, Tokenizer]:
    """A fast backend and its tokenizer."""
    make, name = BACKENDS[request.param]
    pytest.importorskip(request.param)
    tokenizer = load_once(data / "tokenizers" / name)
    return make(tokenizer), tokenizer


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    """Trained tokenizers of both kinds."""
    return {kind: train_tokenizer(kind, 400, [PLAIN * 9]) for kind in ("bpe", "wordpiece")}


def expected(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [e.ids for e in tokenizer.reference.encode_batch_fast(list(texts), add_special_tokens=False)]


def encoded(encode: Callable[[DocumentBatch], Any], texts: Sequence[str]) -> list[list[int]]:
    ids, lengths = encode(DocumentBatch.from_list([text.encode() for text in texts]))
    assert len(lengths) == len(texts)
    assert sum(lengths) == len(ids)
    return [part.tolist() for part in np.split(np.asarray(ids), np.cumsum(lengths)[:-1])]


def check(backend: tuple[Backend, Tokenizer], texts: Sequence[str]) -> None:
    fast, tokenizer = backend
    results = zip(texts, encoded(fast.encode, texts), expected(tokenizer, texts), strict=True)
    different = [text for text, ids, correct in results if ids != correct]
    assert not different, [ascii(text[:80]) for text in different[:5]]


# ------------------------------------------------------------------------------------------------- parity


def test_hard_strings(backend: Any, hard_strings: list[str]) -> None:
    check(backend, [*hard_strings, "".join(hard_strings), "", " ", "\n", *(f"  {text}\n" for text in hard_strings)])


def test_naughty_strings(backend: Any, data: Path) -> None:
    check(backend, json.loads((data / "edge_text" / "blns.json").read_text(encoding="utf-8")))


def test_emoji(backend: Any, data: Path) -> None:
    text = (data / "edge_text" / "emoji-test.txt").read_text(encoding="utf-8")
    check(backend, [*text.splitlines(), text[:50_000]])


def test_common_characters_alone_and_inside_a_word(backend: Any) -> None:
    letters = [chr(code) for code in range(0x3000)]
    check(backend, letters)
    check(backend, [f"some wo{letter}rd here" for letter in letters])


def test_rarer_characters(backend: Any) -> None:
    codes = [*range(0x3000, 0xD800, 7), *range(0xE000, 0x20000, 5), *range(0x2FFF0, 0x30010), 0xE0001, 0x10FFFF]
    check(backend, [f"wo{chr(code)}rd {chr(code)}" for code in codes])


def test_real_documents(backend: Any, data: Path) -> None:
    table = pq.read_table(sorted((data / "fineweb-edu").glob("*.parquet"))[0], columns=["text"])
    check(backend, table["text"].slice(0, 300).to_pylist())


def test_special_token_strings_are_plain_text(backend: Any) -> None:
    fast, tokenizer = backend
    texts = [f"a {special}{special} b{special}" for special in tokenizer.special_tokens]
    check(backend, texts)
    ids_in_text = {i for ids in encoded(fast.encode, texts) for i in ids}
    assert not ids_in_text & tokenizer.special_ids - {tokenizer.roles.get("unk")}


def test_number_of_ids_per_document(backend: Any) -> None:
    for texts in (["a"], [""], ["", "a", "", "b c", ""], ["x" * 3000, "", "y"], ["café ∑ x", "", "∑", "\x00"]):
        check(backend, texts)


def test_words_too_long_for_wordpiece(backend: Any) -> None:
    check(backend, ["a" * n for n in (99, 100, 101, 5000)] + ["é" * 100 + " x", "𝒳" * 100, "e\u0301" * 60])


@pytest.mark.slow
@pytest.mark.parametrize("letter", ["a", " ", "\n", "👍", "-", "你", "9", "\u0301"])
def test_a_megabyte_of_one_character(letter: str, backend: Any) -> None:
    text = letter * (1_000_000 // len(letter.encode()))
    start = time.perf_counter()
    encoded(backend[0].encode, [text])
    assert time.perf_counter() - start < 5
    check(backend, [text[:50_000]])


@pytest.mark.slow
@pytest.mark.parametrize("between", ["\n", "\t", "\r\n", ".", "", " ", "你", "é"])
def test_long_documents_are_not_split_inside_words(between: str, backend: Any) -> None:
    """A backend that splits one text among threads must not split a word or a character."""
    words = between.join(f"{'abcdefghij'[i % 10 :]}{i * 7919 % 1000}" for i in range(14_000))
    for text in (*(words[:n] for n in (60_000, 65_535, 65_537, 70_001)), words):
        check(backend, [text])  # alone: only then is it split among threads


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_trained_tokenizers(kind: str, trained: dict[str, Tokenizer], hard_strings: list[str]) -> None:
    makers = (Gigatoken, Tiktoken) if kind == "bpe" else (Tokie,)
    for make in makers:
        pytest.importorskip(make.name)
        check((make(trained[kind]), trained[kind]), [PLAIN, *hard_strings])


# ------------------------------------------------------------------------------------- unusual tokenizers


def added(tokenizer: Tokenizer) -> dict[str, Any]:
    word = special_token("ñandú", tokenizer.max_id + 1) | {"special": False}
    return {"added_tokens": [*tokenizer.content["added_tokens"], word]}


def byte_level(**options: Any) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True} | options


def after(first: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [first, byte_level(**options)]}}


THREES = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}, "behavior": "Isolated", "invert": False}
UNUSUAL: dict[str, tuple[str, Callable[[Tokenizer], dict[str, Any]]]] = {
    "NFC": ("bpe", lambda _: {"normalizer": {"type": "NFC"}}),
    "lower case": ("bpe", lambda _: {"normalizer": {"type": "Lowercase"}}),
    "a space before": ("bpe", lambda _: {"pre_tokenizer": byte_level(add_prefix_space=True)}),
    "no regex": ("bpe", lambda _: {"pre_tokenizer": byte_level(use_regex=False)}),
    "single digits": ("bpe", lambda _: after({"type": "Digits", "individual_digits": True})),
    "three digits": ("bpe", lambda _: after(THREES, use_regex=False)),
    "an added word": ("bpe", added),
    "accents kept": (
        "wordpiece",
        lambda trained: {"normalizer": trained.content["normalizer"] | {"strip_accents": False}},
    ),
    "capitals kept": (
        "wordpiece",
        lambda trained: {"normalizer": trained.content["normalizer"] | {"lowercase": False}},
    ),
    "Chinese not split": (
        "wordpiece",
        lambda trained: {"normalizer": trained.content["normalizer"] | {"handle_chinese_chars": False}},
    ),
    "no normalizer": ("wordpiece", lambda _: {"normalizer": None}),
    "split at spaces": ("wordpiece", lambda _: {"pre_tokenizer": {"type": "WhitespaceSplit"}}),
    "short words": ("wordpiece", lambda trained: {"model": trained.content["model"] | {"max_input_chars_per_word": 3}}),
    "an added word among pieces": ("wordpiece", added),
}


@pytest.mark.parametrize("without", ["", "gigatoken"])
@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_tokenizers_are_encoded_correctly(
    case: str, without: str, trained: dict[str, Tokenizer], hard_strings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feature that a backend lacks must not show only after the first, checked documents."""
    kind, change = UNUSUAL[case]
    if without:
        monkeypatch.setitem(sys.modules, without, None)
    tokenizer = Tokenizer(trained[kind].content | change(trained[kind]), trained[kind].roles)
    texts = [PLAIN] * (CHECKED_BYTES // len(PLAIN) + 2) + hard_strings
    texts += ["Café cafe\u0301 12345 HELLO", "un ñandú, dos ñandúes", "你好world", "a.b,c"]
    assert encoded(Encoder(tokenizer, lambda warning: None).encode, texts) == expected(tokenizer, texts)


# ------------------------------------------------------------------------------------------------ fallback


class Faulty:
    """A real backend with corrupted results."""

    name = "faulty"

    def __init__(self, real: Backend, corrupt: Callable[[Any, Any], Any]) -> None:
        self.real, self.corrupt = real, corrupt

    def encode(self, texts: DocumentBatch) -> tuple[Any, Any]:
        ids, lengths = self.real.encode(texts)
        return self.corrupt(ids.copy(), lengths.copy())


def one_id_wrong(ids: Any, lengths: Any) -> Any:
    ids[3] ^= 1
    return ids, lengths


def shifted(ids: Any, lengths: Any) -> Any:
    lengths[0] += 1
    lengths[1] -= 1
    return ids, lengths


def panic(ids: Any, lengths: Any) -> Any:
    raise BaseExceptionGroup("as pyo3's panics are", [SystemError("index out of bounds")])


CORRUPTIONS = {
    "one id": one_id_wrong,
    "a document missing": lambda ids, lengths: (ids, lengths[:-1]),
    "an id missing": lambda ids, lengths: (ids[:-1], lengths),
    "ends moved": shifted,
    "a panic": panic,
}


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@pytest.mark.parametrize("case", CORRUPTIONS)
def test_fallback_from_a_backend_that_differs(case: str, kind: str, trained: dict[str, Tokenizer]) -> None:
    warnings: list[str] = []
    encoder = Encoder(trained[kind], warnings.append)
    encoder.backend = Faulty(encoder.backend, CORRUPTIONS[case])
    texts = ["some words", "other words", "", "more"]
    assert encoded(encoder.encode, texts) == expected(trained[kind], texts)
    assert isinstance(encoder.backend, Reference)
    assert len(warnings) == 1
    assert warnings[0].startswith("faulty ")
    assert encoded(encoder.encode, texts) == expected(trained[kind], texts)
    assert len(warnings) == 1


def test_each_task_is_checked_again(trained: dict[str, Tokenizer]) -> None:
    warnings: list[str] = []
    encoder = Encoder(trained["bpe"], warnings.append)
    encoder.encode(DocumentBatch.from_list([PLAIN.encode()] * 200))
    encoder.backend = Faulty(encoder.backend, one_id_wrong)
    encoder.reset_check()
    assert encoded(encoder.encode, [PLAIN]) == expected(trained["bpe"], [PLAIN])
    assert warnings


def test_reference_without_fast_backends(trained: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gigatoken", "tokie", "tiktoken"):
        monkeypatch.setitem(sys.modules, name, None)
    for tokenizer in trained.values():
        encoder = Encoder(tokenizer, lambda warning: None)
        assert encoder.backend.name == "tokenizers"
        assert encoded(encoder.encode, [PLAIN, ""]) == expected(tokenizer, [PLAIN, ""])
