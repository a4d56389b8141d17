"""Pretraining options: what is refused, and what they resolve to."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bertgpt
from bertgpt.data.loading.causal import CausalBatch, CausalDataset
from bertgpt.hub import pretrained
from bertgpt.inference import load
from bertgpt.trainer import Trainer
from bertgpt.training.objectives import CausalLM
from bertgpt.utils.errors import BertGPTError
from tests.conftest import Outcome
from tests.fixtures.training import (
    CPU_FP32,
    SHORT_RUN,
    TrainingData,
    final_weights,
    flags,
    logged_metrics,
    with_tiny_preset,
)  # fmt: skip

Run = Callable[..., Outcome]


def test_refused_options(corpus: Path, tmp_path: Path, run: Run) -> None:
    shards, plan, out = str(corpus / "shards"), str(corpus / "nsp"), str(tmp_path / "run")

    def code(*argv: str) -> tuple[int, str]:
        done = run("pretrain", *argv, "--json")
        return done.code, json.loads(done.out)["error"]["code"]

    assert code(plan, "--preset", "test-gpt", "--out", out) == (2, "BG221")
    assert code(shards, "--preset", "test-bert", "--out", out) == (2, "BG221")
    assert code(plan, "--preset", "modern-bert-tiny", "--out", out) == (2, "BG221")
    assert code(shards, "--preset", "tiny-gtp", "--out", out) == (2, "BG209")
    assert code(shards, "--preset", "test-gpt", "--seq-len", "1024", "--out", out) == (2, "BG204")
    assert code(shards, "--preset", "test-gpt", "--max-time", "soon", "--out", out) == (2, "BG204")
    assert code(shards, "--out", out) == (2, "BG203")
    hybrid = [
        "--preset",
        "test-gpt",
        "--objective",
        "hybrid",
        "--tokens-per-step",
        "64",
        "--mlm-ratio",
        "0.9",
        "--out",
        out,
    ]
    assert code(str(corpus / "none"), *hybrid) == (2, "BG204")
    assert code(shards, "--init", str(tmp_path / "nowhere"), "--out", out) == (2, "BG211")
    assert not Path(out).exists()
    with pytest.raises(BertGPTError, match="is not divisible by micro-batch size") as refused:
        bertgpt.pretrain(shards, preset="test-gpt", out=out, seq_len=32, tokens_per_step=256, micro_batch_size=3)
    assert refused.value.hint == "--micro-batch-size 2 or 4 divides it"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_unavailable_device(corpus: Path, tmp_path: Path, run: Run) -> None:
    given = ["--preset", "test-gpt", "--device", "cuda", "--out", str(tmp_path / "run"), "--json"]
    done = run("pretrain", str(corpus / "shards"), *given)
    assert done.code == 4
    assert json.loads(done.out)["error"]["code"] == "BG410"
    assert "--device auto" in json.loads(done.out)["error"]["hint"]


def test_compile_falls_back_to_eager(
    training_data: TrainingData, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a note."""
    source, options = training_data["clm"]
    given = options | SHORT_RUN | {"max_steps": 3}
    bertgpt.pretrain(source, out=str(tmp_path / "plain"), **given)

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fails)
    done = run("pretrain", source, "--out", str(tmp_path / "compiled"), *flags(given), "--compile")
    assert done.code == 0
    assert "is not compiled" in done.err
    assert logged_metrics(tmp_path / "plain") == logged_metrics(tmp_path / "compiled")


