"""Embeddings that begin as counts of neighbours have them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bertgpt
from bertgpt.config.options import PretrainOptions
from bertgpt.stages import pretrain
from bertgpt.training import ppmi_init
from bertgpt.training.ppmi_init import cooccurrence_counts, low_rank_factor, ppmi
from bertgpt.utils.errors import BertGPTError
from tests.fixtures.training import SMALL, assert_same
from tests.training.test_resume import interrupt, killed

Kinds = dict[str, tuple[str, dict[str, Any]]]


def test_neighbours_are_counted_to_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppmi_init, "WINDOW", 2)
    stream = np.array([0, 1, 2, 3, 0])  # 3 is everybody else
    wanted = np.zeros((3, 3))
    for i, a in enumerate(stream):
        for j, b in enumerate(stream):
            if i != j and abs(i - j) <= 2 and a < 3 and b < 3:
                wanted[a, b] += 1
    assert (cooccurrence_counts(stream, 3) == wanted).all()


def test_information_is_what_chance_does_not_explain() -> None:
    near = np.array([[0, 8, 0], [8, 0, 2], [0, 2, 0]], np.float32)
    mine = near.sum(axis=1)
    context = mine**0.75 / (mine**0.75).sum()
    found = ppmi(near)
    assert found[0, 1] == pytest.approx(np.log(8 / mine[0] / context[1]))
    assert found[0, 0] == found[2, 0] == 0
    assert ppmi(np.zeros((2, 2), np.float32)).tolist() == [[0, 0], [0, 0]]


def test_a_factor_times_itself_is_the_matrix() -> None:
    made = np.random.default_rng(0).normal(size=(30, 4))
    symmetric = (made @ made.T).astype(np.float32)
    found = low_rank_factor(symmetric, 6)
    assert found.shape == (30, 6)
    assert np.abs(found @ found.T - symmetric).max() < 1e-3
    assert low_rank_factor(symmetric[:3, :3], 6).shape == (3, 6)


@pytest.mark.parametrize("kind", ["clm", "mlm"])
def test_a_run_that_begins_with_counts(
    kind: str, kinds: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands near the same is near; the rest of the model is as ever; stopped and gone on, it is the same."""
    source, options = kinds[kind]
    given = {**SMALL, "preset": options["preset"], "optimizer": "muon", "embedding_init": "ppmi"}
    run = pretrain.PretrainSetup(PretrainOptions(data=source, out=str(tmp_path), **given))
    model, plain = run.model(), run.model(first=False)
    rows = [each.token_embedding.weight[: run.config.vocab_size].detach().norm(dim=1) for each in (model, plain)]
    assert float(rows[0].mean()) == pytest.approx(float(rows[1].mean()), rel=0.1)
    changed = [name for name, weight in plain.state_dict().items() if not torch.equal(weight, model.state_dict()[name])]
    assert sorted(changed) == (["lm_bias"] if kind == "mlm" else []) + ["token_embedding.weight"]
    words = [run.tokenizer.vocab[f"Ġ{word}"] for word in ("was", "is", "the")]
    was, other, far = torch.nn.functional.normalize(model.token_embedding.weight[words], dim=1)
    assert was @ other > was @ far
    bertgpt.pretrain(source, out=str(tmp_path / "straight"), **given)
    with monkeypatch.context() as patched:
        interrupt(patched, pretrain.Trainer, "train_step", 6, killed)
        with pytest.raises(RuntimeError, match="killed"):
            bertgpt.pretrain(source, out=str(tmp_path / "broken"), **given)
    monkeypatch.setattr(pretrain, "ppmi_init", None)  # a run that goes on does not count again
    bertgpt.pretrain(source, out=str(tmp_path / "broken"), **given)
    assert_same(tmp_path / "straight", tmp_path / "broken")


def test_there_is_one_way_to_begin(few: Kinds, tmp_path: Path) -> None:
    source = few["clm"][0]
    bertgpt.pretrain(source, out=str(tmp_path / "first"), **SMALL)
    options = {k: v for k, v in SMALL.items() if k != "preset"}
    with pytest.raises(BertGPTError, match="two ways"):
        bertgpt.pretrain(
            source, out=str(tmp_path / "x"), init=str(tmp_path / "first"), embedding_init="ppmi", **options
        )
