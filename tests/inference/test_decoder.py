"""What is kept from what was computed before changes nothing but the time."""

from pathlib import Path

import pytest
import torch

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.decoder import Decoder
from tests.fixtures.models import written

Rows = list[list[int]]


@pytest.fixture(params=["gpt2", "decoder"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, tokenizer: Tokenizer) -> PretrainedModel:
    return written(tmp_path, request.param, tokenizer)


def some(count: int, seed: int = 0) -> list[int]:
    return torch.randint(6, 700, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def plainly(kept: PretrainedModel, row: list[int], window: int, new: int) -> tuple[list[int], torch.Tensor]:
    """Greedily, everything computed again for each id, and the logits."""
    row, made, seen = row[-window:], [], []
    for _ in range(new):
        if len(row) > window:
            row = row[-(window // 2) :]
        logits = kept.model.logits(kept.model(torch.tensor([row]), causal=True)[0, -1])
        seen.append(logits)
        made.append(int(logits.argmax()))
        row = [*row, made[-1]]
    return made, torch.stack(seen)


def by_cache(kept: PretrainedModel, rows: Rows, window: int, new: int) -> tuple[Rows, torch.Tensor]:
    """The same with a cache, for some rows at once."""
    decoder = Decoder(kept.model, rows, window, new)
    logits, seen = decoder.prefill(), []
    for step in range(new):
        seen.append(logits)
        if step + 1 < new:
            logits = decoder.step(logits.argmax(dim=1))
    made = torch.stack(seen, dim=1)
    return made.argmax(dim=2).tolist(), made


@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 60])
def test_as_without_a_cache_within_the_window_and_past_it(kept: PretrainedModel, length: int) -> None:
    """In a window of 32, which local layers see whole, and in one of 100, of which they see 64."""
    for window in (32, 100):
        row = some(length)
        ids, logits = plainly(kept, row, window, 80)
        found, seen = by_cache(kept, [row], window, 80)
        assert (seen[0] - logits).abs().max() < 1e-4
        assert found[0] == ids


def test_company_changes_nothing(kept: PretrainedModel) -> None:
    """Rows of unequal length, each of which leaps at its own place."""
    rows = [some(count, seed=count) for count in (3, 40, 17, 32, 1)]
    together = by_cache(kept, rows, 32, 50)[1]
    for number, row in enumerate(rows):
        assert (together[number] - by_cache(kept, [row], 32, 50)[1][0]).abs().max() < 1e-4


def test_rows_that_are_over_can_be_dropped(kept: PretrainedModel) -> None:
    rows = [some(count, seed=count) for count in (3, 9, 5)]
    decoder = Decoder(kept.model, rows, 32, 20)
    ids = decoder.prefill().argmax(dim=1)
    decoder.step(ids)
    decoder.select_rows([2, 0])
    found = decoder.step(torch.tensor([8, 9]))
    for logits, row, first, last in zip(found, (rows[2], rows[0]), ids[[2, 0]].tolist(), (8, 9), strict=True):
        again = Decoder(kept.model, [[*row, first, last]], 32, 20).prefill()[0]
        assert (logits - again).abs().max() < 1e-4


def test_packed_weights_say_the_same(kept: PretrainedModel) -> None:
    row = some(20)
    before = by_cache(kept, [row], 64, 20)[1]
    kept.model.prepack_weights()
    assert (by_cache(kept, [row], 64, 20)[1] - before).abs().max() < 1e-5
    kept.model.to(torch.bfloat16).prepack_weights()
    assert 0 < (by_cache(kept, [row], 64, 1)[1] - before[:, :1]).abs().max() < 0.1
