"""Training a tokenizer of one's own, so that the same sample gives the same tokenizer in any process."""

import json
from collections import Counter
from collections.abc import Iterable

from bertgpt.data.tokenizers.layouts import byte_level, wordpiece
from bertgpt.data.tokenizers.tokenizer import DEFAULT_SPECIALS, Tokenizer


def train_tokenizer(kind: str, vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE or a WordPiece tokenizer of at most `vocab_size` tokens; ids 0-5 are the special ones."""
    return train_bpe(vocab_size, texts) if kind == "bpe" else train_wordpiece(vocab_size, texts)


def train_bpe(vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    """Merges of bytes, as GPT-2's."""
    from tokenizers import Tokenizer as Trained
    from tokenizers import models, pre_tokenizers, trainers

    trained = Trained(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(DEFAULT_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    return byte_level(model["vocab"], model["merges"], DEFAULT_SPECIALS)


def train_wordpiece(vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    """Pieces of words, as BERT's.

    The trainer numbers the letters of its alphabet in an order of its own, another one in each process. Given the
    letters as special tokens it keeps our order; the model is then built from the vocabulary alone, in which only our
    specials are special.
    """
    from tokenizers import Tokenizer as Trained
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(lowercase=True)
    cleaned = [normalizer.normalize_str(text) for text in texts]
    counts = Counter(letter for text in cleaned for letter in text if not letter.isspace())
    common = sorted(counts, key=lambda letter: (-counts[letter], letter))
    alphabet = sorted(common[: (vocab_size - len(DEFAULT_SPECIALS)) // 4])  # at most half of the vocabulary, with ##
    rare = str.maketrans(dict.fromkeys(set(counts) - set(alphabet), " "))
    fixed = [*DEFAULT_SPECIALS, *alphabet, *(f"##{letter}" for letter in alphabet)]
    trained = Trained(models.WordPiece(unk_token=DEFAULT_SPECIALS[1]))
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=fixed, show_progress=False)
    trained.train_from_iterator((text.translate(rare) for text in cleaned), trainer)
    return wordpiece(trained.get_vocab(with_added_tokens=True), DEFAULT_SPECIALS)
