"""Load a tokenizer: GPT-2's by name, a folder, or a file (tokenizer.json, encoder.json with vocab.bpe, vocab.txt)."""

import json
import os
from pathlib import Path
from typing import Any

from bertgpt.data.tokenizers.gpt2 import from_tiktoken
from bertgpt.data.tokenizers.layouts import byte_level, wordpiece
from bertgpt.data.tokenizers.tokenizer import BYTE_OF, CONFIG_KEYS, DEFAULT_SPECIALS, ROLES, Tokenizer
from bertgpt.utils.errors import BertGPTError, short_repr


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load a tokenizer by name ("gpt2"), from a folder or from a file."""
    if source == "gpt2" and not Path(source).exists():
        return from_tiktoken()
    if not os.path.exists(source):  # noqa: PTH110 - a Path of an impossible name raises
        raise BertGPTError(
            "BG211", f"there is no tokenizer {short_repr(str(source))}", hint="give gpt2, a folder or a file"
        )
    try:
        tokenizer = from_path(Path(source))
        assert tokenizer.reference
        if tokenizer.kind == "bpe":
            letters = set("".join(tokenizer.content["model"]["vocab"])) - BYTE_OF.keys()
            assert not letters, f"characters that stand for no byte: {' '.join(sorted(letters))}"
    except (BertGPTError, KeyboardInterrupt):
        raise
    except BaseException as error:  # `tokenizers` panics with exceptions of its own kind
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise BertGPTError("BG314", "this tokenizer cannot be read", path=str(source), cause=cause) from None
    return tokenizer


def from_path(path: Path) -> Tokenizer:
    """The tokenizer in a folder or file, not yet looked at closely."""
    return from_folder(path) if path.is_dir() else from_file(path)


def from_folder(folder: Path) -> Tokenizer:
    """The tokenizer in a folder: tokenizer.json, or GPT-2's or BERT's own files."""
    if (folder / "tokenizer.json").exists():
        config = folder / "tokenizer_config.json"
        return from_json(folder / "tokenizer.json", read_json(config) if config.exists() else {})
    for vocab, merges in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        if (folder / vocab).exists() and (folder / merges).exists():
            lines = read_lines(folder / merges)
            pairs = [line.split(" ") for line in lines if line and line[:9] != "#version:"]
            return byte_level(read_json(folder / vocab), pairs)
    if (folder / "vocab.txt").exists():
        return from_file(folder / "vocab.txt")
    raise BertGPTError(
        "BG314",
        "this folder holds no tokenizer",
        path=str(folder),
        hint="it should have tokenizer.json, encoder.json with vocab.bpe, or vocab.txt",
    )


def from_file(path: Path) -> Tokenizer:
    """A tokenizer.json, or BERT's vocab.txt."""
    if path.suffix == ".json":
        return from_json(path, {})
    words = read_lines(path)
    missing = [special for special in DEFAULT_SPECIALS[:5] if special not in words]
    if missing or len(set(words)) != len(words):
        what = f"{', '.join(missing)} missing" if missing else "a word stands twice"
        raise BertGPTError("BG314", "this is no WordPiece vocabulary", path=str(path), cause=what)
    return wordpiece({word: i for i, word in enumerate(words)})


def from_json(path: Path, config: dict[str, Any]) -> Tokenizer:
    """A tokenizer.json, its roles found in tokenizer_config.json or by the usual names."""
    content = read_json(path)
    model = content.get("model", {})
    if not isinstance(model, dict) or model.get("type") not in ("BPE", "WordPiece") or not model.get("vocab"):
        raise BertGPTError("BG314", "this tokenizer is neither BPE nor WordPiece", path=str(path))
    if model["type"] == "BPE" and "ByteLevel" not in json.dumps(content.get("pre_tokenizer")):
        raise BertGPTError("BG314", "this tokenizer's BPE is not one of bytes", path=str(path))
    if model["type"] == "BPE":
        model["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    vocab = model["vocab"] | {token["content"]: token["id"] for token in content.get("added_tokens", ())}
    named = {role: config.get(key) for role, key in CONFIG_KEYS.items()} | {"end": config.get("eos_token")}
    usual = dict(zip(ROLES, DEFAULT_SPECIALS, strict=True))
    roles = {}
    for role in ROLES:
        name = named[role]
        name = (name["content"] if isinstance(name, dict) else name) or usual[role]
        if name in vocab:
            roles[role] = vocab[name]
    if "end" not in roles:
        ends = [vocab[name] for name in ("<|endoftext|>", "</s>") if name in vocab] + [
            roles[r] for r in ("sep",) if r in roles
        ]
        if not ends:
            raise BertGPTError("BG314", "this tokenizer has no token that ends a document", path=str(path))
        roles["end"] = ends[0]
    return Tokenizer(content, roles)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a tokenizer's file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BertGPTError(
            "BG314", "a file of the tokenizer cannot be read", path=str(path), cause=str(error)
        ) from None
    if not isinstance(content, dict):
        raise BertGPTError("BG314", "a file of the tokenizer is not a JSON object", path=str(path))
    return content


def read_lines(path: Path) -> list[str]:
    """The lines of a tokenizer's text file; only \\n ends a line here."""
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise BertGPTError(
            "BG314", "a file of the tokenizer cannot be read", path=str(path), cause=str(error)
        ) from None
