"""Checkpoints: which are kept, how corrupt ones are handled, and loading models from runs and checkpoints."""

import json
import os
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from bertgpt.config.presets import ModelConfig
from bertgpt.inference import load
from bertgpt.model import Transformer
from bertgpt.training.checkpoints import STATE_KEYS, Checkpoints, checkpoint_bytes, is_valid, load_checkpoint
from bertgpt.training.init import init_model
from bertgpt.training.optimizers import Optimizers
from bertgpt.utils import console
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of
from bertgpt.utils.version import FORMAT_VERSION
from tests.conftest import Outcome
from tests.fixtures.training import ReferenceRun, assert_identical_runs

Run = Callable[..., Outcome]


def reseal(folder: Path) -> None:
    """Rewrite the manifest of a checkpoint for its current files."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "MANIFEST.json")
    (folder / "MANIFEST.json").write_text(json.dumps({name: sha256_of(folder / name) for name in names}))


# --------------------------------------------------------------------------------------- corruption


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def empty_file(folder: Path) -> None:
    (folder / "optim.safetensors").write_bytes(b"")


def one_bit_flipped(folder: Path) -> None:
    """safetensors loads it without an error."""
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    load_file(folder / "model.safetensors")


def file_missing(folder: Path) -> None:
    (folder / "state.json").unlink()


def manifest_missing(folder: Path) -> None:
    (folder / "MANIFEST.json").unlink()


def manifest_is_a_list(folder: Path) -> None:
    (folder / "MANIFEST.json").write_text(json.dumps(sorted(p.name for p in folder.iterdir() if p.suffix != ".json")))
    (folder / "state.json").unlink()


def extra_file(folder: Path) -> None:
    (folder / "model-00002.safetensors").write_bytes(b"")


def empty_folder(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def extra_parameter(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors") | {"x": torch.ones(2)}, folder / "model.safetensors")
    reseal(folder)


def missing_parameter(folder: Path) -> None:
    tensors = {k: v for k, v in load_file(folder / "model.safetensors").items() if k != "token_embedding.weight"}
    save_file(tensors, folder / "model.safetensors")
    reseal(folder)


def extra_optimizer_state(folder: Path) -> None:
    save_file(load_file(folder / "optim.safetensors") | {"x.exp_avg": torch.ones(2)}, folder / "optim.safetensors")
    reseal(folder)


def missing_optimizer_state(folder: Path) -> None:
    """Training would resume without an error, with zero moments."""
    tensors = {
        k: v for k, v in load_file(folder / "optim.safetensors").items() if not k.startswith("token_embedding.weight")
    }
    save_file(tensors, folder / "optim.safetensors")
    reseal(folder)


def not_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    reseal(folder)


CORRUPT = [
    truncated, empty_file, one_bit_flipped, file_missing, manifest_missing, manifest_is_a_list, extra_file,
    empty_folder,
]  # fmt: skip
MISMATCHED = [extra_parameter, missing_parameter, extra_optimizer_state, missing_optimizer_state, not_safetensors]


@pytest.mark.parametrize("damage", CORRUPT + MISMATCHED)
def test_corrupt_or_mismatched_checkpoint_is_skipped(
    damage: Callable[[Path], None], reference: ReferenceRun, tmp_path: Path, run: Run
) -> None:
    """With a note; the run resumes from the one before and ends in the same bytes."""
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    damage(out / "checkpoints" / "step-00000004")
    done = run(*reference.argv(out))
    assert done.code == 0, done.err
    assert re.search(r"skipping (corrupt )?checkpoint \S*step-00000004\b", done.err)
    assert "resuming from step 2" in done.err
    assert_identical_runs(reference.uninterrupted, out)
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (reference.uninterrupted, out)]
    assert names[0] == names[1]


@pytest.mark.parametrize("damage", [one_bit_flipped, extra_parameter])
def test_without_a_valid_checkpoint_the_run_is_refused(
    damage: Callable[[Path], None], reference: ReferenceRun, tmp_path: Path, run: Run
) -> None:
    """It never starts over unasked, which would delete what may still be recovered."""
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    for folder in (out / "checkpoints").iterdir():
        damage(folder)
    done = run(*reference.argv(out))
    assert done.code == 3
    assert "error[BG320]" in done.err
    assert "step-00000004, step-00000002" in done.err
    assert "--overwrite" in done.err
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    assert run(*reference.argv(out), "--overwrite").code == 0
    assert_identical_runs(reference.uninterrupted, out)


def test_partial_checkpoints_are_removed(reference: ReferenceRun, tmp_path: Path, run: Run) -> None:
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    for name in (".step.tmp", ".step-00000000.old"):
        shutil.copytree(out / "checkpoints" / "step-00000004", out / "checkpoints" / name)
        (out / "checkpoints" / name / "half").write_bytes(b"")
    assert run(*reference.argv(out)).code == 0
    assert_identical_runs(reference.uninterrupted, out)
    assert not list((out / "checkpoints").glob(".*"))


def rewrite(file: Path, **changes: Any) -> None:
    """Change keys of a JSON or YAML file of a run; None removes a key."""
    load: Any = json.loads if file.suffix == ".json" else yaml.safe_load
    dump: Any = json.dumps if file.suffix == ".json" else yaml.safe_dump
    content = load(file.read_text()) | changes
    file.write_text(dump({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("file", ["config.yaml", "checkpoints/step-00000004/state.json"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": FORMAT_VERSION + 1, "curriculum": 3}, "written by a newer bertgpt"),
        ({"version": FORMAT_VERSION - 1}, "written by an older bertgpt"),
        ({"version": None}, "written by an older bertgpt"),
    ],
)
def test_other_format_version_is_refused(
    changes: dict[str, Any], message: str, file: str, reference: ReferenceRun, tmp_path: Path, run: Run
) -> None:
    """Neither read in part, nor taken for corrupt or for a run with different options."""
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    assert yaml.safe_load((out / "config.yaml").read_text())["version"] == FORMAT_VERSION
    rewrite(out / file, **changes)
    reseal(out / "checkpoints" / "step-00000004")
    done = run(*reference.argv(out))
    assert done.code == 3
    assert f"error[BG307]: {message}" in done.err
    assert (out / "checkpoints" / "step-00000004").exists()
    for folder in (out, out / "checkpoints" / "step-00000004"):
        with pytest.raises(BertGPTError, match=message):
            load.load_model(folder)
    if file == "config.yaml":
        assert run(*reference.argv(out), "--overwrite-if-changed").code == 3


@pytest.mark.parametrize("content", ["", "vocab: [", "- a list\n", "\x00\x00"])
def test_unreadable_config_is_reported(content: str, reference: ReferenceRun, tmp_path: Path, run: Run) -> None:
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    (out / "config.yaml").write_text(content)
    done = run(*reference.argv(out))
    assert done.code == 3
    assert "error[BG318]: config.yaml is not a run's config" in done.err


# ------------------------------------------------------------------------------------------ pruning


@pytest.fixture(scope="module")
def model() -> Transformer:
    return init_model(ModelConfig(vocab_size=5, dim=4, layers=1, heads=1, ffn_dim=4, max_seq_len=4), 1)


@pytest.fixture
def save(model: Transformer, tmp_path: Path) -> Callable[..., list[int]]:
    """Save a checkpoint from a fresh process; returns the steps that have one afterwards."""
    optimizers = Optimizers(model, "adamw", 0.1, 0.95)

    def saved(step: int, scores: dict[int, float] | None = None) -> list[int]:
        Checkpoints(tmp_path).save(step, model, optimizers, {}, scores or {})
        return sorted(int(path.name.removeprefix("step-")) for path in tmp_path.iterdir())

    return saved


def test_newest_checkpoints_are_kept(save: Callable[..., list[int]], tmp_path: Path) -> None:
    """By number, not by name."""
    steps = [998, 999, 1000, 1001, 9_999, 10_000, 99_999_998, 99_999_999, 100_000_000, 100_000_001, 999_999_999, 10**9]
    for before, step in pairwise(steps):
        assert save(before)[-1] == before
        assert save(step)[-2:] == [before, step]
        latest = Checkpoints(tmp_path).latest()
        assert latest is not None
        assert int(latest.name[5:]) == step
    assert save(10**9 + 1) == [10**9, 10**9 + 1]


def test_best_checkpoint_is_kept_until_there_is_a_better_one(save: Callable[..., list[int]], tmp_path: Path) -> None:
    scores: dict[int, float] = {5: 0.1}  # of a step without a checkpoint
    steps = []
    for step, score in enumerate([3.0, 2.0, 2.5, 2.6, 2.0, 1.0, 4.0, 4.0, 4.0], start=10):
        scores[step] = score
        steps.append(save(step, scores))
    assert steps == [
        [10], [10, 11], [11, 12], [11, 12, 13], [13, 14], [14, 15], [15, 16], [15, 16, 17], [15, 17, 18],
    ]  # fmt: skip
    best = Checkpoints(tmp_path).best(scores)
    assert best is not None
    assert best.name == "step-00000015"
    assert Checkpoints(tmp_path).best({}) is None


def test_corrupt_checkpoint_is_neither_latest_nor_best_nor_counted(
    save: Callable[..., list[int]], tmp_path: Path
) -> None:
    scores = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5}
    for step in (1, 2, 3):
        save(step, scores)
    one_bit_flipped(tmp_path / "step-00000002")
    one_bit_flipped(tmp_path / "step-00000003")
    assert Checkpoints(tmp_path).best(scores) is None
    with pytest.raises(BertGPTError, match="no valid checkpoint"):
        Checkpoints(tmp_path).latest()
    assert save(4, scores) == [2, 3, 4]
    assert save(5, scores) == [2, 3, 4, 5]  # 4 is valid, 3 is not
    assert save(6, scores) == [2, 3, 4, 5, 6]  # 4 is the best valid one
    assert save(3, scores | {3: 0.5}) == [2, 3, 5, 6]  # 3 is valid now
    assert is_valid(tmp_path / "step-00000003")


def test_checkpoint_is_synced_before_it_is_renamed(
    save: Callable[..., list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a file may have its name and size, but not its content; killing a process never shows that."""
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    rename, missing = Path.rename, []

    def renamed(path: Path, target: Path) -> Path:
        missing.append([file.name for file in (path, *path.iterdir()) if file.stat().st_ino not in synced])
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    save(1)
    assert missing == [[]]
    assert tmp_path.stat().st_ino in synced


