"""Learning: golden loss curves, overfitting one batch, validation loss; optimizers, schedules and loss scaling."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import bertgpt
from bertgpt.config.presets import PRESETS
from bertgpt.config.training_options import PretrainOptions
from bertgpt.data.format import TokenFile, read_manifest
from bertgpt.hub import pretrained
from bertgpt.stages import pretrain
from bertgpt.trainer import Trainer
from bertgpt.training import adamw, muon
from bertgpt.training.init import init_model
from bertgpt.training.optimizers import GradScaler, LRSchedule, Optimizers, split_parameters
from bertgpt.training.run_directory import RunDirectory
from tests.fixtures.training import CPU_FP32, SHORT_RUN, TrainingData, logged_metrics, with_tiny_preset


def trainer_for(source: str, folder: Path, **options: Any) -> Trainer:
    """A trainer before its first step."""
    run = pretrain.PretrainSetup(PretrainOptions(data=source, out=str(folder), **options))
    folder.mkdir()
    return run.build_trainer(RunDirectory(folder))


# The first losses of each objective: changing one of these numbers means that data, model or training changed.
GOLDEN = {
    "clm": [6.0043, 5.8561, 5.7298, 5.6058, 5.4155, 5.3277, 5.2006, 5.1613, 5.0851, 5.0428],
    "mlm": [6.6954, 6.656, 6.6802, 6.4433, 6.3394, 6.4408, 6.1721, 6.1183, 6.1007, 6.2055],
    "hybrid": [6.0037, 5.8573, 5.8477, 5.7264, 5.5368, 5.4004, 5.4065, 5.335, 5.1903, 5.1791],
}


@pytest.mark.parametrize("objective", ["clm", "mlm", "hybrid"])
def test_loss_curve_is_golden(objective: str, training_data: TrainingData, tmp_path: Path) -> None:
    source, options = training_data[objective]
    bertgpt.pretrain(
        source, out=str(tmp_path / "run"), **(with_tiny_preset(options) | SHORT_RUN | {"max_steps": 10, "lr": 2e-3})
    )
    losses = [line["loss"] for line in logged_metrics(tmp_path / "run") if line["split"] == "train"]
    assert losses == pytest.approx(GOLDEN[objective], abs=2e-3)  # CPUs differ in the order of additions


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("objective", ["clm", "mlm", "hybrid"])
def test_each_objective_can_overfit_one_batch(
    objective: str, optimizer: str, training_data: TrainingData, tmp_path: Path
) -> None:
    source, options = training_data[objective]
    run_options = options | CPU_FP32 | {"tokens_per_step": 256, "optimizer": optimizer, "lr": 2e-2, "warmup": 5}
    trainer = trainer_for(source, tmp_path / "run", max_steps=40, schedule="constant", **run_options)
    batch = trainer.prepare(next(trainer.loader.steps()))
    for trainer.step in range(40):
        metrics = trainer.train_step(batch)
    assert metrics is not None
    assert metrics["loss"] < 0.35
    assert metrics["acc"] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["clm", "mlm", "hybrid"])
def test_validation_loss_falls(objective: str, training_data: TrainingData, tmp_path: Path) -> None:
    """Far below the entropy of the token frequencies."""
    source, options = training_data[objective]
    options = (
        with_tiny_preset(options)
        | SHORT_RUN
        | {"max_steps": 50, "tokens_per_step": 512, "eval_every": 50, "optimizer": "muon", "lr": 0.01}
    )
    done = bertgpt.pretrain(source, out=str(tmp_path / "run"), **options)
    limits = {"clm": ("val_clm_loss", 3.6), "mlm": ("val_mlm_loss", 4.9), "hybrid": ("val_loss", 4.6)}
    name, limit = limits[objective]
    assert done[name] < limit  # the entropy of the token frequencies is 5.3
    if objective == "clm":
        split = read_manifest(Path(source))["splits"]["val"]
        first_token = int(TokenFile(next(Path(source).glob("val-*.arrow"))).flat[0])
        first_bytes = len(pretrained.load(tmp_path / "run").tokenizer.decode([first_token]).encode())
        bits = done["val_clm_loss"] * (split["tokens"] - 1) / math.log(2) / (split["bytes"] - first_bytes)
        assert done["val_bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    assert pretrained.load(tmp_path / "run").objective == objective
    assert "parameters, vocabulary" in (tmp_path / "run" / "final" / "card.md").read_text()


def test_timings_add_up(training_data: TrainingData, tmp_path: Path) -> None:
    """The seconds of all lines add up to those of training, and all phases to the total."""
    source, options = training_data["clm"]
    done = bertgpt.pretrain(source, out=str(tmp_path / "run"), **(options | SHORT_RUN))
    seconds = done["seconds"]
    assert sum(seconds.values()) == pytest.approx(2 * seconds["total"], abs=0.01)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["split"] == "train"]
    assert sum(line["seconds"] for line in steps) == pytest.approx(seconds["training"], abs=0.02)
    assert all(line["tokens_per_s"] == pytest.approx(256 / line["seconds"], rel=0.1) for line in steps)
    assert [line["tokens"] for line in steps] == [256 * (i + 1) for i in range(12)]


def test_learning_rate_schedules() -> None:
    for kind in ("cosine", "linear", "wsd", "constant"):
        schedule = LRSchedule(kind, steps=100, warmup_steps=10, peak_lr=1.0, min_ratio=0.1)
        lrs = [schedule.lr(step) for step in range(101)]
        assert lrs[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert lrs[10] == pytest.approx(1.0)
        assert lrs[100] == pytest.approx(1.0 if kind == "constant" else 0.1)
        assert all(a >= b for a, b in pairwise(lrs[10:]))
    assert LRSchedule("cosine", 110, 10, 1.0, 0.0).lr(60) == pytest.approx(0.5)
    assert LRSchedule("wsd", 110, 10, 1.0, 0.0).lr(89) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("preset", ["tiny-gpt", "tiny-bert", "modern-bert-tiny"])
def test_every_parameter_is_in_exactly_one_group(preset: str, kind: str) -> None:
    model = init_model(PRESETS[preset].model.model_copy(update={"vocab_size": 64}), 0)
    optimizers = Optimizers(model, kind, weight_decay=0.1, beta2=0.95)
    groups = [group for optimizer in optimizers.optimizers for group in optimizer.groups]
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
    assert all(p.ndim < 2 for group in groups if not group["weight_decay"] for p in group["params"])
    assert all(p.ndim == 2 for group in groups if group["weight_decay"] for p in group["params"])
    matrices, others, _ = split_parameters(model)
    assert model.token_embedding.weight in set(others)
    assert len(matrices) == 4 * model.config.layers


@pytest.mark.parametrize("shape", [(24, 8), (8, 8), (8, 24)])
@pytest.mark.parametrize("bf16", [True, False])
def test_muon_matches_torch(shape: tuple[int, int], bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to rounding: torch always computes in bf16, ours only where that is fast."""
    monkeypatch.setattr(muon, "has_bf16", lambda device: bf16)
    draws = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    one = muon.Muon([{"params": [ours], "lr": 0.1, "weight_decay": 0.5}])
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(shape, generator=draws)
        one.step()
        other.step()
        assert torch.allclose(ours, theirs, atol=0.02)
    assert torch.equal(one.state[ours]["momentum_buffer"], other.state[theirs]["momentum_buffer"])


