"""Objectives: their sums are those of the plain computation, and they look where they should."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

import bertgpt
from bertgpt.config.presets import BERT, GPT2, MODERNBERT, make_config
from bertgpt.data.loading.causal import CausalBatch, CausalDataset
from bertgpt.data.loading.mlm import MLMBatch, open_mlm_dataset
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.model import Transformer
from bertgpt.ops import cross_entropy as loss_module
from bertgpt.ops import kernels
from bertgpt.ops.cross_entropy import linear_cross_entropy
from bertgpt.ops.kernels import attention, linear
from bertgpt.training.device import to_device, to_tensors
from bertgpt.training.init import init_model
from bertgpt.training.objectives import CausalLM, MaskedLM


def rows_on_device(part: object) -> object:
    return to_device(to_tensors(part, pin=False), torch.device("cpu"))


# --------------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_torch(bias: bool) -> None:
    draws = torch.Generator().manual_seed(0)
    x, weight, shift = (torch.randn(size, generator=draws) for size in ((3, 20, 16), (24, 16), (24,)))
    slope = torch.randn((3, 20, 24), generator=draws)
    found = []
    for way in (linear, F.linear):
        given = [each.clone().requires_grad_() for each in (x, weight, shift)]
        y = way(*given) if bias else way(*given[:2])
        y.backward(slope)
        found.append([y.detach(), *(each.grad for each in given[: 2 + bias])])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "all", "mask"])
@pytest.mark.parametrize("length", [7, kernels.MATH_ATTENTION_MAX_KEYS + 8])
def test_attention_step_by_step_is_that_of_torch(kind: str, length: int) -> None:
    draws = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((2, 3, length, 8), generator=draws) for _ in range(3))
    mask = torch.rand((2, 1, length, length), generator=draws) > 0.5 if kind == "mask" else None
    if mask is not None:
        mask |= torch.eye(length, dtype=torch.bool)
    right = F.scaled_dot_product_attention(q, k, v, mask, is_causal=kind == "causal")
    for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 0.06)):
        found = attention(q.to(dtype), k.to(dtype), v.to(dtype), mask, kind == "causal", 0.0)
        assert found.dtype == dtype
        assert (found.float() - right).abs().max() < most


@pytest.mark.parametrize("block", [1, 100, 1 << 24])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("judge", [loss_module.chunk_loss_inplace, loss_module.chunk_loss])
def test_the_loss_in_blocks_is_the_plain_one(
    judge: Any, block: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients, by what CPUs and GPUs take; rows of the weight beyond the vocabulary are nobody's."""
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", {"cpu": block})
    monkeypatch.setattr(loss_module, "chunk_loss_inplace", judge)
    draws = torch.Generator().manual_seed(0)
    hidden, weight, shift = (torch.randn(size, generator=draws) for size in ((30, 16), (64, 16), (50,)))
    targets = torch.randint(0, 50, (30,), generator=draws)
    targets[[3, 7, 29]] = -100
    given = [each.clone().requires_grad_() for each in (hidden, weight, shift)]
    found = linear_cross_entropy(given[0], given[1], given[2] if bias else None, targets, 50)
    (found.loss * 0.37).backward()
    again = [each.clone().requires_grad_() for each in (hidden, weight, shift)]
    logits = again[0] @ again[1][:50].T + (again[2] if bias else 0)
    plain = F.cross_entropy(logits, targets, ignore_index=-100, reduction="none")
    (plain.sum() * 0.37).backward()
    assert torch.allclose(found.losses, plain, atol=1e-5)
    assert torch.equal(found.correct, (logits.argmax(dim=1) == targets))
    for ours, theirs in zip(given[: 2 + bias], again[: 2 + bias], strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


# ------------------------------------------------------------------------------------------------ objectives


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and plans of tinyworld."""
    folder = tmp_path_factory.mktemp("objectives")
    bertgpt.shard("tinyworld", out=str(folder / "shards"), limit_docs=800, train_tokenizer="bpe", vocab_size=500)
    for pair in ("none", "nsp"):
        bertgpt.mask(str(folder / "shards"), out=str(folder / pair), seq_len=64, sentence_pairs=pair)
    return folder


def model_of(family: dict[str, object], vocab: int = 500) -> Transformer:
    return init_model(make_config(32, 2, 2, vocab, family | {"max_seq_len": 64, "init": "gpt2"}), seed=1).eval()


@torch.no_grad()
def test_every_following_id_is_scored_once(folder: Path) -> None:
    windows = CausalDataset(folder / "shards", "train", 64)
    last = np.array([0, len(windows) - 1])
    arrays = windows.batch(last, last)
    rows, model = rows_on_device(arrays), model_of(GPT2)
    found = CausalLM()(model, rows)["clm"]
    logits = model.logits(model(rows.input_ids[:, :-1], causal=True))
    losses = F.cross_entropy(logits.transpose(1, 2), rows.input_ids[:, 1:], reduction="none")
    wanted = sum(losses[i, :n].sum() for i, n in enumerate(arrays.num_targets.tolist()))
    assert found.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert CausalLM().count_targets(arrays) == {"clm": int(arrays.num_targets.sum())}


@torch.no_grad()
@pytest.mark.parametrize("family", [GPT2, MODERNBERT | {"local_window": 8}])
def test_documents_apart_are_scored_as_if_alone(family: dict[str, object]) -> None:
    """An end id closes its document as a target, and opens the next one as an input."""
    model, end = model_of(family), 5
    one, two = torch.arange(10, 30), torch.arange(40, 62)
    row = torch.cat((torch.tensor([end]), one, torch.tensor([end]), two, torch.tensor([end])))[None]
    together = CausalLM(end)(model, CausalBatch(row, torch.tensor([row.size(1) - 1])))["clm"].loss
    alone = 0.0
    for document in (one, two):
        ids = torch.cat((torch.tensor([end]), document, torch.tensor([end])))[None]
        alone += CausalLM()(model, CausalBatch(ids, torch.tensor([ids.size(1) - 1])))["clm"].loss.item()
    assert together.item() == pytest.approx(alone, rel=1e-5)
    joined = CausalLM()(model, CausalBatch(row, torch.tensor([row.size(1) - 1])))["clm"].loss
    assert abs(joined.item() - alone) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("family", [BERT, MODERNBERT | {"local_window": 8}])
def test_pieces_of_a_row_are_scored_as_if_alone(family: dict[str, object], folder: Path) -> None:
    pair = "nsp" if family is BERT else "none"
    tokenizer = load_tokenizer(folder / pair / "tokenizer")
    rows: MLMBatch = rows_on_device(open_mlm_dataset(folder / pair, "train").batch(np.arange(6), np.zeros(6, int)))  # type: ignore[assignment]
    model = model_of(family, tokenizer.max_id + 1)
    terms = MaskedLM(tokenizer.roles["mask"])(model, rows)
    masked, pairs, targets = 0.0, 0.0, 0
    for i in range(6):
        starts = [s for s in rows.segment_starts[i].tolist() if s < 64]
        for p, (start, stop) in enumerate(zip(starts, [*starts[1:], int(rows.lengths[i])], strict=True)):
            ids = rows.input_ids[i : i + 1, start:stop]
            segments = (torch.arange(start, stop) >= rows.sentence_b_starts[i, p]).long()[None]
            hidden = model(ids, causal=False, token_type_ids=segments if family is BERT else None)
            logits = model.logits(hidden)[0]
            for at, label in zip(rows.masked_positions[i, : rows.num_targets[i]], rows.labels[i], strict=False):
                if start <= at < stop:
                    masked += F.cross_entropy(logits[at - start], label).item()
                    targets += 1
            label = rows.next_sentence_labels[i, p : p + 1]
            if family is BERT and label < 2:
                pairs += F.cross_entropy(model.nsp_logits(hidden[:, 0]), label).item()
    assert terms["mlm"].loss.item() == pytest.approx(masked, rel=1e-4)
    assert targets == rows.num_targets.sum()
    if family is BERT:
        assert terms["nsp"].loss.item() == pytest.approx(pairs, rel=1e-4)
    kinds = terms["mlm"].metric_sums
    assert sum(int(kinds[f"{kind}_targets"]) for kind in ("mask", "random", "kept")) == targets
    assert sum(int(kinds[f"{kind}_correct"]) for kind in ("mask", "random", "kept")) == int(kinds["correct"])


@torch.no_grad()
def test_predicting_from_the_position_before(folder: Path) -> None:
    """So a hybrid's one head always names the id that comes next."""
    tokenizer = load_tokenizer(folder / "none" / "tokenizer")
    rows: MLMBatch = rows_on_device(open_mlm_dataset(folder / "none", "train").batch(np.arange(4), np.zeros(4, int)))  # type: ignore[assignment]
    model = model_of(MODERNBERT, tokenizer.max_id + 1)
    shifted = MLMBatch(**(vars(rows) | {"masked_positions": (rows.masked_positions - 1).clamp(min=0)}))
    before = MaskedLM(tokenizer.roles["mask"], shift_targets=True)(model, rows)["mlm"].loss
    at = MaskedLM(tokenizer.roles["mask"])(model, shifted)["mlm"].loss
    assert before.item() == pytest.approx(at.item(), rel=1e-6)


def test_one_batch_can_be_learned_by_heart(folder: Path) -> None:
    """Every objective, in a few steps, to nearly nothing: whatever is wired wrong cannot."""
    tokenizer = load_tokenizer(folder / "nsp" / "tokenizer")
    masked = rows_on_device(open_mlm_dataset(folder / "nsp", "train").batch(np.arange(4), np.zeros(4, int)))
    causal = rows_on_device(CausalDataset(folder / "shards", "train", 32).batch(np.arange(2), np.zeros(2, int)))
    for objective, family, rows in ((MaskedLM(tokenizer.roles["mask"]), BERT, masked), (CausalLM(), GPT2, causal)):
        model = model_of(family, tokenizer.max_id + 1).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
        for _ in range(120):
            terms = objective(model, rows)
            total = sum(term.loss for term in terms.values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        assert total.item() < 5.0, terms
