"""The distance to tinyworld: as it is when every word is computed by itself, and as it must be for rigged models."""

import copy
import math
from collections import Counter
from typing import Any

import pytest
import torch

from bertgpt.config.presets import BERT, GPT2, MODERNBERT, make_config
from bertgpt.data.tokenizers.layouts import byte_level
from bertgpt.data.tokenizers.tokenizer import BYTE_OF, DEFAULT_SPECIALS, Tokenizer
from bertgpt.data.tokenizers.train import train_tokenizer
from bertgpt.evals.tinyworld import align, excess_nll, masked_word_accuracy
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference import batching
from bertgpt.inference.scoring import masked_logits
from bertgpt.tinyworld.grammar import CATEGORIES, POSSESSIONS, TOKEN, tokens_of
from bertgpt.tinyworld.oracle import Oracle
from bertgpt.tinyworld.world import Document, World
from bertgpt.training.init import init_model
from bertgpt.utils.errors import BertGPTError

FAMILIES = {"gpt2": GPT2, "bert": BERT, "modern": MODERNBERT | {"local_window": 8}}
WORLD = World(seed=0)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(WORLD.documents(0, 40))


@pytest.fixture(scope="module")
def tokenizers(documents: list[Document]) -> dict[str, Tokenizer]:
    """Small ones, for which many words are several tokens."""
    texts = [document.text for document in documents]
    return {kind: train_tokenizer(kind, 600, texts) for kind in ("bpe", "wordpiece")}


def model_of(family: str, tokenizer: Tokenizer, objective: str, **other: Any) -> PretrainedModel:
    """One that says something else of every context, if nothing sensible."""
    config = make_config(32, 3, 2, tokenizer.max_id + 1, FAMILIES[family] | {"max_seq_len": 512} | other, ffn_dim=48)
    model, draws = init_model(config, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=draws) * 0.2 + name.endswith("norm.weight"))
        model.token_embedding.weight[config.vocab_size :] = 0
    return PretrainedModel(model, tokenizer, objective)


def always(tokenizer: Tokenizer, objective: str, i: int) -> PretrainedModel:
    """A model that says the same id everywhere."""
    kept = model_of("bert", tokenizer, objective)
    with torch.no_grad():
        kept.model.token_embedding.weight.zero_()
        kept.model.lm_bias.copy_(torch.nn.functional.one_hot(torch.tensor(i), len(kept.model.lm_bias)))
    return kept


def close(one: Any, other: Any) -> None:
    """The same numbers in the same places."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            close(value, other[key])
        else:
            assert value == pytest.approx(other[key], rel=1e-5), key


# -------------------------------------------------------------------------------------------------- surprise


@torch.no_grad()
def plainly(kept: PretrainedModel, document: Document) -> list[tuple[str, float, float]]:
    """Mechanism, true nats and the model's of each word: a text cut by hand, and one row without any padding."""
    encoding = kept.tokenizer.reference.encode(document.text, add_special_tokens=False)
    row = torch.tensor([[kept.tokenizer.eos_id, *encoding.ids, kept.tokenizer.eos_id]])
    logps = kept.model.logits(kept.model(row, causal=True)).log_softmax(dim=-1)
    word_at: dict[int, int] = {}
    for number, match in enumerate(TOKEN.finditer(document.text)):
        word_at |= dict.fromkeys(range(*match.span()), number)
    words = WORLD.read(document.text).words
    nats = [0.0] * len(words)
    for place, (start, stop) in enumerate([*encoding.offsets, (None, None)]):
        covered = [] if start is None else [word_at[at] for at in range(start, stop) if at in word_at]
        following = [] if start is None else [word_at[at] for at in range(stop, len(document.text)) if at in word_at]
        owner = (covered + following + [len(words) - 1])[0]
        nats[owner] -= float(logps[0, place, row[0, place + 1]])
    return [(word.mechanism, -word.logp, cost) for word, cost in zip(words, nats, strict=True)]


@pytest.mark.parametrize(
    ("family", "kind", "objective"),
    [("gpt2", "bpe", "clm"), ("modern", "bpe", "clm"), ("modern", "wordpiece", "hybrid")],
)
def test_surprise_is_the_plain_one(
    family: str, kind: str, objective: str, tokenizers: dict[str, Tokenizer], documents: list[Document]
) -> None:
    """Word by word: a shift by one, a neighbour's nats, an ending left out or a window of padding would show."""
    kept = model_of(family, tokenizers[kind], objective)
    found = excess_nll(kept, WORLD, documents)
    words = [word for document in documents for word in plainly(kept, document)]
    gap = sum(nats - true for _, true, nats in words)
    for mechanism in CATEGORIES:
        some = [(true, nats) for m, true, nats in words if m == mechanism]
        true, nats = (sum(column) for column in zip(*some, strict=True))
        right = {"words": len(some), "true_nats": true, "nats": nats, "excess": nats / true - 1}
        close(found["by_mechanism"][mechanism], right | {"share_of_gap": (nats - true) / gap})


