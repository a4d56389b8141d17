"""Train a tokenizer reproducibly: the same sample gives the same tokenizer in any process."""

import json
from collections import Counter
from collections.abc import Iterable

from bertgpt.data.tokenizers.layouts import byte_level, wordpiece
from bertgpt.data.tokenizers.tokenizer import DEFAULT_SPECIALS, Tokenizer


def train_tokenizer(kind: str, vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    """Train byte-level BPE ("bpe") or WordPiece ("wordpiece") with at most `vocab_size` tokens; ids 0-5 are special."""
    return train_bpe(vocab_size, texts) if kind == "bpe" else train_wordpiece(vocab_size, texts)


def train_bpe(vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    """Train byte-level BPE, as in GPT-2."""
    from tokenizers import Tokenizer as HFTokenizer
    from tokenizers import models, pre_tokenizers, trainers

    trained = HFTokenizer(models.BPE())
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
    """Train WordPiece, as in BERT.

    The trainer orders the characters of its alphabet differently in each process. Characters that it is given as
    special tokens keep their order; the model is then built from the vocabulary alone, in which only our special tokens
    are special.
    """
    from tokenizers import Tokenizer as HFTokenizer
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(lowercase=True)
    normalized = [normalizer.normalize_str(text) for text in texts]
    counts = Counter(char for text in normalized for char in text if not char.isspace())
    by_frequency = sorted(counts, key=lambda char: (-counts[char], char))
    alphabet = sorted(by_frequency[: (vocab_size - len(DEFAULT_SPECIALS)) // 4])  # with ##, at most half of the vocab
    drop_rare = str.maketrans(dict.fromkeys(set(counts) - set(alphabet), " "))
    fixed = [*DEFAULT_SPECIALS, *alphabet, *(f"##{char}" for char in alphabet)]
    trained = HFTokenizer(models.WordPiece(unk_token=DEFAULT_SPECIALS[1]))
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=fixed, show_progress=False)
    trained.train_from_iterator((text.translate(drop_rare) for text in normalized), trainer)
    return wordpiece(trained.get_vocab(with_added_tokens=True), DEFAULT_SPECIALS)
