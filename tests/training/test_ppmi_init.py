"""PPMI initialization of embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch

import bertgpt
from bertgpt.config.training_options import PretrainOptions
from bertgpt.stages import pretrain
from bertgpt.training import ppmi_init
from bertgpt.training.ppmi_init import cooccurrence_counts, low_rank_factor, ppmi
from bertgpt.utils.errors import BertGPTError
from tests.fixtures.training import SMALL_RUN, TrainingData, assert_identical_runs
from tests.training.test_resume import interrupt, killed


def test_cooccurrences_are_counted_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppmi_init, "WINDOW", 2)
    stream = np.array([0, 1, 2, 3, 0])  # 3 stands for all tokens that are not counted
    expected = np.zeros((3, 3))
    for i, a in enumerate(stream):
        for j, b in enumerate(stream):
            if i != j and abs(i - j) <= 2 and a < 3 and b < 3:
                expected[a, b] += 1
    assert (cooccurrence_counts(stream, 3) == expected).all()


def test_ppmi_of_counts() -> None:
    counts = np.array([[0, 8, 0], [8, 0, 2], [0, 2, 0]], np.float32)
    totals = counts.sum(axis=1)
    context = totals**0.75 / (totals**0.75).sum()
    result = ppmi(counts)
    assert result[0, 1] == pytest.approx(np.log(8 / totals[0] / context[1]))
    assert result[0, 0] == result[2, 0] == 0
    assert ppmi(np.zeros((2, 2), np.float32)).tolist() == [[0, 0], [0, 0]]


def test_low_rank_factor_reconstructs_the_matrix() -> None:
    root = np.random.default_rng(0).normal(size=(30, 4))
    symmetric = (root @ root.T).astype(np.float32)
    factor = low_rank_factor(symmetric, 6)
    assert factor.shape == (30, 6)
    assert np.abs(factor @ factor.T - symmetric).max() < 1e-3
    assert low_rank_factor(symmetric[:3, :3], 6).shape == (3, 6)


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_run_with_ppmi_init(
    objective: str, training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens in similar contexts get similar embeddings, other parameters do not change, and resume is exact."""
    source, options = training_data[objective]
    run_options = {**SMALL_RUN, "preset": options["preset"], "optimizer": "muon", "embedding_init": "ppmi"}
    run = pretrain.PretrainSetup(PretrainOptions(data=source, out=str(tmp_path), **run_options))
    model, plain = run.model(), run.model(skip_ppmi=True)
    rows = [each.token_embedding.weight[: run.config.vocab_size].detach().norm(dim=1) for each in (model, plain)]
    assert float(rows[0].mean()) == pytest.approx(float(rows[1].mean()), rel=0.1)
    changed = [name for name, weight in plain.state_dict().items() if not torch.equal(weight, model.state_dict()[name])]
    assert sorted(changed) == (["lm_bias"] if objective == "mlm" else []) + ["token_embedding.weight"]
    words = [run.tokenizer.vocab[f"Ġ{word}"] for word in ("was", "is", "the")]
    was, other, far = torch.nn.functional.normalize(model.token_embedding.weight[words], dim=1)
    assert was @ other > was @ far
    bertgpt.pretrain(source, out=str(tmp_path / "uninterrupted"), **run_options)
    with monkeypatch.context() as patched:
        interrupt(patched, pretrain.Trainer, "train_step", 6, killed)
        with pytest.raises(RuntimeError, match="killed"):
            bertgpt.pretrain(source, out=str(tmp_path / "interrupted"), **run_options)
    monkeypatch.setattr(pretrain, "ppmi_init", None)  # a resumed run does not count again
    bertgpt.pretrain(source, out=str(tmp_path / "interrupted"), **run_options)
    assert_identical_runs(tmp_path / "uninterrupted", tmp_path / "interrupted")


def test_init_and_embedding_init_are_mutually_exclusive(tiny_training_data: TrainingData, tmp_path: Path) -> None:
    source = tiny_training_data["clm"][0]
    bertgpt.pretrain(source, out=str(tmp_path / "first"), **SMALL_RUN)
    options = {k: v for k, v in SMALL_RUN.items() if k != "preset"}
    with pytest.raises(BertGPTError, match="cannot be combined"):
        bertgpt.pretrain(
            source, out=str(tmp_path / "x"), init=str(tmp_path / "first"), embedding_init="ppmi", **options
        )