@pytest.mark.parametrize("rank", [1, 5, 48])
@pytest.mark.parametrize("shape", [(96, 96), (96, 144), (96, 145), (384, 96)])
def test_newton_schulz_forms_agree(shape: tuple[int, int], rank: int) -> None:
    """Also for rank-deficient gradients, which few texts give, and for nearly singular ones."""
    draws = torch.Generator().manual_seed(rank)
    left, right = (torch.randn((size, rank), generator=draws) for size in shape)
    matrix = left @ right.T
    x = matrix if shape[0] <= shape[1] else matrix.T
    x = x / x.norm() + 1e-8 * torch.randn(x.shape, generator=draws)
    assert torch.allclose(muon.newton_schulz(x), muon.newton_schulz_gram(x), atol=1e-4)
    values = torch.linalg.svdvals(muon.orthogonalize(matrix))
    assert values[:rank].min() > 0.5
    assert values[0] < 1.3


def test_adamw_matches_torch() -> None:
    """Bitwise its fused one, up to rounding its default one; parameters without a gradient do not change."""
    draws = torch.Generator().manual_seed(0)
    shapes = [(24, 8), (8,), (3, 3)]
    ours, fused, plain = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(3))
    one = adamw.AdamW([{"params": ours, "lr": 0.1, "weight_decay": 0.5}], beta2=0.95)
    others = [
        torch.optim.AdamW(weights, lr=0.1, betas=(0.9, 0.95), weight_decay=0.5, fused=weights is fused)
        for weights in (fused, plain)
    ]
    for number in range(4):
        for weight, *same in zip(ours, fused, plain, strict=True):
            weight.grad = torch.randn(weight.shape, generator=draws) if weight.ndim == 2 or number == 2 else None
            for other in same:
                other.grad = weight.grad
        for optimizer in (one, *others):
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, fused, strict=True))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, plain, strict=True))
    for parameter, theirs in zip(ours, fused, strict=True):
        assert one.state[parameter].keys() == others[0].state[theirs].keys()


def test_grad_scaler(tiny_training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overflow halves the scale and does not count as divergence; training matches fp32."""
    scaler = GradScaler("fp16")
    assert scaler.update(finite=False)
    assert scaler.scale == 32768
    monkeypatch.setattr(GradScaler, "growth_interval", 2)
    assert not scaler.update(finite=True)
    assert not scaler.update(finite=True)
    assert scaler.scale == 65536
    assert not GradScaler("bf16").update(finite=False)

    source, options = tiny_training_data["clm"]
    val_losses = {}
    for precision in ("fp32", "fp16", "bf16"):
        run_options = options | SHORT_RUN | {"precision": precision, "max_steps": 8, "tokens_per_step": 128}
        val_losses[precision] = bertgpt.pretrain(source, out=str(tmp_path / precision), **run_options)["val_loss"]
    assert val_losses["fp16"] == pytest.approx(val_losses["fp32"], abs=0.01)
    assert val_losses["bf16"] == pytest.approx(val_losses["fp32"], abs=0.03)


@pytest.mark.slow
def test_fp16_overflow_is_no_divergence(
    tiny_training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates are skipped until the scale is low enough; no rollback, and metrics.jsonl has the applied steps only."""
    source, options = tiny_training_data["clm"]
    real = GradScaler.__init__

    def huge(scaler: GradScaler, precision: str) -> None:
        real(scaler, precision)
        scaler.scale = 2.0**36

    monkeypatch.setattr(GradScaler, "__init__", huge)
    changed = {"precision": "fp16", "max_steps": 24, "tokens_per_step": 128}
    bertgpt.pretrain(source, out=str(tmp_path / "run"), **(options | SHORT_RUN | changed))
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000024" / "state.json").read_text())
    assert not state["rolled_back"]
    assert state["grad_scale"][0] < 2.0**30
    applied = [line["step"] for line in logged_metrics(tmp_path / "run") if line["split"] == "train"]
    assert 0 < len(applied) < 24
    assert applied[-1] == 24
    assert "loss scale" in (tmp_path / "run" / "log.txt").read_text()