def test_sums_over_mechanisms_are_those_of_all(tokenizers: dict[str, Tokenizer], documents: list[Document]) -> None:
    """Nothing is lost on the way, and the truth is what the writer knew, the ending included."""
    found = excess_nll(model_of("gpt2", tokenizers["bpe"], "clm"), WORLD, documents)
    for name in ("words", "true_nats", "nats"):
        assert sum(some[name] for some in found["by_mechanism"].values()) == pytest.approx(found[name])
    assert sum(some["share_of_gap"] for some in found["by_mechanism"].values()) == pytest.approx(1)
    assert found["true_nats"] == pytest.approx(-sum(document.logp for document in documents), rel=1e-12)
    assert found["words"] == sum(len(tokens_of(document.text)) + 1 for document in documents)
    assert (found["documents"], found["skipped"]) == (len(documents), 0)
    assert found["excess"] > 0


def test_who_knows_nothing_pays_the_same_for_every_id(
    tokenizers: dict[str, Tokenizer], documents: list[Document]
) -> None:
    """As many as the text has, and one for the ending."""
    kept = model_of("gpt2", tokenizers["bpe"], "clm")
    kept.model.token_embedding.weight.data.zero_()
    ids = sum(len(kept.tokenizer.encode(document.text)) + 1 for document in documents)
    found = excess_nll(kept, WORLD, documents)
    assert found["nats"] == pytest.approx(ids * math.log(kept.model.config.vocab_size), rel=1e-6)
    assert found["excess"] == pytest.approx(found["nats"] / found["true_nats"] - 1)


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_company_changes_nothing(
    family: str, tokenizers: dict[str, Tokenizer], documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other documents of the batch, their order, and dropout of a model that was left in training."""
    kept = model_of(family, tokenizers["bpe"], "clm", dropout=0.5)
    together = excess_nll(kept, WORLD, documents)
    kept.model.train()
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 1)
    close(together, excess_nll(kept, WORLD, documents[::-1]))


def test_a_token_belongs_to_the_word_of_its_first_letter_or_mark(tokenizers: dict[str, Tokenizer]) -> None:
    """Not to that of the space before it; over two words it is the first one's, and the second has nothing."""
    text = 'He said:  "Good luck!" And she '
    ids = align(tokenizers["bpe"], text)
    parts = [""] * (len(tokens_of(text)) + 1)
    for i, owner in zip(ids.ids, ids.owners, strict=True):
        parts[owner] += tokenizers["bpe"].bytes_of(i).decode()
    assert parts == ["He", " said", ":", '  "', "Good", " luck", '!"', "", " And", " she", " "]


# --------------------------------------------------------------------------------------------------- guesses


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "kind", "objective"),
    [("bert", "wordpiece", "mlm"), ("modern", "bpe", "mlm"), ("gpt2", "bpe", "hybrid")],
)
def test_gaps_are_filled_one_at_a_time(
    family: str, kind: str, objective: str, tokenizers: dict[str, Tokenizer], documents: list[Document]
) -> None:
    """Each in a row of its own, where no other gap is hidden, and without the dropout of a model left in training."""
    kept = model_of(family, tokenizers[kind], objective, dropout=0.5)
    kept.model.train()
    roles, ids = kept.tokenizer.roles, kept.tokenizer.encode(documents[1].text)
    gaps = [[0], [3, 4, 5], [7, 2], [len(ids) - 1]] * 30  # more than a batch
    assert len(ids) * len(gaps) > batching.MAX_BATCH_TOKENS
    found = [logits.argmax(dim=1).tolist() for logits in masked_logits(kept, ids, gaps)]
    for places, said in zip(gaps[:4], found[:4], strict=True):
        row = [roles["cls"], *(roles["mask"] if i in places else own for i, own in enumerate(ids)), roles["sep"]]
        logits = kept.model.logits(kept.model(torch.tensor([row]), causal=False))[0]
        assert said == [int(logits[i if objective == "hybrid" else i + 1].argmax()) for i in places]
    assert found == found[:4] * 30
    assert len({i for said in found for i in said}) > 3


