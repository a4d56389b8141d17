"""Scores on tinyworld, beside a word-by-word computation and for models whose scores are known."""

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
    """Small vocabularies: many words are several tokens."""
    texts = [document.text for document in documents]
    return {kind: train_tokenizer(kind, 600, texts) for kind in ("bpe", "wordpiece")}


def model_of(family: str, tokenizer: Tokenizer, objective: str, **other: Any) -> PretrainedModel:
    """A random model whose predictions depend on the whole context."""
    config = make_config(32, 3, 2, tokenizer.max_id + 1, FAMILIES[family] | {"max_seq_len": 512} | other, ffn_dim=48)
    model, draws = init_model(config, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=draws) * 0.2 + name.endswith("norm.weight"))
        model.token_embedding.weight[config.vocab_size :] = 0
    return PretrainedModel(model, tokenizer, objective)


def always(tokenizer: Tokenizer, objective: str, i: int) -> PretrainedModel:
    """A model that predicts the same token everywhere."""
    pretrained = model_of("bert", tokenizer, objective)
    with torch.no_grad():
        pretrained.model.token_embedding.weight.zero_()
        pretrained.model.lm_bias.copy_(torch.nn.functional.one_hot(torch.tensor(i), len(pretrained.model.lm_bias)))
    return pretrained


def close(one: Any, other: Any) -> None:
    """Check that nested results are almost equal."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            close(value, other[key])
        else:
            assert value == pytest.approx(other[key], rel=1e-5), key


# ------------------------------------------------------------------------------------------------ excess NLL


@torch.no_grad()
def word_nlls(pretrained: PretrainedModel, document: Document) -> list[tuple[str, float, float]]:
    """Category, true NLL and the model's NLL of each word, aligned character by character, one row without padding."""
    encoding = pretrained.tokenizer.reference.encode(document.text, add_special_tokens=False)
    row = torch.tensor([[pretrained.tokenizer.eos_id, *encoding.ids, pretrained.tokenizer.eos_id]])
    logprobs = pretrained.model.logits(pretrained.model(row, causal=True)).log_softmax(dim=-1)
    word_at: dict[int, int] = {}
    for number, match in enumerate(TOKEN.finditer(document.text)):
        word_at |= dict.fromkeys(range(*match.span()), number)
    words = WORLD.parse(document.text).words
    nlls = [0.0] * len(words)
    for position, (start, stop) in enumerate([*encoding.offsets, (None, None)]):
        covered = [] if start is None else [word_at[at] for at in range(start, stop) if at in word_at]
        following = [] if start is None else [word_at[at] for at in range(stop, len(document.text)) if at in word_at]
        owner = (covered + following + [len(words) - 1])[0]
        nlls[owner] -= float(logprobs[0, position, row[0, position + 1]])
    return [(word.category, -word.logp, nll) for word, nll in zip(words, nlls, strict=True)]


@pytest.mark.parametrize(
    ("family", "kind", "objective"),
    [("gpt2", "bpe", "clm"), ("modern", "bpe", "clm"), ("modern", "wordpiece", "hybrid")],
)
def test_excess_nll_matches_word_by_word_computation(
    family: str, kind: str, objective: str, tokenizers: dict[str, Tokenizer], documents: list[Document]
) -> None:
    """A shift by one, a token given to the wrong word, a missing end token or visible padding would show."""
    pretrained = model_of(family, tokenizers[kind], objective)
    result = excess_nll(pretrained, WORLD, documents)
    words = [word for document in documents for word in word_nlls(pretrained, document)]
    gap = sum(nll - true for _, true, nll in words)
    for category in CATEGORIES:
        rows = [(true, nll) for name, true, nll in words if name == category]
        true, nll = (sum(column) for column in zip(*rows, strict=True))
        expected = {"words": len(rows), "true_nll": true, "nll": nll, "excess": nll / true - 1}
        close(result["by_category"][category], expected | {"share_of_gap": (nll - true) / gap})


def test_categories_sum_to_the_total(tokenizers: dict[str, Tokenizer], documents: list[Document]) -> None:
    """And the true NLL is that of the documents, end included."""
    result = excess_nll(model_of("gpt2", tokenizers["bpe"], "clm"), WORLD, documents)
    for name in ("words", "true_nll", "nll"):
        assert sum(sums[name] for sums in result["by_category"].values()) == pytest.approx(result[name])
    assert sum(sums["share_of_gap"] for sums in result["by_category"].values()) == pytest.approx(1)
    assert result["true_nll"] == pytest.approx(-sum(document.logp for document in documents), rel=1e-12)
    assert result["words"] == sum(len(tokens_of(document.text)) + 1 for document in documents)
    assert (result["documents"], result["skipped"]) == (len(documents), 0)
    assert result["excess"] > 0


