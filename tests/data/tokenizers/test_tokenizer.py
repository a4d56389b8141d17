"""Tokenizers: loading every file layout, saving, fingerprints, and round trips of text and ids."""

import hashlib
import inspect
import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import BYTE_OF, Tokenizer
from bertgpt.data.tokenizers.train import train_tokenizer
from bertgpt.utils.errors import BertGPTError

END = "<|endoftext|>"
TEXT = "The cat sat on the mat. The dogs sat on the other mats, it is said; 12 cats and 345 dogs."
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", ".", "[", "]", "mask", "é", "e"]
MERGES = ["h e", "l l", "he ll", "Ġ w"]
KINDS = ["gpt2", "bert-base-uncased", "bpe", "wordpiece"]


@pytest.fixture(scope="session")
def tokenizer(request: pytest.FixtureRequest) -> Callable[[str], Tokenizer]:
    """A real tokenizer by its name, or a trained one by its kind."""
    loaded: dict[str, Tokenizer] = {}

    def get(kind: str) -> Tokenizer:
        if kind not in loaded:
            is_trained = kind in ("bpe", "wordpiece")
            data = None if is_trained else request.getfixturevalue("data")
            loaded[kind] = (
                train_tokenizer(kind, 400, [TEXT] * 9)
                if is_trained
                else load_tokenizer(data / "tokenizers" / str(kind))
            )
        return loaded[kind]

    return get


def byte_vocab() -> dict[str, int]:
    tokens = [*BYTE_OF, *(merge.replace(" ", "") for merge in MERGES), END]
    return {token: i for i, token in enumerate(tokens)}


def gpt2_files(folder: Path, vocab: str = "encoder.json", merges: str = "vocab.bpe") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / vocab).write_text(json.dumps(byte_vocab()))
    (folder / merges).write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", encoding="utf-8")
    return folder


