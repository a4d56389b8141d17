"""Classification and regression from Python."""

from pathlib import Path

import numpy as np
import pytest

import bertgpt
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import ClassificationHead, PretrainedModel
from bertgpt.inference.classify import classify, probabilities
from bertgpt.inference.language_model import LanguageModel
from bertgpt.utils.errors import BertGPTError
from tests.fixtures.models import random_classifier, save_random_model

TEXTS = ["She was glad.", "There was a hard frost in the clock shop of Tarn.", ""]


def test_labels_scores_and_pairs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = save_random_model(tmp_path, "bert", tokenizer).model
    head = ClassificationHead("task", ("bad", "fair", "good"), random_classifier(model, False))
    pretrained = PretrainedModel(model, tokenizer, "mlm", head=head)
    for pair in ((TEXTS, None), (TEXTS, TEXTS[::-1])):
        probs = probabilities(classify(pretrained, *pair))
        results = LanguageModel(pretrained).classify(*pair)
        assert [list(result["scores"].values()) for result in results] == probs.tolist()
        assert [result["label"] for result in results] == [head.labels[i] for i in probs.argmax(axis=1)]
        assert [result["score"] for result in results] == probs.max(axis=1).tolist()
    [one] = LanguageModel(pretrained).classify(TEXTS[0])
    assert one["score"] == pytest.approx(LanguageModel(pretrained).classify(TEXTS)[0]["score"], abs=1e-5)


def test_regression_predicts_a_number(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = save_random_model(tmp_path, "gpt2", tokenizer).model
    head = ClassificationHead("task", (), random_classifier(model, causal=True, num_labels=1))
    pretrained = PretrainedModel(model, tokenizer, "clm", head=head)
    results = LanguageModel(pretrained).classify(TEXTS)
    assert np.allclose([result["score"] for result in results], classify(pretrained, TEXTS)[:, 0], atol=1e-5)
    assert all(result["label"] is None and not result["scores"] for result in results)


def test_model_without_a_head_is_refused(runs: Path) -> None:
    with pytest.raises(BertGPTError, match="no classification head"):
        bertgpt.load(runs / "bert").classify("a")
