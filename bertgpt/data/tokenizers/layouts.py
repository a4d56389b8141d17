"""Build tokenizers: byte-level BPE as in GPT-2, WordPiece as in BERT, and either with the special tokens MLM needs."""

from collections.abc import Iterable, Sequence
from typing import Any

from bertgpt.data.tokenizers.tokenizer import BERT_SPECIALS, DEFAULT_SPECIALS, ROLES, Tokenizer


def byte_level(vocab: dict[str, int], merges: Iterable[Sequence[str]], specials: Sequence[str] = ()) -> Tokenizer:
    """Byte-level BPE as in GPT-2. `specials` are the tokens of `ROLES`; without them <|endoftext|> ends documents."""
    options = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": sorted_by_id(vocab), "merges": [list(merge) for merge in merges],
    }  # fmt: skip
    content = tokenizer_json(
        model,
        [special_token(name, vocab[name]) for name in specials or ["<|endoftext|>"]],
        normalizer=None,
        pre_tokenizer={"type": "ByteLevel", **options},
        decoder={"type": "ByteLevel", **options},
    )
    if not specials:
        return Tokenizer(content, {"eos": vocab["<|endoftext|>"]})
    return Tokenizer(content, dict(zip(ROLES, map(vocab.__getitem__, specials), strict=True)))


def wordpiece(vocab: dict[str, int], specials: Sequence[str] = ()) -> Tokenizer:
    """WordPiece as in BERT, lower-casing unless the vocabulary has capitals; by default [SEP] ends documents."""
    lowercase = not any(token != token.lower() for token in vocab if not token.startswith(("[", "<|")))
    names = specials or DEFAULT_SPECIALS[:5]
    normalizer = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": lowercase}
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": sorted_by_id(vocab),
    }  # fmt: skip
    content = tokenizer_json(
        model,
        [special_token(name, vocab[name]) for name in names],
        normalizer={"type": "BertNormalizer", **normalizer},
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": False},
    )
    roles = dict(zip(ROLES, map(vocab.__getitem__, names), strict=False))
    return Tokenizer(content, roles | {"eos": roles.get("eos", vocab["[SEP]"])})


def tokenizer_json(
    model: dict[str, Any],
    added_tokens: list[dict[str, Any]],
    *,
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any],
    decoder: dict[str, Any],
) -> dict[str, Any]:
    """The content of a tokenizer.json, with its keys in the order in which `tokenizers` writes them."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def sorted_by_id(vocab: dict[str, int]) -> dict[str, int]:
    """A vocabulary in the order of its ids, so that the same vocabulary gives the same bytes on disk."""
    return dict(sorted(vocab.items(), key=lambda entry: entry[1]))


def special_token(content: str, token_id: int) -> dict[str, Any]:
    """An entry of `added_tokens` for a special token."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **flags}


def with_bert_specials(tokenizer: Tokenizer) -> Tokenizer:
    """Add the special tokens that MLM rows need: those that are missing, after the largest id."""
    names = {role: name for role, name in zip(ROLES, DEFAULT_SPECIALS, strict=True) if role in BERT_SPECIALS}
    missing = {role: name for role, name in names.items() if role not in tokenizer.roles}
    if not missing:
        return tokenizer
    ids = {role: i for i, role in enumerate(missing, start=tokenizer.max_id + 1)}
    added = [special_token(name, ids[role]) for role, name in missing.items()]
    content = tokenizer.content | {"added_tokens": [*tokenizer.content.get("added_tokens", ()), *added]}
    return Tokenizer(content, tokenizer.roles | ids)