def bert_file(folder: Path, words: list[str] = WORDS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder / "vocab.txt"


# ------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("files", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
def test_gpt2_files(files: tuple[str, str], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(gpt2_files(tmp_path / "t", *files))
    ids = tokenizer.encode("hello world")
    assert [tokenizer.tokens[i] for i in ids] == ["hell", "o", "Ġw", "o", "r", "l", "d"]
    assert tokenizer.roles == {"eos": tokenizer.vocab[END]}
    assert (tokenizer.kind, tokenizer.max_id, tokenizer.dtype) == ("bpe", 260, np.uint16)


def test_bert_vocab_file(tmp_path: Path) -> None:
    file = bert_file(tmp_path / "t")
    tokenizer = load_tokenizer(file)
    assert [WORDS[i] for i in tokenizer.encode("The CATs sat. É")] == ["the", "cat", "##s", "sat", ".", "e"]
    assert tokenizer.encode("dogs") == [1]
    assert tokenizer.roles == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "eos": 3}
    assert load_tokenizer(file.parent).fingerprint == tokenizer.fingerprint
    cased = load_tokenizer(bert_file(tmp_path / "cased", [*WORDS, "The"]))
    assert [[*WORDS, "The"][i] for i in cased.encode("The the CAT é")] == ["The", "the", "[UNK]", "é"]


def test_vocab_file_with_crlf(tmp_path: Path) -> None:
    file = bert_file(tmp_path / "t")
    fingerprint = load_tokenizer(file).fingerprint
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert load_tokenizer(file).fingerprint == fingerprint


def test_foreign_tokenizer_json(tmp_path: Path) -> None:
    content = load_tokenizer(gpt2_files(tmp_path / "t")).content
    content["model"]["merges"] = MERGES  # the format of older versions
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.fingerprint == load_tokenizer(tmp_path / "t").fingerprint
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "hell"}, "pad_token": END}))
    roles = load_tokenizer(tmp_path).roles
    assert roles == {"pad": tokenizer.vocab[END], "eos": tokenizer.vocab["hell"]}


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_round_trip(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    tokenizer(kind).save(tmp_path / "one")
    again = load_tokenizer(tmp_path / "one")
    assert (again.fingerprint, again.roles) == (tokenizer(kind).fingerprint, tokenizer(kind).roles)
    again.save(tmp_path / "two")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_fingerprint_depends_on_ids_and_roles(tokenizer: Any, tmp_path: Path) -> None:
    fingerprints = {tokenizer("bpe").fingerprint, tokenizer("wordpiece").fingerprint}
    content = tokenizer("wordpiece").content
    roles = tokenizer("wordpiece").roles
    lower = content | {"normalizer": content["normalizer"] | {"lowercase": False}}
    fingerprints |= {Tokenizer(lower, roles).fingerprint, Tokenizer(content, roles | {"eos": 3}).fingerprint}
    assert len(fingerprints) == 4
    assert Tokenizer(content | {"padding": {"length": 3}}, roles).fingerprint == tokenizer("wordpiece").fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_a_saved_folder(
    kind: str, tokenizer: Any, tmp_path: Path, hard_strings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    bertgpt_tokenizer = tokenizer(kind)
    bertgpt_tokenizer.save(tmp_path / "t")
    hf_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "t", local_files_only=True)
    specials = "|".join(map(re.escape, bertgpt_tokenizer.special_tokens))  # encoded as special ids by transformers
    for text in (TEXT, *(re.sub(specials, "", text) for text in hard_strings)):
        assert hf_tokenizer(text, add_special_tokens=False)["input_ids"] == bertgpt_tokenizer.encode(text), text
    assert hf_tokenizer.eos_token_id == bertgpt_tokenizer.eos_id
    assert hf_tokenizer.mask_token_id == bertgpt_tokenizer.roles.get("mask")
    assert len(hf_tokenizer) == bertgpt_tokenizer.max_id + 1


# --------------------------------------------------------------------------------------------- GPT-2 by name


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and an empty cache for tiktoken."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_gpt2_by_name_equals_gpt2_files(no_network: Path, data: Path) -> None:
    from tiktoken_ext import openai_public

    for url in re.findall(r'"(https://[^"]+)"', inspect.getsource(openai_public.gpt2)):
        shutil.copy(
            data / "tokenizers" / "gpt2" / url.rpartition("/")[2], no_network / hashlib.sha1(url.encode()).hexdigest()
        )
    by_name, from_files = load_tokenizer("gpt2"), load_tokenizer(data / "tokenizers" / "gpt2")
    assert by_name.fingerprint == from_files.fingerprint
    assert by_name.encode(TEXT) == from_files.encode(TEXT)
    assert (by_name.eos_id, by_name.max_id) == (50256, 50256)


def test_gpt2_by_name_without_network(no_network: Path) -> None:
    with pytest.raises(BertGPTError) as error:
        load_tokenizer("gpt2")
    assert (error.value.code, error.value.exit_code) == ("BG405", 4)
    assert "TIKTOKEN_CACHE_DIR" in str(error.value.hint)


# --------------------------------------------------------------------------------------------- text and ids


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example("\x00\x1b[31m \r\n\u2028\ufeff")
@example("👩‍👩‍👧‍👦 e\u0301é \u202eשלום\u202c 你好")
@example(f"{END}[MASK]<|end|> 's  \t\n  x")
def test_byte_level_round_trip(text: str) -> None:
    ids = TRAINED.encode(text)
    assert TRAINED.decode(ids) == text
    assert TRAINED.token_bytes is not None
    assert int(TRAINED.token_bytes[ids].sum()) == len(text.encode())
    assert not TRAINED.special_ids & set(ids)


TRAINED = train_tokenizer("bpe", 300, [TEXT])


def test_round_trip_of_real_documents(tokenizer: Any, data: Path, hard_strings: list[str]) -> None:
    gpt2 = tokenizer("gpt2")
    for text in (*hard_strings, *json.loads((data / "edge_text" / "blns.json").read_text(encoding="utf-8"))):
        ids = gpt2.encode(text)
        assert gpt2.decode(ids) == text
        assert int(gpt2.token_bytes[ids].sum()) == len(text.encode())
    assert gpt2.token_bytes[gpt2.eos_id] == 0


def test_wordpiece_has_no_token_bytes(tokenizer: Any) -> None:
    assert tokenizer("wordpiece").token_bytes is None


@pytest.mark.parametrize("kind", KINDS)
def test_special_token_strings_are_plain_text(kind: str, tokenizer: Any) -> None:
    bertgpt_tokenizer = tokenizer(kind)
    for special in {*bertgpt_tokenizer.special_tokens, END, "[MASK]", "[SEP]", "<|end|>"}:
        for text in (special, f"a{special}b", f" {special} ", special * 3):
            ids = set(bertgpt_tokenizer.encode(text))
            assert not ids & bertgpt_tokenizer.special_ids - {bertgpt_tokenizer.roles.get("unk")}, text


def test_special_ids_are_decoded(tokenizer: Any) -> None:
    bpe = tokenizer("bpe")
    assert bpe.decode([2, *bpe.encode("the cat"), bpe.eos_id]) == "[CLS]the cat<|end|>"


def test_tokens_that_start_words(tokenizer: Any) -> None:
    def starts(kind: str, text: str) -> list[bool]:
        return [bool(start) for start in tokenizer(kind).starts_word[tokenizer(kind).encode(text)]]

    assert starts("gpt2", "Hello there, unbelievable") == [False, True, False, True]
    assert starts("gpt2", "a\n\tb") == [False, True, True, False]
    assert starts("bert-base-uncased", "unaffable cats.") == [True, False, False, True, True]
    for kind in KINDS:
        assert all(tokenizer(kind).starts_word[i] for i in tokenizer(kind).special_ids)
        assert len(tokenizer(kind).starts_word) == tokenizer(kind).max_id + 1


@pytest.mark.parametrize(("size", "dtype"), [(65535, np.uint16), (65536, np.uint16), (65537, np.uint32)])
def test_dtype_by_the_largest_id(size: int, dtype: Any) -> None:
    content = {"model": {"type": "WordPiece", "vocab": {str(i): i for i in range(size)}}}
    assert Tokenizer(content, {}).dtype == dtype
    content["model"]["vocab"] = {"a": 0, "b": size - 1}  # type: ignore[index]  # with unused ids in between
    assert Tokenizer(content, {}).dtype == dtype


# ------------------------------------------------------------------------------------------- invalid files


def in_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        content = json.loads(json.dumps(TRAINED.content))
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))
        return folder

    return write


