"""Load a tokenizer: GPT-2's by name, a folder, or a file (tokenizer.json or vocab.txt)."""

import json
import os
from pathlib import Path
from typing import Any

from bertgpt.data.tokenizers.gpt2 import from_tiktoken
from bertgpt.data.tokenizers.layouts import byte_level, wordpiece
from bertgpt.data.tokenizers.tokenizer import BYTE_OF, CONFIG_KEYS, DEFAULT_SPECIALS, ROLES, Tokenizer
from bertgpt.utils.errors import BertGPTError, short_repr
from bertgpt.utils.json_files import parse_json

MAX_IDS = 1 << 22  # several times those of the largest vocabularies


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load a tokenizer by name ("gpt2"), from a folder or from a file, and check that it can encode.

    Raises BertGPTError if there is no such tokenizer, or if it is invalid or neither byte-level BPE nor WordPiece.
    """
    if source == "gpt2" and not Path(source).exists():
        return from_tiktoken()
    if not os.path.exists(source):  # noqa: PTH110 - Path raises for an impossible name
        message = f"no such tokenizer: {short_repr(str(source))}"
        raise BertGPTError("BG211", message, hint="use gpt2, a folder or a file")
    try:
        tokenizer = from_path(Path(source))
        _ = tokenizer.reference  # parses the content
        if tokenizer.kind == "bpe":
            invalid = set("".join(tokenizer.content["model"]["vocab"])) - BYTE_OF.keys()
            if invalid:
                raise ValueError(f"characters outside the byte alphabet: {' '.join(sorted(invalid))}")
    except (BertGPTError, KeyboardInterrupt):
        raise
    except BaseException as error:  # panics of `tokenizers` do not derive from Exception
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise BertGPTError("BG314", "invalid tokenizer", path=str(source), cause=cause) from None
    return tokenizer


def from_path(path: Path) -> Tokenizer:
    """The tokenizer in a folder or file, without the checks of `load_tokenizer`."""
    return from_folder(path) if path.is_dir() else from_file(path)


def from_folder(folder: Path) -> Tokenizer:
    """The tokenizer in a folder: tokenizer.json, or the original files of GPT-2 or BERT."""
    if (folder / "tokenizer.json").exists():
        config = folder / "tokenizer_config.json"
        return from_json(folder / "tokenizer.json", read_json(config) if config.exists() else {})
    for vocab, merges in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        if (folder / vocab).exists() and (folder / merges).exists():
            lines = read_lines(folder / merges)
            pairs = [line.split(" ") for line in lines if line and line[:9] != "#version:"]
            check_ids(ids := read_json(folder / vocab), folder / vocab)
            return byte_level(ids, pairs)
    if (folder / "vocab.txt").exists():
        return from_file(folder / "vocab.txt")
    hint = "a tokenizer folder has tokenizer.json, encoder.json with vocab.bpe, or vocab.txt"
    raise BertGPTError("BG314", "no tokenizer in this folder", path=str(folder), hint=hint)


def from_file(path: Path) -> Tokenizer:
    """A tokenizer.json, or BERT's vocab.txt."""
    if path.suffix == ".json":
        return from_json(path, {})
    tokens = read_lines(path)
    missing = [special for special in DEFAULT_SPECIALS[:5] if special not in tokens]
    if missing or len(set(tokens)) != len(tokens):
        cause = f"missing: {', '.join(missing)}" if missing else "duplicate token"
        raise BertGPTError("BG314", "invalid WordPiece vocabulary", path=str(path), cause=cause)
    return wordpiece({token: i for i, token in enumerate(tokens)})


def from_json(path: Path, config: dict[str, Any]) -> Tokenizer:
    """A tokenizer.json, with roles from its tokenizer_config.json or by the usual names of special tokens."""
    content = read_json(path)
    model = content.get("model", {})
    if not isinstance(model, dict) or model.get("type") not in ("BPE", "WordPiece") or not model.get("vocab"):
        raise BertGPTError("BG314", "unsupported tokenizer model: neither BPE nor WordPiece", path=str(path))
    if model["type"] == "BPE" and "ByteLevel" not in json.dumps(content.get("pre_tokenizer")):
        raise BertGPTError("BG314", "unsupported tokenizer model: BPE that is not byte-level", path=str(path))
    if model["type"] == "BPE":
        model["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    vocab = model["vocab"] | {token["content"]: token["id"] for token in content.get("added_tokens", ())}
    check_ids(vocab, path)
    roles = find_roles(vocab, config)
    if "eos" not in roles:
        raise BertGPTError("BG314", "tokenizer has no end-of-text token", path=str(path))
    return Tokenizer(content, roles)


def check_ids(vocab: dict[str, Any], path: Path) -> None:
    """Refuse ids that are no ids: memory grows with the largest one."""
    for token, i in vocab.items():
        if type(i) is not int or not 0 <= i < MAX_IDS:
            cause = f"{short_repr(i)} of {short_repr(token)}; ids are 0 to {MAX_IDS - 1:,}"
            raise BertGPTError("BG314", "invalid token id", path=str(path), cause=cause)


def find_roles(vocab: dict[str, int], config: dict[str, Any]) -> dict[str, int]:
    """The ids of the special roles: named in tokenizer_config.json, or by the default names."""
    configured = {role: config.get(key) for role, key in CONFIG_KEYS.items()} | {"eos": config.get("eos_token")}
    roles = {}
    for role, default in zip(ROLES, DEFAULT_SPECIALS, strict=True):
        token = configured[role]
        token = (token["content"] if isinstance(token, dict) else token) or default
        if token in vocab:
            roles[role] = vocab[token]
    if "eos" not in roles:
        candidates = [vocab[token] for token in ("<|endoftext|>", "</s>") if token in vocab]
        candidates += [roles["sep"]] if "sep" in roles else []
        roles |= {"eos": candidates[0]} if candidates else {}
    return roles


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a tokenizer file."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BertGPTError("BG314", "cannot read tokenizer file", path=str(path), cause=str(error)) from None
    if not isinstance(content, dict):
        raise BertGPTError("BG314", "tokenizer file is not a JSON object", path=str(path))
    return content


def read_lines(path: Path) -> list[str]:
    """The lines of a tokenizer text file; only \\n ends a line, since tokens may contain other line separators."""
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise BertGPTError("BG314", "cannot read tokenizer file", path=str(path), cause=str(error)) from None