@pytest.mark.slow
def test_compile_in_a_new_process(
    training_data: TrainingData, tmp_path: Path, fresh_process: Callable[..., Any]
) -> None:
    """Where nothing has imported torch's compiler yet, and there is no C++ compiler: a note, and the run goes on."""
    source, options = training_data["clm"]
    given = flags(with_tiny_preset(options) | SHORT_RUN | {"max_steps": 2, "sample_every": 0})
    env = {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = fresh_process("pretrain", source, "--out", str(tmp_path / "run"), *given, "--compile", env=env)
    assert (done.code, "is not compiled" in done.err) == (0, True), done.err


def test_max_time(training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """The number of steps is fixed after the first twenty, not counting warmup; checkpoints keep it."""
    source, options = training_data["clm"]
    given = {key: value for key, value in (options | SHORT_RUN).items() if key != "max_steps"}
    given |= {"max_time": "0.1m", "schedule": "linear", "min_lr_ratio": 0.0, "lr": 1e-3, "log_every": 1}
    real, spent = Trainer.train_step, [0.0]

    def timed(trainer: Trainer, batch: Any) -> Any:
        spent[0] += 0.5 if trainer.step < 5 else 0.1
        if trainer.step == 36 and len(spent) == 1:
            spent.append(0.0)
            raise RuntimeError("killed")
        return real(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", timed)
    monkeypatch.setattr("bertgpt.training.timer.Timer.seconds", lambda clock, account: spent[0])
    with pytest.raises(RuntimeError, match="killed"):
        bertgpt.pretrain(source, out=str(tmp_path / "run"), **given)
    assert bertgpt.pretrain(source, out=str(tmp_path / "run"), **given)["steps"] == 40  # 4 s are spent, 2 are left
    rates = {line["step"]: line["lr"] for line in logged_metrics(tmp_path / "run") if line["split"] == "train"}
    assert rates[10] == pytest.approx(1e-3)
    assert rates[21] == pytest.approx(1e-3 * 20 / 37)
    assert rates[40] == pytest.approx(1e-3 / 37)
    spent[0] = 0.0
    given |= {"max_time": "3s", "warmup": 100}
    done = run("pretrain", source, "--out", str(tmp_path / "short"), *flags(given))
    assert "warmup (100 steps) does not end within 20 steps" in done.err


def test_warmup_longer_than_the_run_is_shortened(training_data: TrainingData, tmp_path: Path, run: Run) -> None:
    source, options = training_data["clm"]
    given = options | SHORT_RUN | {"warmup": 50, "max_steps": 12}
    done = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(given))
    assert "warmup shortened from 50 to 2 steps" in done.err
    rates = [line["lr"] for line in logged_metrics(tmp_path / "run") if line["split"] == "train"]
    assert rates[:2] == pytest.approx([1e-3, 2e-3])


def test_init_tells_which_training_options_change(
    training_data: TrainingData, corpus: Path, tmp_path: Path, run: Run
) -> None:
    source, options = training_data["clm"]
    base = str(tmp_path / "base")
    bertgpt.pretrain(source, out=base, **(options | SHORT_RUN | {"optimizer": "muon", "max_steps": 3, "lr": 5e-3}))
    argv = ["pretrain", source, "--init", base, "--seq-len", "32", "--max-steps", "2", "--dry-run"]
    note = run(*argv, "--out", str(tmp_path / "new")).err
    assert "--lr 0.0" in note
    assert "instead of 0.005" in note
    same = ["--lr", "0.005", "--optimizer", "muon", "--tokens-per-step", "256", "--schedule", "cosine"]
    assert "instead of" not in run(*argv, *same, "--out", str(tmp_path / "new")).err


def test_length_options_override_each_other(training_data: TrainingData, tmp_path: Path, run: Run) -> None:
    """A flag wins over the config file even if they are different options; two flags are refused."""
    source, options = training_data["clm"]
    config = tmp_path / "config.yaml"
    config.write_text("max-steps: 300\n")
    given = [
        *flags(options | CPU_FP32 | {"tokens_per_step": 512, "out": str(tmp_path / "run")}),
        "--config",
        str(config),
    ]
    done = run("pretrain", source, *given, "--max-tokens", "5120", "--dry-run", "--json")
    assert json.loads(done.out)["result"]["steps"] == 10
    assert run("pretrain", source, *given, "--max-tokens", "5120", "--max-time", "1m").code == 2


def test_max_tokens_and_epochs(training_data: TrainingData, tmp_path: Path) -> None:
    source, options = training_data["clm"]
    given = options | CPU_FP32 | {"tokens_per_step": 512, "out": str(tmp_path), "dry_run": True}
    assert bertgpt.pretrain(source, max_tokens="5k", **given)["steps"] == 10
    whole = bertgpt.pretrain(source, epochs=2, **given)
    assert whole["epochs"] == pytest.approx(2, rel=0.01)
    assert whole["tokens_per_parameter"] == pytest.approx(whole["tokens"] / whole["parameters"], abs=0.01)
    assert bertgpt.pretrain(source, max_time="1h", **given).get("steps") is None


def test_mutable_options_on_resume(training_data: TrainingData, tmp_path: Path, run: Run) -> None:
    """With another micro-batch size the order, and so the losses, stay the same."""
    source, options = training_data["clm"]
    given = options | SHORT_RUN
    bertgpt.pretrain(source, out=str(tmp_path / "straight"), **given)
    shutil.copytree(tmp_path / "straight", tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "final")
    shutil.rmtree(tmp_path / "other" / "checkpoints" / "step-00000012")
    done = run("pretrain", source, "--out", str(tmp_path / "other"), *flags(given | {"micro_batch_size": 4}))
    assert done.code == 0
    for one, other in zip(logged_metrics(tmp_path / "straight"), logged_metrics(tmp_path / "other"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)


@pytest.mark.slow
def test_init_from_another_run(training_data: TrainingData, corpus: Path, tmp_path: Path) -> None:
    """A GPT is continued as a BERT and as a GPT again, with its shape and parameters."""
    source, options = training_data["clm"]
    gpt, bert, back = (str(tmp_path / name) for name in ("gpt", "bert", "back"))
    bertgpt.pretrain(source, out=gpt, **(options | SHORT_RUN | {"max_steps": 60, "lr": 3e-3}))
    cold = bertgpt.pretrain(str(corpus / "none"), out=str(tmp_path / "cold"), preset="test-gpt", objective="mlm",
                            **(SHORT_RUN | {"max_steps": 6}))  # fmt: skip
    warm = bertgpt.pretrain(str(corpus / "none"), out=bert, init=gpt, **(SHORT_RUN | {"max_steps": 6}))
    assert pretrained.load(Path(bert)).objective == "mlm"
    assert warm["val_loss"] < cold["val_loss"] - 0.1
    first = bertgpt.pretrain(source, out=back, init=bert, seq_len=32, **(SHORT_RUN | {"max_steps": 1}))
    assert first["train_loss"] < 5.5  # 6.0 at random
    with pytest.raises(BertGPTError, match="run exists with different options"):  # other weights are another run
        bertgpt.pretrain(source, out=back, init=gpt, seq_len=32, **(SHORT_RUN | {"max_steps": 1}))
    with pytest.raises(BertGPTError, match="does not match preset"):
        bertgpt.pretrain(source, out=str(tmp_path / "no"), init=gpt, preset="modern-gpt-tiny")


@pytest.mark.slow
def test_vocabulary_larger_than_the_data(data: Path, tmp_path: Path) -> None:
    """GPT-2's vocabulary plus four special tokens of a mask plan; --init with the smaller one keeps its embeddings."""
    corpus, pairs = tmp_path / "shards", tmp_path / "plan"
    bertgpt.shard(
        "tinyworld", out=str(corpus), tokenizer=str(data / "tokenizers" / "gpt2"), limit_docs=40, val_fraction=0.2
    )
    bertgpt.mask(str(corpus), out=str(pairs), seq_len=32)
    given = {"preset": "test-gpt", "seq_len": 32} | CPU_FP32 | {"tokens_per_step": 256, "max_steps": 1}
    few, many = tmp_path / "few", tmp_path / "many"
    bertgpt.pretrain(str(corpus), out=str(few), **given)
    assert len(final_weights(few)["token_embedding.weight"]) == 50_257
    bertgpt.pretrain(str(corpus), out=str(many), tokenizer=str(pairs), **given)
    assert len(final_weights(many)["token_embedding.weight"]) == 50_261
    grown = load.extend_vocabulary(pretrained.load(few), pretrained.load(many).tokenizer, dropout=0.0, seed=0)
    assert grown.token_embedding.weight[:50_257].equal(pretrained.load(few).model.token_embedding.weight[:50_257])
    assert float(grown.token_embedding.weight[50_257:50_261].detach().std()) == pytest.approx(0.02, rel=0.2)
    bertgpt.shard("tinyworld", out=str(tmp_path / "own"), train_tokenizer="bpe", vocab_size=300, limit_docs=40)
    with pytest.raises(BertGPTError, match="use different tokenizers"):
        bertgpt.pretrain(str(tmp_path / "own"), out=str(tmp_path / "x"), tokenizer=str(pairs), **given)
    for dry_run in (False, True):  # both refuse, and neither leaves a folder
        with pytest.raises(BertGPTError, match="use different tokenizers"):
            bertgpt.pretrain(
                str(tmp_path / "own"), out=str(tmp_path / "y"), init=str(few), max_steps=1, dry_run=dry_run
            )
    assert not (tmp_path / "y").exists()


def test_tensorboard(training_data: TrainingData, tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    source, options = training_data["clm"]
    bertgpt.pretrain(source, out=str(tmp_path / "run"), tensorboard=True, **(options | SHORT_RUN))
    events = reading.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    logged = {event.step: event.value for event in events.Scalars("train/loss")}
    written = {line["step"]: line["loss"] for line in logged_metrics(tmp_path / "run") if line["split"] == "train"}
    assert logged == pytest.approx(written)
    assert "val/bits_per_byte" in events.Tags()["scalars"]


def test_validation_rows_are_fixed(training_data: TrainingData, tmp_path: Path) -> None:
    """A fixed number of rows, without dropout, and bits per byte of exactly these."""
    source, options = training_data["clm"]
    few = options | SHORT_RUN | {"eval_tokens": 64, "max_steps": 2, "eval_every": 1, "dropout": 0.1}
    bertgpt.pretrain(source, out=str(tmp_path / "run"), **few)
    seen = [line for line in logged_metrics(tmp_path / "run") if line["split"] == "val"]
    kept = pretrained.load(tmp_path / "run")
    ids = CausalDataset(Path(source), "val", 32).batch(np.arange(2), np.zeros(2, np.int64)).input_ids
    with torch.no_grad():
        logged = CausalLM(kept.tokenizer.eos_id)(
            kept.model, CausalBatch(torch.from_numpy(ids).long(), torch.tensor([32, 32]))
        )
    assert seen[-1]["loss"] == pytest.approx(float(logged["clm"].loss) / 64, rel=1e-4)
    text = sum(len(kept.tokenizer.id_to_bytes(int(i))) for i in ids[:, 1:].flat)
    assert seen[-1]["bits_per_byte"] == pytest.approx(float(logged["clm"].loss) / math.log(2) / text, rel=1e-4)


def test_empty_train_split(tmp_path: Path) -> None:
    """Of a corpus that has only validation texts: an error, and the prefetch thread does not hang."""
    (tmp_path / "text.txt").write_text("A short text.")
    bertgpt.shard(
        str(tmp_path / "text.txt"), out=str(tmp_path / "s"), train_tokenizer="bpe", vocab_size=300, val_fraction=0
    )
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"split": "train"', '"split": "val"'))
    with pytest.raises(BertGPTError, match="no such split: train"):
        bertgpt.pretrain(str(tmp_path / "s"), preset="test-gpt", out=str(tmp_path / "run"))
