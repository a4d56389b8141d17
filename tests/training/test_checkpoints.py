"""Checkpoints: which are kept, which are believed, and what becomes of a run when they are broken (F24 to F28, F39)."""

import json
import os
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
from bertgpt.training.checkpoints import Checkpoints, checkpoint_bytes, is_valid, load_checkpoint
from bertgpt.training.init import init_model
from bertgpt.training.optimizers import Optimizers
from bertgpt.utils import console
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of
from tests.conftest import Outcome
from tests.fixtures.training import Example, assert_same

Run = Callable[..., Outcome]


def sealed(folder: Path) -> None:
    """Have the manifest of a checkpoint vouch for what is there now."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "MANIFEST.json")
    (folder / "MANIFEST.json").write_text(json.dumps({name: sha256_of(folder / name) for name in names}))


# ---------------------------------------------------------------------------------------- what is broken


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def emptied(folder: Path) -> None:
    (folder / "optim.safetensors").write_bytes(b"")


def one_bit_flipped(folder: Path) -> None:
    """Which safetensors reads without a word."""
    whole = bytearray((folder / "model.safetensors").read_bytes())
    whole[-5] ^= 1
    (folder / "model.safetensors").write_bytes(whole)
    load_file(folder / "model.safetensors")


def file_missing(folder: Path) -> None:
    (folder / "state.json").unlink()


def manifest_missing(folder: Path) -> None:
    (folder / "MANIFEST.json").unlink()


def manifest_of_another_kind(folder: Path) -> None:
    (folder / "MANIFEST.json").write_text(json.dumps(sorted(p.name for p in folder.iterdir() if p.suffix != ".json")))
    (folder / "state.json").unlink()


def a_file_more(folder: Path) -> None:
    (folder / "model-00002.safetensors").write_bytes(b"")


def nothing_left(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def a_weight_more(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors") | {"x": torch.ones(2)}, folder / "model.safetensors")
    sealed(folder)


def a_weight_less(folder: Path) -> None:
    kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if k != "token_embedding.weight"}
    save_file(kept, folder / "model.safetensors")
    sealed(folder)


def a_moment_more(folder: Path) -> None:
    save_file(load_file(folder / "optim.safetensors") | {"x.exp_avg": torch.ones(2)}, folder / "optim.safetensors")
    sealed(folder)


def moments_less(folder: Path) -> None:
    """Training would go on without a word, with moments of zero."""
    kept = {
        k: v for k, v in load_file(folder / "optim.safetensors").items() if not k.startswith("token_embedding.weight")
    }
    save_file(kept, folder / "optim.safetensors")
    sealed(folder)


def no_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    sealed(folder)


BROKEN = [
    cut_short, emptied, one_bit_flipped, file_missing, manifest_missing, manifest_of_another_kind, a_file_more,
    nothing_left,
]  # fmt: skip
MISFITS = [a_weight_more, a_weight_less, a_moment_more, moments_less, no_safetensors]


@pytest.mark.parametrize("damage", BROKEN + MISFITS)
def test_a_broken_checkpoint_is_passed_over(
    damage: Callable[[Path], None], example: Example, tmp_path: Path, run: Run
) -> None:
    """F24: it is named, the one before is taken, and in the end it is as if nothing had been."""
    out = shutil.copytree(example.stopped, tmp_path / "run")
    damage(out / "checkpoints" / "step-00000004")
    done = run(*example.argv(out))
    assert done.code == 0, done.err
    assert "step-00000004 is" in done.err
    assert "passed over" in done.err
    assert "goes on after step 2" in done.err
    assert_same(example.straight, out)
    kept = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (example.straight, out)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("damage", [one_bit_flipped, a_weight_more])
def test_if_all_are_broken_it_says_how_to_begin_anew(
    damage: Callable[[Path], None], example: Example, tmp_path: Path, run: Run
) -> None:
    """F25: never from the start unasked, which would throw away what may still be saved."""
    out = shutil.copytree(example.stopped, tmp_path / "run")
    for folder in (out / "checkpoints").iterdir():
        damage(folder)
    done = run(*example.argv(out))
    assert done.code == 3
    assert "error[BG320]" in done.err
    assert "step-00000004, step-00000002" in done.err
    assert "--overwrite" in done.err
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    assert run(*example.argv(out), "--overwrite").code == 0
    assert_same(example.straight, out)


def test_what_a_dead_process_left_is_swept_away(example: Example, tmp_path: Path, run: Run) -> None:
    """F26."""
    out = shutil.copytree(example.stopped, tmp_path / "run")
    for name in (".step.tmp", ".step-00000000.old"):
        shutil.copytree(out / "checkpoints" / "step-00000004", out / "checkpoints" / name)
        (out / "checkpoints" / name / "half").write_bytes(b"")
    assert run(*example.argv(out)).code == 0
    assert_same(example.straight, out)
    assert not list((out / "checkpoints").glob(".*"))


def later(file: Path) -> None:
    """As a later bertgpt may write it, which knows more."""
    load: Any = json.loads if file.suffix == ".json" else yaml.safe_load
    dump: Any = json.dumps if file.suffix == ".json" else yaml.safe_dump
    file.write_text(dump(load(file.read_text()) | {"version": 2, "curriculum": 3}))


@pytest.mark.parametrize("file", ["config.yaml", "checkpoints/step-00000004/state.json"])
def test_what_a_later_bertgpt_made_is_left_alone(file: str, example: Example, tmp_path: Path, run: Run) -> None:
    """F28: neither read with what is understood of it, nor taken for broken, nor for a run that was begun otherwise."""
    out = shutil.copytree(example.stopped, tmp_path / "run")
    later(out / file)
    sealed(out / "checkpoints" / "step-00000004")
    done = run(*example.argv(out))
    assert done.code == 3
    assert "error[BG307]: made by a later bertgpt: format 2" in done.err
    assert (out / "checkpoints" / "step-00000004").exists()
    for folder in (out, out / "checkpoints" / "step-00000004"):
        with pytest.raises(BertGPTError, match="made by a later bertgpt"):
            load.load_model(folder)
    if file == "config.yaml":
        assert run(*example.argv(out), "--overwrite-if-changed").code == 3


def test_versions_are_written_and_were_not_always(example: Example, tmp_path: Path, run: Run) -> None:
    out = shutil.copytree(example.stopped, tmp_path / "run")
    state = out / "checkpoints" / "step-00000004" / "state.json"
    assert json.loads(state.read_text())["version"] == 1
    assert yaml.safe_load((out / "config.yaml").read_text())["version"] == 1
    state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items() if k != "version"}))
    sealed(state.parent)
    config = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(config.removeprefix("version: 1\n"))
    assert run(*example.argv(out)).code == 0
    assert_same(example.straight, out)


@pytest.mark.parametrize("content", ["", "vocab: [", "- a list\n", "\x00\x00"])
def test_a_config_that_cannot_be_read_is_no_bug(content: str, example: Example, tmp_path: Path, run: Run) -> None:
    out = shutil.copytree(example.stopped, tmp_path / "run")
    (out / "config.yaml").write_text(content)
    done = run(*example.argv(out))
    assert done.code == 3
    assert "error[BG318]: config.yaml describes no run" in done.err


# ----------------------------------------------------------------------------------------- which are kept


@pytest.fixture(scope="module")
def model() -> Transformer:
    return init_model(ModelConfig(vocab_size=5, dim=4, layers=1, heads=1, ffn_dim=4, max_seq_len=4), 1)


@pytest.fixture
def save(model: Transformer, tmp_path: Path) -> Callable[..., list[int]]:
    """Write a checkpoint as a process does that has just begun; the steps that there are then."""
    optimizers = Optimizers(model, "adamw", 0.1, 0.95)

    def saved(step: int, scores: dict[int, float] | None = None) -> list[int]:
        Checkpoints(tmp_path).save(step, model, optimizers, {}, scores or {})
        return sorted(int(path.name.removeprefix("step-")) for path in tmp_path.iterdir())

    return saved


def test_the_largest_numbers_are_kept(save: Callable[..., list[int]], tmp_path: Path) -> None:
    """F39: also where a name that comes later in the alphabet has a smaller number."""
    steps = [998, 999, 1000, 1001, 9_999, 10_000, 99_999_998, 99_999_999, 100_000_000, 100_000_001, 999_999_999, 10**9]
    for before, step in pairwise(steps):
        assert save(before)[-1] == before
        assert save(step)[-2:] == [before, step]
        newest = Checkpoints(tmp_path).latest()
        assert newest is not None
        assert int(newest.name[5:]) == step
    assert save(10**9 + 1) == [10**9, 10**9 + 1]


def test_the_best_is_kept_until_there_is_a_better_one(save: Callable[..., list[int]], tmp_path: Path) -> None:
    scores: dict[int, float] = {5: 0.1}  # of a step that has no checkpoint
    kept = []
    for step, score in enumerate([3.0, 2.0, 2.5, 2.6, 2.0, 1.0, 4.0, 4.0, 4.0], start=10):
        scores[step] = score
        kept.append(save(step, scores))
    assert kept == [
        [10], [10, 11], [11, 12], [11, 12, 13], [13, 14], [14, 15], [15, 16], [15, 16, 17], [15, 17, 18],
    ]  # fmt: skip
    best = Checkpoints(tmp_path).best(scores)
    assert best is not None
    assert best.name == "step-00000015"
    assert Checkpoints(tmp_path).best({}) is None


def test_a_broken_one_is_neither_newest_nor_best_nor_counted(save: Callable[..., list[int]], tmp_path: Path) -> None:
    scores = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5}
    for step in (1, 2, 3):
        save(step, scores)
    one_bit_flipped(tmp_path / "step-00000002")
    one_bit_flipped(tmp_path / "step-00000003")
    assert Checkpoints(tmp_path).best(scores) is None
    with pytest.raises(BertGPTError, match="no checkpoint of this run is whole"):
        Checkpoints(tmp_path).latest()
    assert save(4, scores) == [2, 3, 4]
    assert save(5, scores) == [2, 3, 4, 5]  # 4 is whole, and 3 is not
    assert save(6, scores) == [2, 3, 4, 5, 6]  # 4 is the best of those that are whole
    assert save(3, scores | {3: 0.5}) == [2, 3, 5, 6]  # 3 is whole now
    assert is_valid(tmp_path / "step-00000003")


def test_it_is_on_the_disk_before_it_has_its_name(
    save: Callable[..., list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where power fails a file may have its name and its size, but not its content; a kill never shows that."""
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


