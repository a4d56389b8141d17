"""Fast encoders: the same ids as `tokenizers` on every text, or they are put aside."""

import json
import sys
import time
from collections.abc import Callable, Sequence
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


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest, data: Path) -> tuple[Backend, Tokenizer]:
    """A fast backend, with the tokenizer that it was made for."""
    make, name = BACKENDS[request.param]
    pytest.importorskip(request.param)
    tokenizer = load_tokenizer(data / "tokenizers" / name)
    return make(tokenizer), tokenizer


@pytest.fixture(scope="module")
def own() -> dict[str, Tokenizer]:
    """Tokenizers of our own, of both kinds."""
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
    found = zip(texts, encoded(fast.encode, texts), expected(tokenizer, texts), strict=True)
    different = [text for text, ids, right in found if ids != right]
    assert not different, [ascii(text[:80]) for text in different[:5]]


# ------------------------------------------------------------------------------------------ the same ids


def test_hard_strings(backend: Any, hard_strings: list[str]) -> None:
    check(backend, [*hard_strings, "".join(hard_strings), "", " ", "\n", *(f"  {text}\n" for text in hard_strings)])


def test_naughty_strings(backend: Any, data: Path) -> None:
    check(backend, json.loads((data / "edge_text" / "blns.json").read_text(encoding="utf-8")))


def test_emoji(backend: Any, data: Path) -> None:
    text = (data / "edge_text" / "emoji-test.txt").read_text(encoding="utf-8")
    check(backend, [*text.splitlines(), text[:50_000]])


def test_every_common_character_alone_and_inside_a_word(backend: Any) -> None:
    letters = [chr(code) for code in range(0x3000)]
    check(backend, letters)
    check(backend, [f"some wo{letter}rd here" for letter in letters])


def test_rarer_characters(backend: Any) -> None:
    codes = [*range(0x3000, 0xD800, 7), *range(0xE000, 0x20000, 5), *range(0x2FFF0, 0x30010), 0xE0001, 0x10FFFF]
    check(backend, [f"wo{chr(code)}rd {chr(code)}" for code in codes])


def test_real_documents(backend: Any, data: Path) -> None:
    table = pq.read_table(sorted((data / "fineweb-edu").glob("*.parquet"))[0], columns=["text"])
    check(backend, table["text"].slice(0, 300).to_pylist())


def test_special_tokens_that_are_typed_are_text(backend: Any) -> None:
    """F14."""
    fast, tokenizer = backend
    texts = [f"a {special}{special} b{special}" for special in tokenizer.special_tokens]
    check(backend, texts)
    found = {i for ids in encoded(fast.encode, texts) for i in ids}
    assert not found & tokenizer.special_ids - {tokenizer.roles.get("unk")}


def test_lengths_are_those_of_the_documents(backend: Any) -> None:
    for texts in (["a"], [""], ["", "a", "", "b c", ""], ["x" * 3000, "", "y"], ["café ∑ x", "", "∑", "\x00"]):
        check(backend, texts)


def test_words_longer_than_wordpiece_takes(backend: Any) -> None:
    check(backend, ["a" * n for n in (99, 100, 101, 5000)] + ["é" * 100 + " x", "𝒳" * 100, "e\u0301" * 60])


@pytest.mark.parametrize("letter", ["a", " ", "\n", "👍", "-", "你", "9", "\u0301"])
def test_a_megabyte_of_one_letter(letter: str, backend: Any) -> None:
    text = letter * (1_000_000 // len(letter.encode()))
    start = time.perf_counter()
    encoded(backend[0].encode, [text])
    assert time.perf_counter() - start < 5
    check(backend, [text[:50_000]])


@pytest.mark.parametrize("between", ["\n", "\t", "\r\n", ".", "", " ", "你", "é"])
def test_long_documents_are_not_cut_inside_words(between: str, backend: Any) -> None:
    """A backend that shares one text among threads must not split a word, nor a character."""
    words = between.join(f"{'abcdefghij'[i % 10 :]}{i * 7919 % 1000}" for i in range(14_000))
    for text in (*(words[:n] for n in (60_000, 65_535, 65_537, 70_001)), words):
        check(backend, [text])  # alone: only then is it shared out


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_tokenizers_of_our_own(kind: str, own: dict[str, Tokenizer], hard_strings: list[str]) -> None:
    makers = (Gigatoken, Tiktoken) if kind == "bpe" else (Tokie,)
    for make in makers:
        pytest.importorskip(make.name)
        check((make(own[kind]), own[kind]), [PLAIN, *hard_strings])


# ---------------------------------------------------------------------- tokenizers of other than the usual kind


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
    "no words": ("bpe", lambda _: {"pre_tokenizer": byte_level(use_regex=False)}),
    "single digits": ("bpe", lambda _: after({"type": "Digits", "individual_digits": True})),
    "three digits": ("bpe", lambda _: after(THREES, use_regex=False)),
    "an added word": ("bpe", added),
    "accents kept": ("wordpiece", lambda own: {"normalizer": own.content["normalizer"] | {"strip_accents": False}}),
    "capitals kept": ("wordpiece", lambda own: {"normalizer": own.content["normalizer"] | {"lowercase": False}}),
    "Chinese not split": (
        "wordpiece",
        lambda own: {"normalizer": own.content["normalizer"] | {"handle_chinese_chars": False}},
    ),
    "nothing normalised": ("wordpiece", lambda _: {"normalizer": None}),
    "split at spaces": ("wordpiece", lambda _: {"pre_tokenizer": {"type": "WhitespaceSplit"}}),
    "short words": ("wordpiece", lambda own: {"model": own.content["model"] | {"max_input_chars_per_word": 3}}),
    "an added word among pieces": ("wordpiece", added),
}