def test_folders_with_other_names_are_ignored(save: Callable[..., list[int]], tmp_path: Path) -> None:
    for name in ("step-last", "step-", "step-12.bak", "other"):
        (tmp_path / name).mkdir()
    Checkpoints(tmp_path / "none").latest()
    assert Checkpoints(tmp_path).latest() is None
    assert Checkpoints(tmp_path).best({12: 1.0}) is None


def test_padding_rows_are_not_stored(model: Transformer, tmp_path: Path) -> None:
    """They are restored as zeros, so that a model padded to another multiple can load the checkpoint too."""
    optimizers = Optimizers(model, "muon", 0.1, 0.95)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizers.step(0.1)
    before = {f"{name}.{key}": value.clone() for name, s in optimizers.state_dict().items() for key, value in s.items()}
    folder = Checkpoints(tmp_path).save(1, model, optimizers, dict.fromkeys(STATE_KEYS, 0) | {"seed": 3}, {})
    assert load_file(folder / "optim.safetensors")["token_embedding.weight.exp_avg"].shape == (5, 4)
    sizes = sum(path.stat().st_size for path in folder.iterdir())
    assert sizes < checkpoint_bytes(model, optimizers) + 8000  # the free space that is required before saving
    other = Optimizers(model, "muon", 0.1, 0.95)
    assert load_checkpoint(folder, model, other)["seed"] == 3
    after = {f"{name}.{key}": value for name, s in other.state_dict().items() for key, value in s.items()}
    assert before.keys() == after.keys()
    padding = before["token_embedding.weight.exp_avg"][5:]
    assert all(before[name][:5].equal(after[name][:5]) for name in before if before[name].ndim)
    assert after["token_embedding.weight.exp_avg"][5:].shape == padding.shape