def test_what_has_another_name_is_no_checkpoint(save: Callable[..., list[int]], tmp_path: Path) -> None:
    for name in ("step-last", "step-", "step-12.bak", "other"):
        (tmp_path / name).mkdir()
    Checkpoints(tmp_path / "none").latest()
    assert Checkpoints(tmp_path).latest() is None
    assert Checkpoints(tmp_path).best({12: 1.0}) is None


def test_rows_that_only_fill_memory_are_not_written(model: Transformer, tmp_path: Path) -> None:
    """And are there again, as zeros, where a checkpoint is read; so that a multiple of another size reads it too."""
    optimizers = Optimizers(model, "muon", 0.1, 0.95)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizers.step(0.1)
    before = {f"{name}.{key}": value.clone() for name, s in optimizers.state_dict().items() for key, value in s.items()}
    folder = Checkpoints(tmp_path).save(1, model, optimizers, {"seed": 3}, {})
    assert load_file(folder / "optim.safetensors")["token_embedding.weight.exp_avg"].shape == (5, 4)
    sizes = sum(path.stat().st_size for path in folder.iterdir())
    assert sizes < checkpoint_bytes(model, optimizers) + 8000  # which is what a disk is asked for
    other = Optimizers(model, "muon", 0.1, 0.95)
    assert load_checkpoint(folder, model, other)["seed"] == 3
    after = {f"{name}.{key}": value for name, s in other.state_dict().items() for key, value in s.items()}
    assert before.keys() == after.keys()
    padding = before["token_embedding.weight.exp_avg"][5:]
    assert all(before[name][:5].equal(after[name][:5]) for name in before if before[name].ndim)
    assert after["token_embedding.weight.exp_avg"][5:].shape == padding.shape