@pytest.mark.parametrize("without", ["", "gigatoken"])
@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_tokenizers_are_encoded_as_they_say(
    case: str, without: str, own: dict[str, Tokenizer], hard_strings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a backend does not know of must not show late, when nobody compares any more."""
    kind, change = UNUSUAL[case]
    if without:
        monkeypatch.setitem(sys.modules, without, None)
    tokenizer = Tokenizer(own[kind].content | change(own[kind]), own[kind].roles)
    texts = [PLAIN] * (CHECKED_BYTES // len(PLAIN) + 2) + hard_strings
    texts += ["Café cafe\u0301 12345 HELLO", "un ñandú, dos ñandúes", "你好world", "a.b,c"]
    assert encoded(Encoder(tokenizer, lambda warning: None).encode, texts) == expected(tokenizer, texts)


# ------------------------------------------------------------------------------------------ being put aside


class Wrong:
    """A real backend whose results are spoilt."""

    name = "wrong"

    def __init__(self, real: Backend, spoil: Callable[[Any, Any], Any]) -> None:
        self.real, self.spoil = real, spoil

    def encode(self, texts: DocumentBatch) -> tuple[Any, Any]:
        ids, lengths = self.real.encode(texts)
        return self.spoil(ids.copy(), lengths.copy())


def one_id_wrong(ids: Any, lengths: Any) -> Any:
    ids[3] ^= 1
    return ids, lengths


def shifted(ids: Any, lengths: Any) -> Any:
    lengths[0] += 1
    lengths[1] -= 1
    return ids, lengths


def panic(ids: Any, lengths: Any) -> Any:
    raise BaseExceptionGroup("as pyo3's panics are", [SystemError("index out of bounds")])


SPOILT = {
    "one id": one_id_wrong,
    "a document less": lambda ids, lengths: (ids, lengths[:-1]),
    "an id less": lambda ids, lengths: (ids[:-1], lengths),
    "ends moved": shifted,
    "a panic": panic,
}


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@pytest.mark.parametrize("case", SPOILT)
def test_a_backend_that_differs_is_put_aside(case: str, kind: str, own: dict[str, Tokenizer]) -> None:
    warnings: list[str] = []
    encoder = Encoder(own[kind], warnings.append)
    encoder.backend = Wrong(encoder.backend, SPOILT[case])
    texts = ["some words", "other words", "", "more"]
    assert encoded(encoder.encode, texts) == expected(own[kind], texts)
    assert isinstance(encoder.backend, Reference)
    assert len(warnings) == 1
    assert warnings[0].startswith("wrong ")
    assert encoded(encoder.encode, texts) == expected(own[kind], texts)
    assert len(warnings) == 1


def test_each_task_is_checked_again(own: dict[str, Tokenizer]) -> None:
    warnings: list[str] = []
    encoder = Encoder(own["bpe"], warnings.append)
    encoder.encode(DocumentBatch.from_list([PLAIN.encode()] * 200))
    encoder.backend = Wrong(encoder.backend, one_id_wrong)
    encoder.reset_check()
    assert encoded(encoder.encode, [PLAIN]) == expected(own["bpe"], [PLAIN])
    assert warnings


def test_without_fast_backends_there_is_the_reference(
    own: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gigatoken", "tokie", "tiktoken"):
        monkeypatch.setitem(sys.modules, name, None)
    for tokenizer in own.values():
        encoder = Encoder(tokenizer, lambda warning: None)
        assert encoder.backend.name == "tokenizers"
        assert encoded(encoder.encode, [PLAIN, ""]) == expected(tokenizer, [PLAIN, ""])
