"""Training tokenizers: the same sample gives the same tokenizer in any process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertgpt.data.tokenizers.tokenizer import DEFAULT_SPECIALS
from bertgpt.data.tokenizers.train import train_tokenizer
from bertgpt.tinyworld import World

KINDS = ["bpe", "wordpiece"]
TRAIN_SCRIPT = """
import hashlib, sys
from pathlib import Path
from bertgpt.tinyworld import World
from bertgpt.data.tokenizers.train import train_tokenizer
texts = [document.text for document in World(0).documents(0, 400)] + ["Zoë, 你好 שלום ÀÉÎ 👍 e\\u0301", "ab ba " * 50]
for kind in ("bpe", "wordpiece"):
    tokenizer = train_tokenizer(kind, 700, texts)
    tokenizer.save(Path(sys.argv[1]) / kind)
    print(kind, tokenizer.fingerprint)
"""


def many_characters() -> Iterator[str]:
    """Text with more distinct characters than a small vocabulary can hold."""
    yield "the common words are common " * 200
    for start in range(0x4E00, 0x5E00, 64):
        yield " ".join(chr(code) for code in range(start, start + 64))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.text for document in World(0).documents(0, 300)]


def test_training_is_reproducible_across_processes(tmp_path: Path) -> None:
    results = set()
    for seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", TRAIN_SCRIPT, str(tmp_path / seed)],
            env=os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": str(int(seed) + 1)},
            capture_output=True,
            text=True,
            check=True,
        )
        files = sorted(path for path in (tmp_path / seed).rglob("*") if path.is_file())
        results.add((done.stdout, *(path.read_bytes() for path in files)))
    assert len(results) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [300, 512])
def test_trained_tokenizer(kind: str, size: int, texts: list[str]) -> None:
    tokenizer = train_tokenizer(kind, size, texts)
    assert tuple(tokenizer.tokens[:6]) == DEFAULT_SPECIALS
    assert list(tokenizer.roles.values()) == [0, 1, 2, 3, 4, 5]
    assert sorted(tokenizer.vocab.values()) == list(range(len(tokenizer.vocab)))
    assert len(tokenizer.vocab) <= size
    assert tokenizer.special_ids == frozenset(range(6))
    assert tokenizer.eos_id == 5
    seen = {i for text in texts for i in tokenizer.encode(text)}
    assert not seen & tokenizer.special_ids
    assert len(seen) > size / 10


@pytest.mark.parametrize("kind", KINDS)
def test_larger_vocabulary_gives_fewer_tokens(kind: str, texts: list[str]) -> None:
    small, large = train_tokenizer(kind, 300, texts), train_tokenizer(kind, 600, texts)
    assert len(large.encode(texts[0])) < len(small.encode(texts[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_the_texts_does_not_matter(kind: str, texts: list[str]) -> None:
    assert train_tokenizer(kind, 400, texts).fingerprint == train_tokenizer(kind, 400, texts[::-1]).fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_more_characters_than_the_vocabulary_holds(kind: str) -> None:
    tokenizer = train_tokenizer(kind, 300, many_characters())
    assert len(tokenizer.vocab) <= 300
    assert sorted(tokenizer.vocab.values()) == list(range(len(tokenizer.vocab)))
    assert len(tokenizer.encode("common")) < 6
    if kind == "wordpiece":
        assert tokenizer.encode("丠乀 common")[-1] != tokenizer.roles["unk"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], [" \n\t "], ["\x00"]])
def test_empty_sample(kind: str, texts: list[str]) -> None:
    tokenizer = train_tokenizer(kind, 300, texts)
    assert tuple(tokenizer.tokens[:6]) == DEFAULT_SPECIALS
    assert len(tokenizer.vocab) <= 300


@pytest.mark.parametrize("kind", KINDS)
def test_special_token_strings_are_trained_as_plain_text(kind: str) -> None:
    tokenizer = train_tokenizer(kind, 400, [" ".join(DEFAULT_SPECIALS) * 50, "[MASK]" * 50, "<|end|>" * 50, "words"])
    assert tuple(tokenizer.tokens[:6]) == DEFAULT_SPECIALS
    for special in DEFAULT_SPECIALS:
        assert not set(tokenizer.encode(f"{special} x{special}")) & tokenizer.special_ids - {1}


def test_wordpiece_is_uncased(texts: list[str]) -> None:
    characters = "".join(chr(code) for code in range(0x20, 0x3000))
    tokenizer = train_tokenizer("wordpiece", 12_000, [*texts, characters, " ".join(characters)])
    assert tokenizer.content["normalizer"]["lowercase"]
    assert tokenizer.encode("THE Café") == tokenizer.encode("the cafe")
    assert not [token for token in tokenizer.tokens[6:] if token != token.lower()]