@pytest.mark.parametrize(
    ("kind", "token", "right", "same"),
    [("bpe", "\u0120is", 4, 4), ("wordpiece", "is", 4, 5), ("bpe", "\u0120an", 1, 1), ("wordpiece", "an", 1, 1)],
)
def test_who_always_says_the_same_is_right_where_that_stands(
    kind: str, token: str, right: int, same: int, tokenizers: dict[str, Tokenizer], documents: list[Document]
) -> None:
    """Not where it is a part of what stands there, as in "anything". To agree with the oracle is not to be right: it
    says "is" once for "seems", which is one id of WordPiece, and two of BPE, for which "is is" is said.
    """
    tokenizer, document = tokenizers[kind], documents[10]
    found = masked_word_accuracy(always(tokenizer, "mlm", tokenizer.vocab[token]), WORLD, [document])
    counts, hits, oracle_hits = Counter[str](), Counter[str](), Counter[str]()
    for position, word in enumerate(WORLD.read(document.text).words[:-1]):
        if word.text.isalpha():
            odds = Oracle(WORLD, document.text).posterior(position)
            counts[word.mechanism] += 1
            hits[word.mechanism] += word.text == token.removeprefix("\u0120")
            oracle_hits[word.mechanism] += odds[word.text] == max(odds.values())
    words = counts.total()
    assert 0 < hits.total() == right < oracle_hits.total() < words
    assert (found["documents"], found["skipped"], found["words"]) == (1, 0, words)
    assert found["accuracy"] == right / words
    assert found["oracle_accuracy"] == oracle_hits.total() / words
    assert found["share"] == right / oracle_hits.total()
    assert found["agreement_with_oracle"] == same / words
    for mechanism, sums in found["by_mechanism"].items():
        assert sums["words"] == counts[mechanism]
        if mechanism == POSSESSIONS:  # there are none
            assert sums["accuracy"] is sums["oracle_accuracy"] is sums["share"] is None
        else:
            assert sums["accuracy"] == hits[mechanism] / counts[mechanism]
            assert sums["oracle_accuracy"] == oracle_hits[mechanism] / counts[mechanism]
            assert sums["share"] == hits[mechanism] / oracle_hits[mechanism]
    assert list(found["by_mechanism"]) == list(CATEGORIES)


def test_a_word_without_a_token_of_its_own_is_not_asked_about() -> None:
    """There is nothing to hide of it, and nothing said would be all right. Such a tokenizer knows no words."""
    pieces = [("\u0120", "t"), ("h", "e"), ("\u0120t", "he"), ("o", "n"), ("\u0120", "on"), ("\u0120on", "\u0120the")]
    tokens = [*DEFAULT_SPECIALS, *BYTE_OF, *map("".join, pieces)]
    tokenizer = byte_level({token: i for i, token in enumerate(tokens)}, pieces, DEFAULT_SPECIALS)
    tokenizer.content["pre_tokenizer"]["use_regex"] = False
    texts = (each for each in WORLD.documents(0, 40) if each.text.count(" on the ") == 1)
    document = min(texts, key=lambda each: len(each.text))
    words = sum(word[0].isalpha() for word in tokens_of(document.text))
    found = masked_word_accuracy(always(tokenizer, "mlm", len(tokens) - 1), WORLD, [document])
    assert found["words"] == words - 1
    assert found["accuracy"] == 1 / found["words"]


# ------------------------------------------------------------------------------------------- what cannot be asked


def test_documents_that_do_not_fit_are_counted(tokenizers: dict[str, Tokenizer], documents: list[Document]) -> None:
    """And are not in the truth either. Two ids around the longest one that fits are all that the model has room for."""
    sizes = {document.index: len(tokenizers["bpe"].encode(document.text)) for document in documents}
    longest = sorted(sizes.values())[30]
    short = [document for document in documents if sizes[document.index] <= longest]
    kept = model_of("bert", tokenizers["bpe"], "hybrid", max_seq_len=longest + 2)
    found = excess_nll(kept, WORLD, documents)
    assert (found["documents"], found["skipped"]) == (len(short), len(documents) - len(short))
    close(found | {"skipped": 0}, excess_nll(kept, WORLD, short))

    smallest = min(documents, key=lambda document: sizes[document.index])
    tight = model_of("bert", tokenizers["bpe"], "mlm", max_seq_len=sizes[smallest.index] + 2)
    found = masked_word_accuracy(tight, WORLD, [documents[5], smallest])
    assert (found["documents"], found["skipped"]) == (1, 1)
    tighter = model_of("bert", tokenizers["bpe"], "mlm", max_seq_len=sizes[smallest.index] + 1)
    with pytest.raises(BertGPTError, match="no document"):
        masked_word_accuracy(tighter, WORLD, [smallest])


def test_documents_with_unknown_ids_are_counted(tokenizers: dict[str, Tokenizer], documents: list[Document]) -> None:
    """All that a tokenizer does not know is one id to it, which is easier to foretell than words are."""
    content = copy.deepcopy(tokenizers["wordpiece"].content)
    gone = content["model"]["vocab"].pop(":")
    content["model"]["vocab"]["~"] = gone
    kept = model_of("gpt2", Tokenizer(content, tokenizers["wordpiece"].roles), "clm")
    without = [document for document in documents if ":" not in document.text]
    found = excess_nll(kept, WORLD, documents)
    assert found["skipped"] == len(documents) - len(without) > 0
    close(found | {"skipped": 0}, excess_nll(kept, WORLD, without))


def test_models_are_asked_what_they_were_trained_for(
    tokenizers: dict[str, Tokenizer], documents: list[Document]
) -> None:
    for objective, score in (("mlm", excess_nll), ("clm", masked_word_accuracy)):
        with pytest.raises(BertGPTError, match=r"a (BERT|GPT) does not") as raised:
            score(model_of("gpt2", tokenizers["bpe"], objective), WORLD, documents)
        assert raised.value.code == "BG221"
