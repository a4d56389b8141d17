"""Embeddings and log-likelihoods of texts."""

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
def test_mean_and_pooler_match_transformers(runs: Path, tmp_path: Path) -> None:
    """The mean over a text's own tokens, without special tokens and padding; and the pooler's output."""
    bertgpt.export(str(runs / "bert"), out=str(tmp_path / "hf"))
    hf_model = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    model = bertgpt.load(str(runs / "bert"))
    means, pooled = model.embed(TEXTS), model.embed(TEXTS, "pooled")
    assert means.dtype == np.float32
    for text, mean, pooler_output in zip(TEXTS, means, pooled, strict=True):
        ids = model.pretrained.add_cls_sep(model.pretrained.tokenizer.encode(text))
        output = hf_model(torch.tensor([ids]))
        wanted = output.last_hidden_state[0, 1:-1].mean(dim=0) if len(ids) > 2 else torch.zeros(64)
        assert np.allclose(mean, wanted, atol=1e-5)
        assert np.allclose(pooler_output, output.pooler_output[0], atol=1e-5)


@pytest.mark.parametrize(("name", "pooling"), [("bert", "mean"), ("gpt", "mean"), ("gpt", "last"), ("both", "mean")])
def test_batching_does_not_change_embeddings(
    name: str, pooling: Pooling, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bertgpt.load(str(runs / name))
    batched = model.embed(TEXTS, pooling)
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 1)
    assert np.allclose(batched, model.embed(TEXTS, pooling), atol=1e-5)
    assert np.allclose(batched[2], model.embed(TEXTS[2], pooling)[0], atol=1e-5)


def test_last_pooling_is_the_hidden_state_of_the_last_token(runs: Path) -> None:
    model = load(runs / "gpt")
    ids = model.prepend_eos(model.tokenizer.encode(TEXTS[0]))
    with torch.no_grad():
        wanted = model.model(torch.tensor([ids]), causal=True)[0, -1]
    assert np.allclose(bertgpt.load(str(runs / "gpt")).embed(TEXTS, "last")[0], wanted, atol=1e-5)


def test_untrained_pooler_is_refused(runs: Path) -> None:
    for name in ("gpt", "both"):
        with pytest.raises(BertGPTError, match="no pooler"):
            bertgpt.load(str(runs / name)).embed(TEXTS, "pooled")


def test_texts_longer_than_the_context_are_truncated(runs: Path) -> None:
    model = bertgpt.load(str(runs / "bert"))
    ids = model.pretrained.tokenizer.encode(TEXTS[2] * 40)[:126]
    assert np.allclose(model.embed(TEXTS[2] * 40), model.embed(model.pretrained.tokenizer.decode(ids)), atol=1e-5)


# ------------------------------------------------------------------------------------------------- scoring


def test_gpt_scores_match_transformers(runs: Path, tmp_path: Path) -> None:
    bertgpt.export(str(runs / "gpt"), out=str(tmp_path / "hf"))
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    model = bertgpt.load(str(runs / "gpt"))
    for text, score in zip(TEXTS, model.score(TEXTS), strict=True):
        ids = torch.tensor([model.pretrained.prepend_eos(score.tokens)])
        with torch.no_grad():
            logprobs = hf_model(ids).logits[0].log_softmax(dim=1)
        wanted = [float(logprobs[position, i]) for position, i in enumerate(score.tokens)]
        assert score.logprobs == pytest.approx(wanted, abs=1e-4)
        assert score.bytes == len(text.encode())
        token_bytes = model.pretrained.tokenizer.token_bytes
        assert token_bytes is not None
        assert int(token_bytes[score.tokens].sum()) == score.bytes
        bits_per_byte = -sum(wanted) / math.log(2) / score.bytes if text else None
        assert score.bits_per_byte == (None if bits_per_byte is None else pytest.approx(bits_per_byte, rel=1e-5))


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 3), (8, 1), (5, 4)])
def test_rolling_windows_score_every_target_once(window: int, stride: int) -> None:
    for targets in range(30):
        windows = list(rolling_windows(targets, window, stride))
        assert [target for _, start, stop in windows for target in range(start, stop)] == list(range(targets))
        assert all(stop - first <= window and first <= start for first, start, stop in windows)
        if stride < window:
            assert all(start - first >= window - stride for first, start, stop in windows[1:] if stop < targets)


def test_long_texts_are_scored_in_rolling_windows(runs: Path) -> None:
    """Without overlap, or with earlier tokens as context; and texts do not see each other."""
    model = load(runs / "gpt")
    row = model.tokenizer.encode(TEXTS[2] * 20)
    short = model.tokenizer.encode(TEXTS[0])
    ids = model.prepend_eos(row)
    with torch.no_grad():
        second = model.model.logits(model.model(torch.tensor([ids[128:256]]), causal=True))[0].log_softmax(dim=1)
    logprobs, short_logprobs = token_logprobs(model, [row, short])
    assert len(logprobs) == len(row) > 256
    assert logprobs[128:256] == pytest.approx([float(second[n, i]) for n, i in enumerate(row[128:256])], abs=1e-4)
    assert short_logprobs == pytest.approx(token_logprobs(model, [short])[0], abs=1e-5)
    strided = token_logprobs(model, [row], stride=32)[0]
    with torch.no_grad():
        window = model.model.logits(model.model(torch.tensor([ids[32:160]]), causal=True))[0].log_softmax(dim=1)
    assert strided[:128] == pytest.approx(logprobs[:128], abs=1e-4)
    assert strided[128:160] == pytest.approx([float(window[96 + n, i]) for n, i in enumerate(row[128:160])], abs=1e-4)
    with pytest.raises(BertGPTError, match="stride"):
        token_logprobs(model, [row], stride=129)


def test_pseudo_likelihood_masks_the_rest_of_the_word(runs: Path) -> None:
    """Pseudo-log-likelihoods computed one by one."""
    model = load(runs / "bert")
    text = " extraordinarily glad"
    ids, roles = model.tokenizer.encode(text), model.tokenizer.roles
    is_start = [*model.tokenizer.starts_word[ids].tolist(), True]
    assert len(ids) > 4
    wanted = []
    for position, label in enumerate(ids):
        masked, end = list(ids), position
        while end == position or not is_start[end]:
            masked[end] = roles["mask"]
            end += 1
        with torch.no_grad():
            logits = model.model.logits(model.model(torch.tensor([model.add_cls_sep(masked)]), causal=False))
        wanted.append(float(logits[0, position + 1].log_softmax(dim=0)[label]))
    [score] = bertgpt.load(str(runs / "bert")).score(text)
    assert score.logprobs == pytest.approx(wanted, abs=1e-4)
    assert score.bits_per_byte is None


def test_invalid_arguments_are_refused(runs: Path) -> None:
    model = bertgpt.load(str(runs / "bert"))
    with pytest.raises(BertGPTError, match="no such pooling: 'cls'"):
        model.embed("a", "cls")  # type: ignore[arg-type]
    for method in (model.embed, model.score):
        with pytest.raises(BertGPTError, match="UTF-8"):
            method("caf\udce9")
    with pytest.raises(BertGPTError, match="text 1 is longer"):
        model.score(["a", "a " * 500])
    assert model.embed([]).shape == (0, 64)
    assert model.score([]) == []