# ----------------------------------------------------------------------------------- a model by its folder


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said meanwhile."""
    said: list[str] = []
    monkeypatch.setattr(Console, "note", lambda self, text: said.append(text))
    monkeypatch.setattr(console, "current", Console())
    return said


def scored(run: Path, scores: dict[int, float]) -> None:
    """Held-out losses of a run, and half a line."""
    lines = [json.dumps({"step": step, "split": "val", "loss": loss}) + "\n" for step, loss in scores.items()]
    (run / "metrics.jsonl").write_text("".join(lines) + '{"step": 4, "split": "val", "lo')


def test_a_run_that_is_not_finished_gives_its_best_or_newest(
    example: Example, tmp_path: Path, notes: list[str]
) -> None:
    out = shutil.copytree(example.stopped, tmp_path / "run")
    for scores, step in (({2: 1.0, 4: 2.0}, 2), ({2: 2.0, 4: 1.0}, 4), ({3: 1.0}, 4), ({}, 4)):
        scored(out, scores)
        kept, folder = load.load_model(out)
        assert folder.name == f"step-{step:08}"
        assert notes.pop() == f"{out} is not finished: this is {folder.name}"
        weights = load_file(folder / "model.safetensors")
        assert all(weights[name].equal(value) for name, value in kept.model.state_dict().items())
        assert kept.objective == "clm"
    (out / "metrics.jsonl").unlink()
    one_bit_flipped(out / "checkpoints" / "step-00000004")
    assert load.load_model(out)[1].name == "step-00000002"
    one_bit_flipped(out / "checkpoints" / "step-00000002")
    with pytest.raises(BertGPTError) as wrong:
        load.load_model(out)
    assert wrong.value.code == "BG320"


def test_a_finished_run_and_a_checkpoint_are_what_they_are(example: Example, tmp_path: Path, notes: list[str]) -> None:
    assert load.load_model(example.straight)[1] == example.straight / "final"
    assert load.load_model(example.straight / "final")[1] == example.straight / "final"
    folder = example.straight / "checkpoints" / "step-00000006"
    kept, found = load.load_model(folder)
    assert found == folder
    weights = load_file(folder / "model.safetensors")
    assert all(weights[name].equal(value) for name, value in kept.model.state_dict().items())
    assert kept.tokenizer.fingerprint == load.load_model(example.straight)[0].tokenizer.fingerprint
    assert not notes


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_checkpoint_is_refused_by_name(
    damage: Callable[[Path], None], example: Example, tmp_path: Path
) -> None:
    """Whoever names one wants that one."""
    folder = shutil.copytree(example.stopped, tmp_path / "run") / "checkpoints" / "step-00000004"
    damage(folder)
    with pytest.raises(BertGPTError) as wrong:
        load.load_model(folder)
    assert wrong.value.code == "BG304"
    assert wrong.value.path == str(folder)


def test_a_run_without_checkpoints_has_no_model(example: Example, tmp_path: Path) -> None:
    out = shutil.copytree(example.stopped, tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    for path in (out, out / "checkpoints" / "step-00000004", tmp_path / "nowhere"):
        with pytest.raises(BertGPTError) as wrong:
            load.load_model(path)
        assert wrong.value.code == "BG211"
    (out / "checkpoints").mkdir()
    with pytest.raises(BertGPTError, match="this run has no checkpoint yet"):
        load.load_model(out)
