"""Tokenizer class for byte-level BPE and WordPiece: the content of a tokenizer.json, and the id of each special role.

A tokenizer is identified by a fingerprint, the hash of its content. `transformers` can load its folder. Special-token
strings in a text are encoded as plain text; special ids are only added by our code, by role.
"""

import hashlib
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bertgpt.utils.files import write_text

ROLES = ("pad", "unk", "cls", "sep", "mask", "eos")
DEFAULT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|end|>")  # ids 0-5 of a trained tokenizer
BERT_SPECIALS = ("pad", "cls", "sep", "mask")  # the roles that MLM rows need
CONFIG_KEYS = {"pad": "pad_token", "unk": "unk_token", "cls": "cls_token", "sep": "sep_token", "mask": "mask_token"}
SpecialTokensTemplate = Literal["cls_sep", "bos"]  # [CLS] text [SEP], or the end token in front of the text
NOT_IN_FINGERPRINT = ("version", "truncation", "padding", "post_processor")


def byte_alphabet() -> dict[str, int]:
    """GPT-2's byte-to-unicode table, from printable character to byte (Radford et al., 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer: `content` is that of tokenizer.json, `roles` maps each special role that it has to an id."""

    content: dict[str, Any]
    roles: dict[str, int]

    # -------------------------------------------------------------------------------- vocabulary and fingerprint

    @property
    def kind(self) -> str:
        """ "bpe" (byte-level) or "wordpiece"."""
        return str(self.content["model"]["type"]).lower()

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Token to id, with added and special tokens."""
        added = {token["content"]: token["id"] for token in self.content.get("added_tokens", ())}
        vocab: dict[str, int] = self.content["model"]["vocab"] | added
        return vocab

    @cached_property
    def max_id(self) -> int:
        """The largest id; it determines the dtype of ids."""
        return max(self.vocab.values())

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 if every id fits, else uint32."""
        return np.dtype(np.uint16 if self.max_id < 1 << 16 else np.uint32)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of everything that determines the ids of a text, and of the roles."""
        content = {key: value for key, value in self.content.items() if key not in (*NOT_IN_FINGERPRINT, "model")}
        model = {key: value for key, value in self.content["model"].items() if key not in ("vocab", "merges")}
        vocab = sorted((i, token) for token, i in self.content["model"]["vocab"].items())
        digest = hashlib.sha256(json.dumps([content, model, self.roles], sort_keys=True, ensure_ascii=False).encode())
        for entries in ((f"{i} {token}" for i, token in vocab), map(" ".join, self.content["model"].get("merges", ()))):
            digest.update(b"\0\0" + "\0".join(entries).encode())
        return digest.hexdigest()

    @property
    def eos_id(self) -> int:
        """The id that ends a document."""
        return self.roles["eos"]

    # ------------------------------------------------------------------------------------- text and ids

    @property
    def non_special_added(self) -> list[dict[str, Any]]:
        """Entries of `added_tokens` that are not special."""
        return [token for token in self.content.get("added_tokens", ()) if not token["special"]]

    @cached_property
    def json_without_specials(self) -> str:
        """tokenizer.json without special tokens, so that special-token strings in a text stay plain text."""
        disabled = dict.fromkeys(("post_processor", "truncation", "padding"))
        return json.dumps(self.content | {"added_tokens": self.non_special_added} | disabled, ensure_ascii=False)

    @cached_property
    def reference(self) -> Any:
        """The `tokenizers.Tokenizer` that defines the correct ids."""
        import tokenizers

        return tokenizers.Tokenizer.from_str(self.json_without_specials)

    @cached_property
    def _decoder(self) -> Any:
        import tokenizers

        return tokenizers.Tokenizer.from_str(json.dumps(self.content, ensure_ascii=False))

    def encode(self, text: str) -> list[int]:
        """Encode one text with the reference tokenizer, without special tokens."""
        return list(self.reference.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text; special tokens are kept."""
        return str(self._decoder.decode([int(i) for i in ids], skip_special_tokens=False))

    @cached_property
    def tokens(self) -> list[str]:
        """Id to token; an unused id has an empty one."""
        tokens = [""] * (self.max_id + 1)
        for token, i in self.vocab.items():
            tokens[i] = token
        return tokens

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that encoding a text never produces."""
        return frozenset(self.roles.values()) | {
            token["id"] for token in self.content.get("added_tokens", ()) if token["special"]
        }

    @cached_property
    def special_tokens(self) -> list[str]:
        """The strings of the special tokens."""
        return sorted({self.tokens[i] for i in self.special_ids})

    @cached_property
    def token_bytes(self) -> NDArray[np.int32] | None:
        """Number of bytes of text per id; None for WordPiece, which does not preserve the text."""
        if self.kind != "bpe":
            return None
        return np.array([len(self.id_to_bytes(i)) for i in range(self.max_id + 1)], np.int32)

    def id_to_bytes(self, i: int) -> bytes:
        """The bytes of an id of a byte-level tokenizer; empty for a special id."""
        if i in self.special_ids:
            return b""
        token = self.tokens[i]
        return token.encode() if token in self.added_tokens else bytes(BYTE_OF[c] for c in token)

    @cached_property
    def added_tokens(self) -> frozenset[str]:
        """Tokens outside the BPE or WordPiece model, which are not written in the byte alphabet."""
        return frozenset(token["content"] for token in self.content.get("added_tokens", ()))

    @cached_property
    def starts_word(self) -> NDArray[np.bool_]:
        """Whether each id starts a word, for whole-word masking and for splitting documents between words."""
        if self.kind == "wordpiece":
            return np.array([not token.startswith("##") for token in self.tokens], np.bool_)
        spaces = (*(char for char, byte in BYTE_OF.items() if bytes([byte]).isspace()), *string.whitespace)
        starts = np.array([token.startswith(spaces) for token in self.tokens], np.bool_)
        starts[list(self.special_ids)] = True
        return starts

    # ------------------------------------------------------------------------------------------- saving

    def save(
        self,
        folder: Path,
        model_max_length: int | None = None,
        template: SpecialTokensTemplate | None = None,
        token_type_ids: bool = False,
    ) -> None:
        """Write a tokenizer folder that `load_tokenizer` and `transformers` read.

        In `transformers`, it truncates to `model_max_length`, adds special tokens by `template`, and returns
        `token_type_ids` if asked to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "eos_token": self.tokens[self.eos_id],
        } | {CONFIG_KEYS[role]: self.tokens[i] for role, i in self.roles.items() if role in CONFIG_KEYS}
        if model_max_length is not None:
            config["model_max_length"] = model_max_length
        if token_type_ids:
            config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        post_processor = {} if template is None else {"post_processor": self.post_processor(template)}
        write_compact_json(folder / "tokenizer.json", self.content | post_processor)
        write_compact_json(folder / "tokenizer_config.json", config)

    def post_processor(self, template: SpecialTokensTemplate) -> dict[str, Any]:
        """A `tokenizers` post-processor: [CLS] A [SEP] and [CLS] A [SEP] B [SEP], or <end> A and <end> A <end> B."""
        is_cls_sep = template == "cls_sep"
        first, between = (self.tokens[self.roles[role]] for role in (("cls", "sep") if is_cls_sep else ("eos", "eos")))

        def special(token: str, type_id: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": token, "type_id": type_id}}

        def text(name: str, type_id: int) -> dict[str, Any]:
            return {"Sequence": {"id": name, "type_id": type_id}}

        single = [special(first, 0), text("A", 0)]
        if is_cls_sep:
            single = [*single, special(between, 0)]
            pair = [*single, text("B", 1), special(between, 1)]
        else:
            pair = [*single, special(between, 0), text("B", 0)]
        ids = {
            token: {"id": token, "ids": [self.vocab[token]], "tokens": [token]}
            for token in dict.fromkeys((first, between))
        }
        return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids}


BYTE_OF = byte_alphabet()


def write_compact_json(path: Path, content: Any) -> None:
    """Write reproducible JSON; on one line, since Python writes that ten times faster than indented JSON."""
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")
