"""Vectors of texts, and how likely texts are."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import bertgpt
from bertgpt.hub.pretrained import load
from bertgpt.inference import batching
from bertgpt.inference.embed import Pooling
from bertgpt.inference.scoring import rolling_windows, token_logprobs
from bertgpt.utils.errors import BertGPTError

TEXTS = ["She was glad.", "", "There was a hard frost in the clock shop of Tarn.", "Olive", "a " * 40, "\N{SNOWMAN} ok"]


@torch.no_grad()
def test_the_mean_is_that_of_transformers(runs: Path, tmp_path: Path) -> None:
    """Of a text's own ids: neither of special ones nor of what fills up; and the pooler is theirs too."""
    bertgpt.export(str(runs / "bert"), out=str(tmp_path / "hf"))
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    model = bertgpt.load(str(runs / "bert"))
    found, summary = model.embed(TEXTS), model.embed(TEXTS, "pooled")
    assert found.dtype == np.float32
    for text, vector, pooled in zip(TEXTS, found, summary, strict=True):
        ids = model.pretrained.add_cls_sep(model.pretrained.tokenizer.encode(text))
        said = theirs(torch.tensor([ids]))
        mean = said.last_hidden_state[0, 1:-1].mean(dim=0) if len(ids) > 2 else torch.zeros(64)
        assert np.allclose(vector, mean, atol=1e-5)
        assert np.allclose(pooled, said.pooler_output[0], atol=1e-5)


@pytest.mark.parametrize(("name", "pooling"), [("bert", "mean"), ("gpt", "mean"), ("gpt", "last"), ("both", "mean")])
def test_company_changes_no_vector(name: str, pooling: Pooling, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bertgpt.load(str(runs / name))
    together = model.embed(TEXTS, pooling)
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 1)
    assert np.allclose(together, model.embed(TEXTS, pooling), atol=1e-5)
    assert np.allclose(together[2], model.embed(TEXTS[2], pooling)[0], atol=1e-5)


def test_the_last_is_what_a_gpt_knows_at_the_end(runs: Path) -> None:
    kept = load(runs / "gpt")
    ids = kept.prepend_end(kept.tokenizer.encode(TEXTS[0]))
    with torch.no_grad():
        wanted = kept.model(torch.tensor([ids]), causal=True)[0, -1]
    assert np.allclose(bertgpt.load(str(runs / "gpt")).embed(TEXTS, "last")[0], wanted, atol=1e-5)


def test_a_pooler_that_nobody_trained_is_refused(runs: Path) -> None:
    for name in ("gpt", "both"):
        with pytest.raises(BertGPTError, match="no pooler"):
            bertgpt.load(str(runs / name)).embed(TEXTS, "pooled")


def test_texts_longer_than_the_context_are_cut(runs: Path) -> None:
    model = bertgpt.load(str(runs / "bert"))
    ids = model.pretrained.tokenizer.encode(TEXTS[2] * 40)[:126]
    assert np.allclose(model.embed(TEXTS[2] * 40), model.embed(model.pretrained.tokenizer.decode(ids)), atol=1e-5)


# ------------------------------------------------------------------------------------------------- likelihood


def test_scores_of_a_gpt_are_those_of_transformers(runs: Path, tmp_path: Path) -> None:
    bertgpt.export(str(runs / "gpt"), out=str(tmp_path / "hf"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    model = bertgpt.load(str(runs / "gpt"))
    for text, score in zip(TEXTS, model.score(TEXTS), strict=True):
        ids = torch.tensor([model.pretrained.prepend_end(score.tokens)])
        with torch.no_grad():
            odds = theirs(ids).logits[0].log_softmax(dim=1)
        wanted = [float(odds[place, i]) for place, i in enumerate(score.tokens)]
        assert score.logprobs == pytest.approx(wanted, abs=1e-4)
        assert score.bytes == len(text.encode())
        lengths = model.pretrained.tokenizer.token_bytes
        assert lengths is not None
        assert int(lengths[score.tokens].sum()) == score.bytes
        per_byte = -sum(wanted) / math.log(2) / score.bytes if text else None
        assert score.bits_per_byte == (None if per_byte is None else pytest.approx(per_byte, rel=1e-5))


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 3), (8, 1), (5, 4)])
def test_windows_score_every_target_once(window: int, stride: int) -> None:
    for targets in range(30):
        parts = list(rolling_windows(targets, window, stride))
        assert [place for _, start, stop in parts for place in range(start, stop)] == list(range(targets))
        assert all(stop - first <= window and first <= start for first, start, stop in parts)
        if stride < window:
            assert all(start - first >= window - stride for first, start, stop in parts[1:] if stop < targets)


def test_long_texts_are_scored_in_windows(runs: Path) -> None:
    """Side by side, each from one id on, or with more before it; and one text does not see another."""
    kept = load(runs / "gpt")
    row = kept.tokenizer.encode(TEXTS[2] * 20)
    short = kept.tokenizer.encode(TEXTS[0])
    whole = kept.prepend_end(row)
    with torch.no_grad():
        second = kept.model.logits(kept.model(torch.tensor([whole[128:256]]), causal=True))[0].log_softmax(dim=1)
    found, beside = token_logprobs(kept, [row, short])
    assert len(found) == len(row) > 256
    assert found[128:256] == pytest.approx([float(second[n, i]) for n, i in enumerate(row[128:256])], abs=1e-4)
    assert beside == pytest.approx(token_logprobs(kept, [short])[0], abs=1e-5)
    strided = token_logprobs(kept, [row], stride=32)[0]
    with torch.no_grad():
        window = kept.model.logits(kept.model(torch.tensor([whole[32:160]]), causal=True))[0].log_softmax(dim=1)
    assert strided[:128] == pytest.approx(found[:128], abs=1e-4)
    assert strided[128:160] == pytest.approx([float(window[96 + n, i]) for n, i in enumerate(row[128:160])], abs=1e-4)
    with pytest.raises(BertGPTError, match="stride"):
        token_logprobs(kept, [row], stride=129)


def test_a_bert_hides_the_rest_of_a_word_with_each_of_its_ids(runs: Path) -> None:
    """Pseudo-log-likelihood, by hand."""
    kept = load(runs / "bert")
    text = " extraordinarily glad"
    ids, roles = kept.tokenizer.encode(text), kept.tokenizer.roles
    begins = [*kept.tokenizer.starts_word[ids].tolist(), True]
    assert len(ids) > 4
    wanted = []
    for place, own in enumerate(ids):
        holed, at = list(ids), place
        while at == place or not begins[at]:
            holed[at] = roles["mask"]
            at += 1
        with torch.no_grad():
            logits = kept.model.logits(kept.model(torch.tensor([kept.add_cls_sep(holed)]), causal=False))
        wanted.append(float(logits[0, place + 1].log_softmax(dim=0)[own]))
    [score] = bertgpt.load(str(runs / "bert")).score(text)
    assert score.logprobs == pytest.approx(wanted, abs=1e-4)
    assert score.bits_per_byte is None


def test_what_is_wrong_is_said(runs: Path) -> None:
    model = bertgpt.load(str(runs / "bert"))
    with pytest.raises(BertGPTError, match="no such pooling: 'cls'"):
        model.embed("a", "cls")  # type: ignore[arg-type]
    for ask in (model.embed, model.score):
        with pytest.raises(BertGPTError, match="UTF-8"):
            ask("caf\udce9")
    with pytest.raises(BertGPTError, match="text 1 is longer"):
        model.score(["a", "a " * 500])
    assert model.embed([]).shape == (0, 64)
    assert model.score([]) == []
