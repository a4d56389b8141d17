"""Decoding with a KV cache gives the logits of decoding without one."""

from pathlib import Path

import pytest
import torch

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.decoder import Decoder
from tests.fixtures.models import save_random_model

Rows = list[list[int]]


@pytest.fixture(params=["gpt2", "decoder"])
def pretrained(request: pytest.FixtureRequest, tmp_path: Path, tokenizer: Tokenizer) -> PretrainedModel:
    return save_random_model(tmp_path, request.param, tokenizer)


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(6, 700, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def logits_without_cache(pretrained: PretrainedModel, row: list[int], window: int, new: list[int]) -> torch.Tensor:
    """The logits from which each new id was chosen: of the whole row at once until the window slides."""
    row, all_logits = row[-window:], []
    while new:
        if len(row) > window:
            row = row[-(window // 2) :]
        steps = min(window + 1 - len(row), len(new))
        whole = [*row, *new[: steps - 1]]
        all_logits.append(pretrained.model.logits(pretrained.model(torch.tensor([whole]), causal=True)[0, -steps:]))
        row, new = [*row, *new[:steps]], new[steps:]
    return torch.cat(all_logits)


def decode_with_cache(
    pretrained: PretrainedModel, rows: Rows, window: int, max_new_tokens: int
) -> tuple[Rows, torch.Tensor]:
    """Greedy decoding of a batch with a cache: ids and logits."""
    decoder = Decoder(pretrained.model, rows, window, max_new_tokens)
    logits, all_logits = decoder.prefill(), []
    for step in range(max_new_tokens):
        all_logits.append(logits)
        if step + 1 < max_new_tokens:
            logits = decoder.step(logits.argmax(dim=1))
    stacked = torch.stack(all_logits, dim=1)
    return stacked.argmax(dim=2).tolist(), stacked


@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 60])
def test_cache_matches_no_cache_within_and_past_the_window(pretrained: PretrainedModel, length: int) -> None:
    """With a window of 32, which local layers see whole, and with one of 80, of which they see 64."""
    for window, max_new_tokens in ((32, 50), (80, 60)):
        row = random_ids(length)
        ids, logits = decode_with_cache(pretrained, [row], window, max_new_tokens)
        wanted_logits = logits_without_cache(pretrained, row, window, ids[0])
        assert (logits[0] - wanted_logits).abs().max() < 1e-4
        assert ids[0] == wanted_logits.argmax(dim=1).tolist()


def test_batching_does_not_change_logits(pretrained: PretrainedModel) -> None:
    """Rows of different lengths, whose windows slide at different positions."""
    rows = [random_ids(count, seed=count) for count in (3, 40, 17, 32, 1)]
    batched = decode_with_cache(pretrained, rows, 32, 50)[1]
    for index, row in enumerate(rows):
        assert (batched[index] - decode_with_cache(pretrained, [row], 32, 50)[1][0]).abs().max() < 1e-4


def test_finished_rows_can_be_dropped(pretrained: PretrainedModel) -> None:
    rows = [random_ids(count, seed=count) for count in (3, 9, 5)]
    decoder = Decoder(pretrained.model, rows, 32, 20)
    ids = decoder.prefill().argmax(dim=1)
    decoder.step(ids)
    decoder.select_rows([2, 0])
    batched = decoder.step(torch.tensor([8, 9]))
    for logits, row, first, last in zip(batched, (rows[2], rows[0]), ids[[2, 0]].tolist(), (8, 9), strict=True):
        wanted = Decoder(pretrained.model, [[*row, first, last]], 32, 20).prefill()[0]
        assert (logits - wanted).abs().max() < 1e-4


def test_prepacked_weights_give_the_same_logits(pretrained: PretrainedModel) -> None:
    row = random_ids(20)
    before = decode_with_cache(pretrained, [row], 64, 20)[1]
    pretrained.model.prepack_weights()
    assert (decode_with_cache(pretrained, [row], 64, 20)[1] - before).abs().max() < 1e-5
    pretrained.model.to(torch.bfloat16).prepack_weights()
    assert 0 < (decode_with_cache(pretrained, [row], 64, 1)[1] - before[:, :1]).abs().max() < 0.1
