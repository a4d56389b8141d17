"""Training objectives equal a straightforward computation: losses, attention across documents, accuracy sums."""

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
from bertgpt.ops import cross_entropy, kernels
from bertgpt.ops.cross_entropy import linear_cross_entropy
from bertgpt.ops.kernels import linear, scaled_dot_product_attention
from bertgpt.training.device import to_device, to_tensors
from bertgpt.training.init import init_model
from bertgpt.training.metrics import MASK_KINDS
from bertgpt.training.objectives import CausalLM, MaskedLM


def as_tensors(batch: Any) -> Any:
    return to_device(to_tensors(batch, pin=False), torch.device("cpu"))


# --------------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_torch(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(size, generator=generator) for size in ((3, 20, 16), (24, 16), (24,))]
    grad = torch.randn((3, 20, 24), generator=generator)
    results = []
    for function in (linear, F.linear):
        args = [tensor.clone().requires_grad_() for tensor in inputs[: 2 + bias]]
        y = function(*args)
        y.backward(grad)
        results.append([y.detach(), *(arg.grad for arg in args)])
    for result, expected in zip(*results, strict=True):
        assert torch.allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "all", "mask"])
@pytest.mark.parametrize("length", [7, kernels.MATH_ATTENTION_MAX_KEYS + 8])
def test_attention_equals_sdpa(kind: str, length: int) -> None:
    """Also in bf16, where short rows use separate matrix products on CPUs."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((2, 3, length, 8), generator=generator) for _ in range(3))
    mask = torch.rand((2, 1, length, length), generator=generator) > 0.5 if kind == "mask" else None
    if mask is not None:
        mask |= torch.eye(length, dtype=torch.bool)
    expected = F.scaled_dot_product_attention(q, k, v, mask, is_causal=kind == "causal")
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.06)):
        y = scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype), mask, kind == "causal", 0.0)
        assert y.dtype == dtype
        assert (y.float() - expected).abs().max() < tolerance


@pytest.mark.parametrize("chunk_logits", [1, 100, 1 << 24])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk_loss", [cross_entropy.chunk_loss_inplace, cross_entropy.chunk_loss])
def test_chunked_cross_entropy_equals_torch(
    chunk_loss: Any, chunk_logits: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and gradients, with the code of CPUs and of GPUs; padding rows of the weight have no effect."""
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", {"cpu": chunk_logits})
    monkeypatch.setattr(cross_entropy, "chunk_loss_inplace", chunk_loss)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(size, generator=generator) for size in ((30, 16), (64, 16), (50,))][: 2 + bias]
    targets = torch.randint(0, 50, (30,), generator=generator)
    targets[[3, 7, 29]] = -100
    hidden, weight, *lm_bias = args = [tensor.clone().requires_grad_() for tensor in inputs]
    output = linear_cross_entropy(hidden, weight, lm_bias[0] if bias else None, targets, 50)
    (output.loss * 0.37).backward()
    hidden, weight, *lm_bias = expected_args = [tensor.clone().requires_grad_() for tensor in inputs]
    logits = hidden @ weight[:50].T + (lm_bias[0] if bias else 0)
    expected = F.cross_entropy(logits, targets, ignore_index=-100, reduction="none")
    (expected.sum() * 0.37).backward()
    assert torch.allclose(output.losses, expected, atol=1e-5)
    assert torch.equal(output.correct, (logits.argmax(dim=1) == targets))
    for arg, expected_arg in zip(args, expected_args, strict=True):
        assert torch.allclose(arg.grad, expected_arg.grad, atol=1e-5)


