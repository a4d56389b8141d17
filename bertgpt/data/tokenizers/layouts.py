"""Build tokenizers: byte-level BPE as GPT-2 has it, WordPiece as BERT has it, and the special tokens that MLM needs."""

from collections.abc import Iterable, Sequence
from typing import Any

from bertgpt.data.tokenizers.tokenizer import BERT_SPECIALS, DEFAULT_SPECIALS, ROLES, Tokenizer


def special_token(content: str, i: int) -> dict[str, Any]:
    """An entry of `added_tokens`."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": i, "content": content, **flags}


def byte_level(vocab: dict[str, int], merges: Iterable[Sequence[str]], specials: Sequence[str] = ()) -> Tokenizer:
    """Byte-level BPE as GPT-2 has it; without `specials` its own <|endoftext|> ends documents."""
    options = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    names = specials or ["<|endoftext|>"]
    vocab = dict(sorted(vocab.items(), key=lambda entry: entry[1]))  # so that the file is the same bytes too
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special_token(name, vocab[name]) for name in names],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", **options},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **options},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab, "merges": [list(merge) for merge in merges],
        },
    }  # fmt: skip
    roles = (
        dict(zip(ROLES, map(vocab.__getitem__, specials), strict=True)) if specials else {"end": vocab["<|endoftext|>"]}
    )
    return Tokenizer(content, roles)


def wordpiece(vocab: dict[str, int], specials: Sequence[str] = ()) -> Tokenizer:
    """WordPiece as BERT has it, lower-casing unless the vocabulary holds capitals; [SEP] ends documents by default."""
    lower = not any(token != token.lower() for token in vocab if not token.startswith(("[", "<|")))
    names = specials or DEFAULT_SPECIALS[:5]
    vocab = dict(sorted(vocab.items(), key=lambda entry: entry[1]))  # so that the file is the same bytes too
    normalizer = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": lower}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special_token(name, vocab[name]) for name in names],
        "normalizer": {"type": "BertNormalizer", **normalizer},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    }  # fmt: skip
    roles = dict(zip(ROLES, map(vocab.__getitem__, names), strict=False))
    return Tokenizer(content, roles | {"end": roles.get("end", vocab["[SEP]"])})


def with_bert_specials(tokenizer: Tokenizer) -> Tokenizer:
    """The same with the special tokens that masked rows need, those that it lacks behind its largest id."""
    names = {role: name for role, name in zip(ROLES, DEFAULT_SPECIALS, strict=True) if role in BERT_SPECIALS}
    missing = {role: name for role, name in names.items() if role not in tokenizer.roles}
    if not missing:
        return tokenizer
    ids = dict(zip(missing, range(tokenizer.max_id + 1, tokenizer.max_id + 1 + len(missing)), strict=True))
    added = [special_token(name, ids[role]) for role, name in missing.items()]
    content = tokenizer.content | {"added_tokens": [*tokenizer.content.get("added_tokens", ()), *added]}
    return Tokenizer(content, tokenizer.roles | ids)