def test_uniform_model_pays_log_vocab_for_each_token(
    tokenizers: dict[str, Tokenizer], documents: list[Document]
) -> None:
    """The tokens of each text, and the end token."""
    pretrained = model_of("gpt2", tokenizers["bpe"], "clm")
    pretrained.model.token_embedding.weight.data.zero_()
    ids = sum(len(pretrained.tokenizer.encode(document.text)) + 1 for document in documents)
    result = excess_nll(pretrained, WORLD, documents)
    assert result["nll"] == pytest.approx(ids * math.log(pretrained.model.config.vocab_size), rel=1e-6)
    assert result["excess"] == pytest.approx(result["nll"] / result["true_nll"] - 1)


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_excess_nll_does_not_depend_on_batching(
    family: str, tokenizers: dict[str, Tokenizer], documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor on the order of documents, nor on dropout of a model left in training mode."""
    pretrained = model_of(family, tokenizers["bpe"], "clm", dropout=0.5)
    batched = excess_nll(pretrained, WORLD, documents)
    pretrained.model.train()
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 1)
    close(batched, excess_nll(pretrained, WORLD, documents[::-1]))


def test_token_belongs_to_the_word_of_its_first_character(tokenizers: dict[str, Tokenizer]) -> None:
    """Leading spaces do not count; a token over two words belongs to the first, and the second has none."""
    text = 'He said:  "Good luck!" And she '
    aligned = align(tokenizers["bpe"], text)
    parts = [""] * (len(tokens_of(text)) + 1)
    for i, owner in zip(aligned.ids, aligned.words, strict=True):
        parts[owner] += tokenizers["bpe"].id_to_bytes(i).decode()
    assert parts == ["He", " said", ":", '  "', "Good", " luck", '!"', "", " And", " she", " "]


# --------------------------------------------------------------------------------------- masked-word accuracy


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "kind", "objective"),
    [("bert", "wordpiece", "mlm"), ("modern", "bpe", "mlm"), ("gpt2", "bpe", "hybrid")],
)
def test_words_are_masked_one_at_a_time(
    family: str, kind: str, objective: str, tokenizers: dict[str, Tokenizer], documents: list[Document]
) -> None:
    """Each in a row of its own, without dropout of a model left in training mode."""
    pretrained = model_of(family, tokenizers[kind], objective, dropout=0.5)
    pretrained.model.train()
    roles, ids = pretrained.tokenizer.roles, pretrained.tokenizer.encode(documents[1].text)
    masks = [[0], [3, 4, 5], [7, 2], [len(ids) - 1]] * 30  # more than a batch
    assert len(ids) * len(masks) > batching.MAX_BATCH_TOKENS
    result = [logits.argmax(dim=1).tolist() for logits in masked_logits(pretrained, ids, masks)]
    for positions, predicted in zip(masks[:4], result[:4], strict=True):
        row = [roles["cls"], *(roles["mask"] if i in positions else own for i, own in enumerate(ids)), roles["sep"]]
        logits = pretrained.model.logits(pretrained.model(torch.tensor([row]), causal=False))[0]
        assert predicted == [int(logits[i if objective == "hybrid" else i + 1].argmax()) for i in positions]
    assert result == result[:4] * 30
    assert len({i for predicted in result for i in predicted}) > 3


@pytest.mark.parametrize(
    ("kind", "token", "right", "same"),
    [("bpe", "\u0120is", 4, 4), ("wordpiece", "is", 4, 5), ("bpe", "\u0120an", 1, 1), ("wordpiece", "an", 1, 1)],
)
def test_constant_prediction_is_right_where_that_word_is(
    kind: str, token: str, right: int, same: int, tokenizers: dict[str, Tokenizer], documents: list[Document]
) -> None:
    """Not where it is a part of the word, as in "anything". Agreement with the Bayes optimum is not accuracy: the most
    likely word is once "is" for "seems", which is one token of WordPiece, and two of BPE, where "is is" is predicted.
    """
    tokenizer, document = tokenizers[kind], documents[10]
    result = masked_word_accuracy(always(tokenizer, "mlm", tokenizer.vocab[token]), WORLD, [document])
    counts, hits, oracle_hits = Counter[str](), Counter[str](), Counter[str]()
    for position, word in enumerate(WORLD.parse(document.text).words[:-1]):
        if word.text.isalpha():
            posterior = Oracle(WORLD, document.text).posterior(position)
            counts[word.category] += 1
            hits[word.category] += word.text == token.removeprefix("\u0120")
            oracle_hits[word.category] += posterior[word.text] == max(posterior.values())
    words = counts.total()
    assert 0 < hits.total() == right < oracle_hits.total() < words
    assert (result["documents"], result["skipped"], result["words"]) == (1, 0, words)
    assert result["accuracy"] == right / words
    assert result["bayes_accuracy"] == oracle_hits.total() / words
    assert result["share"] == right / oracle_hits.total()
    assert result["bayes_agreement"] == same / words
    for category, sums in result["by_category"].items():
        assert sums["words"] == counts[category]
        if category == POSSESSIONS:  # there are none
            assert sums["accuracy"] is sums["bayes_accuracy"] is sums["share"] is None
        else:
            assert sums["accuracy"] == hits[category] / counts[category]
            assert sums["bayes_accuracy"] == oracle_hits[category] / counts[category]
            assert sums["share"] == hits[category] / oracle_hits[category]
    assert list(result["by_category"]) == list(CATEGORIES)


def test_word_without_a_token_of_its_own_is_not_masked() -> None:
    """An empty prediction would count as correct. Only tokenizers that ignore words make this."""
    pieces = [("\u0120", "t"), ("h", "e"), ("\u0120t", "he"), ("o", "n"), ("\u0120", "on"), ("\u0120on", "\u0120the")]
    tokens = [*DEFAULT_SPECIALS, *BYTE_OF, *map("".join, pieces)]
    tokenizer = byte_level({token: i for i, token in enumerate(tokens)}, pieces, DEFAULT_SPECIALS)
    tokenizer.content["pre_tokenizer"]["use_regex"] = False
    texts = (each for each in WORLD.documents(0, 40) if each.text.count(" on the ") == 1)
    document = min(texts, key=lambda each: len(each.text))
    words = sum(word[0].isalpha() for word in tokens_of(document.text))
    result = masked_word_accuracy(always(tokenizer, "mlm", len(tokens) - 1), WORLD, [document])
    assert result["words"] == words - 1
    assert result["accuracy"] == 1 / result["words"]


# ------------------------------------------------------------------------------------- skipped, and refused


def test_too_long_documents_are_skipped_and_counted(
    tokenizers: dict[str, Tokenizer], documents: list[Document]
) -> None:
    """They are not in the true entropy either. The longest that fits leaves room for two special tokens."""
    sizes = {document.index: len(tokenizers["bpe"].encode(document.text)) for document in documents}
    longest = sorted(sizes.values())[30]
    short = [document for document in documents if sizes[document.index] <= longest]
    pretrained = model_of("bert", tokenizers["bpe"], "hybrid", max_seq_len=longest + 2)
    result = excess_nll(pretrained, WORLD, documents)
    assert (result["documents"], result["skipped"]) == (len(short), len(documents) - len(short))
    close(result | {"skipped": 0}, excess_nll(pretrained, WORLD, short))

    smallest = min(documents, key=lambda document: sizes[document.index])
    tight = model_of("bert", tokenizers["bpe"], "mlm", max_seq_len=sizes[smallest.index] + 2)
    result = masked_word_accuracy(tight, WORLD, [documents[5], smallest])
    assert (result["documents"], result["skipped"]) == (1, 1)
    tighter = model_of("bert", tokenizers["bpe"], "mlm", max_seq_len=sizes[smallest.index] + 1)
    with pytest.raises(BertGPTError, match="no document"):
        masked_word_accuracy(tighter, WORLD, [smallest])


def test_documents_with_unknown_tokens_are_skipped(tokenizers: dict[str, Tokenizer], documents: list[Document]) -> None:
    """One unknown token stands for many words, and is easier to predict than they are."""
    content = copy.deepcopy(tokenizers["wordpiece"].content)
    gone = content["model"]["vocab"].pop(":")
    content["model"]["vocab"]["~"] = gone
    pretrained = model_of("gpt2", Tokenizer(content, tokenizers["wordpiece"].roles), "clm")
    without = [document for document in documents if ":" not in document.text]
    result = excess_nll(pretrained, WORLD, documents)
    assert result["skipped"] == len(documents) - len(without) > 0
    close(result | {"skipped": 0}, excess_nll(pretrained, WORLD, without))


def test_scores_refuse_the_wrong_objective(tokenizers: dict[str, Tokenizer], documents: list[Document]) -> None:
    for objective, score in (("mlm", excess_nll), ("clm", masked_word_accuracy)):
        with pytest.raises(BertGPTError, match=r"needs a (causal model|masked language model)") as raised:
            score(model_of("gpt2", tokenizers["bpe"], objective), WORLD, documents)
        assert raised.value.code == "BG221"