# ----------------------------------------------------------------------------------- loading models


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes printed during the test."""
    texts: list[str] = []
    monkeypatch.setattr(Console, "info", lambda self, text: texts.append(text))
    monkeypatch.setattr(console, "current", Console())
    return texts


def write_val_losses(run: Path, scores: dict[int, float]) -> None:
    """Write metrics.jsonl with validation losses and a partial line."""
    lines = [json.dumps({"step": step, "split": "val", "loss": loss}) + "\n" for step, loss in scores.items()]
    (run / "metrics.jsonl").write_text("".join(lines) + '{"step": 4, "split": "val", "lo')


def test_unfinished_run_loads_its_best_or_latest_checkpoint(
    reference: ReferenceRun, tmp_path: Path, notes: list[str]
) -> None:
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    for scores, step in (({2: 1.0, 4: 2.0}, 2), ({2: 2.0, 4: 1.0}, 4), ({3: 1.0}, 4), ({}, 4)):
        write_val_losses(out, scores)
        model, folder = load.load_model(out)
        assert folder.name == f"step-{step:08}"
        assert notes.pop() == f"{out} is not finished: loading checkpoint {folder.name}"
        weights = load_file(folder / "model.safetensors")
        assert all(weights[name].equal(value) for name, value in model.model.state_dict().items())
        assert model.objective == "clm"
    (out / "metrics.jsonl").unlink()
    one_bit_flipped(out / "checkpoints" / "step-00000004")
    assert load.load_model(out)[1].name == "step-00000002"
    one_bit_flipped(out / "checkpoints" / "step-00000002")
    with pytest.raises(BertGPTError) as caught:
        load.load_model(out)
    assert caught.value.code == "BG320"


def test_loading_a_finished_run_or_a_checkpoint(reference: ReferenceRun, tmp_path: Path, notes: list[str]) -> None:
    assert load.load_model(reference.uninterrupted)[1] == reference.uninterrupted / "final"
    assert load.load_model(reference.uninterrupted / "final")[1] == reference.uninterrupted / "final"
    folder = reference.uninterrupted / "checkpoints" / "step-00000006"
    model, path = load.load_model(folder)
    assert path == folder
    weights = load_file(folder / "model.safetensors")
    assert all(weights[name].equal(value) for name, value in model.model.state_dict().items())
    assert model.tokenizer.fingerprint == load.load_model(reference.uninterrupted)[0].tokenizer.fingerprint
    assert not notes


@pytest.mark.parametrize("damage", CORRUPT)
def test_loading_a_corrupt_checkpoint_is_refused(
    damage: Callable[[Path], None], reference: ReferenceRun, tmp_path: Path
) -> None:
    """An explicitly named checkpoint is not replaced by another one."""
    folder = shutil.copytree(reference.interrupted, tmp_path / "run") / "checkpoints" / "step-00000004"
    damage(folder)
    with pytest.raises(BertGPTError) as caught:
        load.load_model(folder)
    assert caught.value.code == "BG304"
    assert caught.value.path == str(folder)


def test_run_without_checkpoints_cannot_be_loaded(reference: ReferenceRun, tmp_path: Path) -> None:
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    for path in (out, out / "checkpoints" / "step-00000004", tmp_path / "nowhere"):
        with pytest.raises(BertGPTError) as caught:
            load.load_model(path)
        assert caught.value.code == "BG211"
    (out / "checkpoints").mkdir()
    with pytest.raises(BertGPTError, match="this run has no checkpoint yet"):
        load.load_model(out)
