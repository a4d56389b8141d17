"""One class for every tokenizer: what `tokenizers` would read from tokenizer.json, and which ids play which role.

A tokenizer is known by the hash of its content. Its folder opens in `transformers` too. Special tokens that are typed
in a text are text; special ids come from us, by role.
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

from bertgpt.utils.files import discard_result, write_atomic

ROLES = ("pad", "unk", "cls", "sep", "mask", "end")
DEFAULT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|end|>")  # ids 0-5 of a tokenizer trained here
BERT_SPECIALS = ("pad", "cls", "sep", "mask")  # what rows of BERT are framed, filled and masked with
CONFIG_KEYS = {"pad": "pad_token", "unk": "unk_token", "cls": "cls_token", "sep": "sep_token", "mask": "mask_token"}
SpecialTokensTemplate = Literal["around", "before"]  # what special tokens do to a text
NOT_IDENTITY = ("version", "truncation", "padding", "post_processor")


def byte_alphabet() -> dict[str, int]:
    """GPT-2's way of writing bytes as printable characters: character to byte (Radford et al., 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer: `content` is that of tokenizer.json, `roles` has the id of each special role it knows."""

    content: dict[str, Any]
    roles: dict[str, int]

    # ----------------------------------------------------------------------------------------- identity

    @property
    def kind(self) -> str:
        """ "bpe" (byte-level) or "wordpiece"."""
        return str(self.content["model"]["type"]).lower()

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Every token with its id, special ones included."""
        added = {token["content"]: token["id"] for token in self.content.get("added_tokens", ())}
        vocab: dict[str, int] = self.content["model"]["vocab"] | added
        return vocab

    @cached_property
    def max_id(self) -> int:
        """The largest id, which decides how ids are stored."""
        return max(self.vocab.values())

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 wherever it holds every id."""
        return np.dtype(np.uint16 if self.max_id < 1 << 16 else np.uint32)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that decides which ids a text becomes, and of the roles."""
        content = {key: value for key, value in self.content.items() if key not in (*NOT_IDENTITY, "model")}
        model = {key: value for key, value in self.content["model"].items() if key not in ("vocab", "merges")}
        vocab = sorted((i, token) for token, i in self.content["model"]["vocab"].items())
        digest = hashlib.sha256(json.dumps([content, model, self.roles], sort_keys=True, ensure_ascii=False).encode())
        for entries in ((f"{i} {token}" for i, token in vocab), map(" ".join, self.content["model"].get("merges", ()))):
            digest.update(b"\0\0" + "\0".join(entries).encode())
        return digest.hexdigest()

    @property
    def eos_id(self) -> int:
        """The id that closes a document."""
        return self.roles["end"]

    # ------------------------------------------------------------------------------------- text and ids

    @property
    def non_special_added(self) -> list[dict[str, Any]]:
        """Tokens beside the model that are no special ones."""
        return [token for token in self.content.get("added_tokens", ()) if not token["special"]]

    @cached_property
    def plain_content(self) -> str:
        """tokenizer.json without special tokens, so that one that is typed in a text stays text."""
        plain = self.content | {
            "added_tokens": self.non_special_added,
            "post_processor": None,
            "truncation": None,
            "padding": None,
        }
        return json.dumps(plain, ensure_ascii=False)

    @cached_property
    def reference(self) -> Any:
        """The `tokenizers.Tokenizer` that defines what is right."""
        import tokenizers

        return tokenizers.Tokenizer.from_str(self.plain_content)

    @cached_property
    def _decoder(self) -> Any:
        import tokenizers

        return tokenizers.Tokenizer.from_str(json.dumps(self.content, ensure_ascii=False))

    def encode(self, text: str) -> list[int]:
        """The ids of one text, by the reference."""
        return list(self.reference.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ones are written out."""
        return str(self._decoder.decode([int(i) for i in ids], skip_special_tokens=False))

    @cached_property
    def tokens(self) -> list[str]:
        """The token of each id; an id that nobody uses is empty."""
        tokens = [""] * (self.max_id + 1)
        for token, i in self.vocab.items():
            tokens[i] = token
        return tokens

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that no text produces."""
        return frozenset(self.roles.values()) | {
            token["id"] for token in self.content.get("added_tokens", ()) if token["special"]
        }

    @cached_property
    def special_texts(self) -> list[str]:
        """What special tokens look like when somebody types them."""
        return sorted({self.tokens[i] for i in self.special_ids})

    @cached_property
    def token_bytes(self) -> NDArray[np.int32] | None:
        """How many bytes of text each id stands for; None where a tokenizer does not keep the text (WordPiece)."""
        if self.kind != "bpe":
            return None
        return np.array([len(self.bytes_of(i)) for i in range(self.max_id + 1)], np.int32)

    def bytes_of(self, i: int) -> bytes:
        """The bytes that an id of a byte-level tokenizer stands for; none for special ones."""
        if i in self.special_ids:
            return b""
        token = self.tokens[i]
        return token.encode() if token in self.added else bytes(BYTE_OF[c] for c in token)

    @cached_property
    def added(self) -> frozenset[str]:
        """Tokens that stand beside the model, written as they are."""
        return frozenset(token["content"] for token in self.content.get("added_tokens", ()))

    @cached_property
    def starts_word(self) -> NDArray[np.bool_]:
        """Which ids begin a word: whole words are masked together, and documents are cut between words."""
        if self.kind == "wordpiece":
            return np.array([not token.startswith("##") for token in self.tokens], np.bool_)
        spaces = (*(char for char, byte in BYTE_OF.items() if bytes([byte]).isspace()), *string.whitespace)
        starts = np.array([token.startswith(spaces) for token in self.tokens], np.bool_)
        starts[list(self.special_ids)] = True
        return starts

    # ------------------------------------------------------------------------------------------- folders

    def save(
        self,
        folder: Path,
        longest: int | None = None,
        frame: SpecialTokensTemplate | None = None,
        segments: bool = False,
    ) -> None:
        """Write the folder that `Tokenizer.load` and `transformers` read.

        There, rows are cut at `longest`, texts get the special tokens of a `frame`, and it is said which sentence each
        id is of where a model has `segments`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "eos_token": self.tokens[self.eos_id],
        } | {CONFIG_KEYS[role]: self.tokens[i] for role, i in self.roles.items() if role in CONFIG_KEYS}
        config |= {} if longest is None else {"model_max_length": longest}
        config |= {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]} if segments else {}
        write_json(
            folder / "tokenizer.json", self.content | ({"post_processor": self.post_processor(frame)} if frame else {})
        )
        write_json(folder / "tokenizer_config.json", config)

    def post_processor(self, frame: SpecialTokensTemplate) -> dict[str, Any]:
        """How `tokenizers` puts special tokens around one text, or two: [CLS] A [SEP] B [SEP], or end A end B."""
        around = frame == "around"
        first, between = (self.tokens[self.roles[role]] for role in (("cls", "sep") if around else ("end", "end")))

        def special(token: str, kind: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": token, "type_id": kind}}

        def text(name: str, kind: int) -> dict[str, Any]:
            return {"Sequence": {"id": name, "type_id": kind}}

        single = [special(first, 0), text("A", 0), *([special(between, 0)] if around else [])]
        pair = [*single, text("B", 1), special(between, 1)] if around else [*single, special(between, 0), text("B", 0)]
        ids = {token: {"id": token, "ids": [self.vocab[token]], "tokens": [token]} for token in {first, between}}
        return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids}


BYTE_OF = byte_alphabet()


def write_json(path: Path, content: Any) -> None:
    """JSON that is the same bytes for the same content; on one line, since Python writes that ten times faster."""
    text = json.dumps(content, ensure_ascii=False) + "\n"
    write_atomic(path, lambda aside: discard_result(aside.write_text(text, encoding="utf-8")))