def without_end(content: dict[str, Any]) -> None:
    content["added_tokens"] = []
    for name in ("<|end|>", "[SEP]"):
        content["model"]["vocab"].pop(name)


def raw(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return write


def corrupted(name: str, change: Callable[[str], str]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        file = gpt2_files(folder) / name
        file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
        return folder

    return write


INVALID: dict[str, Callable[[Path], Path]] = {
    "an empty folder": lambda folder: folder,
    "garbage": raw("tokenizer.json", "garbage"),
    "not UTF-8": raw("tokenizer.json", b"\xff\xfe{}"),
    "a list": raw("tokenizer.json", "[]"),
    "no model": raw("tokenizer.json", "{}"),
    "model is not an object": raw("tokenizer.json", '{"model": 3}'),
    "another model type": in_json(lambda content: content["model"].update(type="Unigram")),
    "no vocabulary": in_json(lambda content: content["model"].pop("vocab")),
    "no merges": in_json(lambda content: content["model"].pop("merges")),
    "merges of unknown tokens": in_json(lambda content: content["model"]["merges"].append(["a", "\u0101\u0101"])),
    "BPE of characters": in_json(lambda content: content.update(pre_tokenizer={"type": "Whitespace"}, decoder=None)),
    "ids that are not numbers": in_json(lambda content: content["model"]["vocab"].update(a="x")),
    "no end token": in_json(without_end),
    "encoder.json alone": lambda folder: gpt2_files(folder) / "encoder.json",
    "vocab.bpe alone": lambda folder: gpt2_files(folder) / "vocab.bpe",
    "encoder.json with a token called model": raw("encoder.json", json.dumps({**byte_vocab(), "model": 9999})),
    "truncated encoder.json": corrupted("encoder.json", lambda text: text[:-20]),
    "no end-of-text token": corrupted("encoder.json", lambda text: text.replace(END, "<end>")),
    "a merge of three": corrupted("vocab.bpe", lambda text: text + "a b c\n"),
    "a merge of one": corrupted("vocab.bpe", lambda text: text + "abc\n"),
    "a merge that is not in the vocabulary": corrupted("vocab.bpe", lambda text: text + "a b\n"),
    "vocab.txt without [MASK]": lambda folder: bert_file(folder, [word for word in WORDS if word != "[MASK]"]),
    "duplicate token": lambda folder: bert_file(folder, [*WORDS, "cat"]),
    "vocab.txt that is not UTF-8": raw("vocab.txt", b"[PAD]\n\xff\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_invalid_files(case: str, tmp_path: Path) -> None:
    path = INVALID[case](tmp_path)
    with pytest.raises(BertGPTError) as error:
        load_tokenizer(path).encode("some text")
    assert (error.value.code, error.value.exit_code) == ("BG314", 3)
    assert str(tmp_path) in str(error.value.path)


def test_no_such_tokenizer() -> None:
    with pytest.raises(BertGPTError) as error:
        load_tokenizer("/no/such/tokenizer")
    assert error.value.code == "BG211"


def test_blank_last_line_of_the_merges_is_ignored(tmp_path: Path) -> None:
    folder = corrupted("vocab.bpe", lambda text: text + "\n")(tmp_path)
    assert load_tokenizer(folder).encode("hello") == load_tokenizer(gpt2_files(tmp_path / "t")).encode("hello")


def test_added_tokens_outside_the_byte_alphabet(tmp_path: Path) -> None:
    """As in GPT-NeoX: runs of spaces."""
    spaces = {"id": TRAINED.max_id + 1, "content": "    ", "single_word": False, "lstrip": False, "rstrip": False}
    spaces |= {"normalized": True, "special": False}
    tokenizer = load_tokenizer(in_json(lambda content: content["added_tokens"].append(spaces))(tmp_path))
    ids = tokenizer.encode("a    b")
    assert tokenizer.max_id in ids
    assert tokenizer.token_bytes is not None
    assert int(tokenizer.token_bytes[ids].sum()) == 6
    assert tokenizer.starts_word[tokenizer.max_id]
