"""Batches reach the device unchanged; nothing is imported for torch.compile unless it is used."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bertgpt.data.loading.causal import CausalBatch
from bertgpt.training.device import to_device, to_tensors


def test_large_token_ids_survive() -> None:
    """Ids from 32768 on would turn negative if anything read them as int16."""
    ids = np.array([[0, 32_767, 32_768, 50_256, 65_535]], np.uint16)
    batch = to_tensors(CausalBatch(ids, np.array([4])), pin=False)
    assert batch.input_ids.dtype == torch.uint16
    moved = to_device(batch, torch.device("cpu"))
    assert moved.input_ids.tolist() == ids.tolist()
    assert moved.input_ids.dtype == torch.int64


@pytest.mark.gpu
def test_pinned_batch_reaches_the_gpu() -> None:
    ids = np.arange(65_536, dtype=np.uint16).reshape(64, 1024)
    batch = to_tensors(CausalBatch(ids, np.full(64, 1023)), pin=True)
    assert batch.input_ids.is_pinned()
    assert to_device(batch, torch.device("cuda")).input_ids.cpu().numpy().tolist() == ids.tolist()


@pytest.mark.slow
def test_training_on_cpu_does_not_import_dynamo(tmp_path: Path) -> None:
    code = """if True:
        import sys, bertgpt
        bertgpt.shard("tinyworld", out="shards", limit_docs=50, train_tokenizer="bpe", vocab_size=300, val_fraction=0.2)
        bertgpt.pretrain("shards", preset="modern-gpt-tiny", out="run", max_steps=2, tokens_per_step=256, seq_len=32,
                         optimizer="muon", device="cpu")
        print(sorted(sys.modules))
    """
    loaded = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "'bertgpt.trainer'" in loaded.stdout
    assert "torch._dynamo" not in loaded.stdout