@pytest.mark.parametrize("chunk_loss", [cross_entropy.chunk_loss_inplace, cross_entropy.chunk_loss])
def test_fp16_gradients_of_unlikely_tokens_do_not_underflow(chunk_loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities down to 1e-9, which fp16 rounds to 0: gradients are scaled before they are rounded."""
    monkeypatch.setattr(cross_entropy, "chunk_loss_inplace", chunk_loss)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, generator=generator).half() for size in ((1, 16), (4000, 16)))
    targets = torch.tensor([7])
    gradients = []
    for dtype in (torch.float16, torch.float32):
        args = [tensor.to(dtype, copy=True).requires_grad_() for tensor in (hidden, weight)]
        (linear_cross_entropy(*args, None, targets, 4000).loss * 64.0).backward()
        gradients.append([arg.grad.float() for arg in args])
    for half, single in zip(*gradients, strict=True):
        assert (half - single).norm() < 2e-3 * single.norm()
    lost = (gradients[0][1] == 0) & (gradients[1][1].abs() > 1e-8)
    assert lost.float().mean() < 0.05  # 24 % without the scale


# ------------------------------------------------------------------------------------------------ objectives


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and mask plans of tinyworld."""
    folder = tmp_path_factory.mktemp("objectives")
    bertgpt.shard("tinyworld", out=str(folder / "shards"), limit_docs=800, train_tokenizer="bpe", vocab_size=500)
    for pairs in ("none", "nsp"):
        bertgpt.mask(str(folder / "shards"), out=str(folder / pairs), seq_len=64, sentence_pairs=pairs)
    return folder


def make_model(family: dict[str, object], vocab_size: int = 500) -> Transformer:
    return init_model(make_config(32, 2, 2, vocab_size, family | {"max_seq_len": 64, "init": "gpt2"}), seed=1).eval()


def first_rows(dataset: Any, count: int) -> Any:
    return as_tensors(dataset.batch(np.arange(count), np.zeros(count, int)))


@torch.no_grad()
def test_clm_loss_scores_every_next_token(folder: Path) -> None:
    """Also in the last window, which is partly filled."""
    dataset = CausalDataset(folder / "shards", "train", 64)
    indices = np.array([0, len(dataset) - 1])
    arrays = dataset.batch(indices, indices)
    batch, model = as_tensors(arrays), make_model(GPT2)
    term = CausalLM()(model, batch)["clm"]
    logits = model.logits(model(batch.input_ids[:, :-1], causal=True))
    losses = F.cross_entropy(logits.transpose(1, 2), batch.input_ids[:, 1:], reduction="none")
    expected = sum(losses[i, :n].sum() for i, n in enumerate(arrays.num_targets.tolist()))
    assert term.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert CausalLM().count_targets(arrays) == {"clm": int(arrays.num_targets.sum())}


@torch.no_grad()
@pytest.mark.parametrize("family", [GPT2, MODERNBERT | {"local_window": 8}])
def test_clm_without_cross_document_attention_scores_documents_separately(family: dict[str, object]) -> None:
    """The end token closes its document as a target, and starts the next one as an input."""
    model, eos = make_model(family), torch.tensor([5])
    first, second = torch.arange(10, 30), torch.arange(40, 62)

    def loss(*parts: torch.Tensor, eos_id: int | None = None) -> float:
        row = torch.cat(parts)[None]
        return CausalLM(eos_id)(model, CausalBatch(row, torch.tensor([row.size(1) - 1])))["clm"].loss.item()

    separate = loss(eos, first, eos) + loss(eos, second, eos)
    assert loss(eos, first, eos, second, eos, eos_id=5) == pytest.approx(separate, rel=1e-5)
    assert abs(loss(eos, first, eos, second, eos) - separate) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("family", [BERT, MODERNBERT | {"local_window": 8}])
def test_mlm_and_nsp_score_segments_separately(family: dict[str, object], folder: Path) -> None:
    """Segments packed into a row do not attend to each other."""
    pairs = "nsp" if family is BERT else "none"
    tokenizer = load_tokenizer(folder / pairs / "tokenizer")
    batch = first_rows(open_mlm_dataset(folder / pairs, "train"), 6)
    model = make_model(family, tokenizer.max_id + 1)
    terms = MaskedLM(tokenizer.roles["mask"])(model, batch)
    mlm_loss, nsp_loss, targets = 0.0, 0.0, 0
    for i in range(6):
        starts = [s for s in batch.segment_starts[i].tolist() if s < 64]
        for p, (start, stop) in enumerate(zip(starts, [*starts[1:], int(batch.lengths[i])], strict=True)):
            ids = batch.input_ids[i : i + 1, start:stop]
            token_types = (torch.arange(start, stop) >= batch.sentence_b_starts[i, p]).long()[None]
            hidden = model(ids, causal=False, token_type_ids=token_types if family is BERT else None)
            logits = model.logits(hidden)[0]
            for at, label in zip(batch.masked_positions[i, : batch.num_targets[i]], batch.labels[i], strict=False):
                if start <= at < stop:
                    mlm_loss += F.cross_entropy(logits[at - start], label).item()
                    targets += 1
            label = batch.next_sentence_labels[i, p : p + 1]
            if family is BERT and label < 2:
                nsp_loss += F.cross_entropy(model.nsp_logits(hidden[:, 0]), label).item()
    assert terms["mlm"].loss.item() == pytest.approx(mlm_loss, rel=1e-4)
    assert targets == batch.num_targets.sum()
    if family is BERT:
        assert terms["nsp"].loss.item() == pytest.approx(nsp_loss, rel=1e-4)
    sums = terms["mlm"].metric_sums
    assert sum(int(sums[f"{kind}_targets"]) for kind in MASK_KINDS) == targets
    assert sum(int(sums[f"{kind}_correct"]) for kind in MASK_KINDS) == int(sums["correct"])


@torch.no_grad()
def test_shift_targets_predicts_from_the_previous_position(folder: Path) -> None:
    """So that the head of a hybrid always predicts the next token."""
    tokenizer = load_tokenizer(folder / "none" / "tokenizer")
    mask_id = tokenizer.roles["mask"]
    batch = first_rows(open_mlm_dataset(folder / "none", "train"), 4)
    model = make_model(MODERNBERT, tokenizer.max_id + 1)
    shifted_batch = MLMBatch(**(vars(batch) | {"masked_positions": (batch.masked_positions - 1).clamp(min=0)}))
    loss = MaskedLM(mask_id, shift_targets=True)(model, batch)["mlm"].loss
    assert loss.item() == pytest.approx(MaskedLM(mask_id)(model, shifted_batch)["mlm"].loss.item(), rel=1e-6)


def test_each_objective_can_overfit_one_batch(folder: Path) -> None:
    """Almost to zero in a few steps, which a wrong connection would prevent."""
    tokenizer = load_tokenizer(folder / "nsp" / "tokenizer")
    mlm_batch = first_rows(open_mlm_dataset(folder / "nsp", "train"), 4)
    clm_batch = first_rows(CausalDataset(folder / "shards", "train", 32), 2)
    mlm = MaskedLM(tokenizer.roles["mask"])
    for objective, family, batch in ((mlm, BERT, mlm_batch), (CausalLM(), GPT2, clm_batch)):
        model = make_model(family, tokenizer.max_id + 1).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
        for _ in range(120):
            terms = objective(model, batch)
            total = sum(term.loss for term in terms.values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        assert total.item() < 5.0, terms
