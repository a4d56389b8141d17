"""Fine-tuning: exact resume, model selection by the validation split, baselines and scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file

import bertgpt
from bertgpt.config.training_options import FinetuneOptions
from bertgpt.evals.labels import score_classifiers
from bertgpt.evals.splits import normalize_text, train_val_split
from bertgpt.evals.tasks import LabeledDataset, LabeledSplit
from bertgpt.hub import pretrained
from bertgpt.inference.classify import classify
from bertgpt.stages.finetune import FinetuneSetup, SeedRun
from bertgpt.trainer import Trainer
from tests.conftest import Outcome
from tests.fixtures.finetuning import QUICK, Sheet, labeled_texts, saved_of
from tests.fixtures.training import assert_identical_runs, flags, logged_metrics
from tests.training.test_resume import interrupt, killed

Run = Callable[..., Outcome]
Bases = dict[str, Path]


def test_scores_and_baselines(judge: Path) -> None:
    """The mean over seeds, each seed and the baselines; --json and metrics.json hold the same values."""
    result = json.loads((judge / "t.csv.json").read_text())
    scores, baselines = result["scores"], result["baselines"]
    each = [scores[f"accuracy, seed {number}"]["value"] for number in (1, 2)]
    assert scores["accuracy"]["value"] == pytest.approx(np.mean(each), abs=1e-6)
    assert scores["accuracy, std over seeds"]["value"] == pytest.approx(np.std(each, ddof=1), abs=1e-6)
    assert set(baselines) == {"majority class", "TF-IDF baseline", "linear probe", "random init"}
    assert baselines["majority class"]["value"] == 0.5
    assert result["n"] == 12
    assert not result["partial"]
    metrics = json.loads((judge / "metrics.json").read_text())
    assert metrics["accuracy"] == scores["accuracy"]["value"]
    assert metrics["baseline_random_init"] == baselines["random init"]["value"]
    items = pq.read_table(judge / "t.csv.items.parquet").to_pydict()
    assert sum(items["correct"]) / 12 == pytest.approx(scores["accuracy"]["value"])
    assert [round(sum(shares), 4) for shares in items["probabilities"]] == [1.0] * 12


def test_validation_score_selects_checkpoint_and_seed(judge: Path) -> None:
    """Never the score on the test split."""
    errors = {}
    for seed in (1337, 1338):
        run = judge / f"seed-{seed}"
        lines = [line for line in logged_metrics(run) if line["split"] == "val"]
        assert all(line["error"] == pytest.approx(1 - line["accuracy"]) for line in lines)
        val_errors = {line["step"]: line["error"] for line in lines}
        assert sorted(val_errors) == [2, 4, 6, 8]
        chosen = json.loads((run / "metrics.json").read_text())["best_step"]
        assert val_errors[chosen] == min(val_errors.values())
        checkpoint = load_file(run / "checkpoints" / f"step-{chosen:08}" / "model.safetensors")
        final = load_file(run / "final" / "model.safetensors")
        assert all(torch.equal(checkpoint[name], final[name]) for name in checkpoint)
        errors[seed] = json.loads((run / "metrics.json").read_text())["val_error"]
    best = min(errors, key=lambda seed: errors[seed])
    files = [folder / "final" / "model.safetensors" for folder in (judge, judge / f"seed-{best}")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("family", "optimizer"), [("encoder", "adamw"), ("gpt2", "muon")])
def test_accuracy_improves(family: str, optimizer: str, bases: Bases, sheet: Sheet, tmp_path: Path) -> None:
    options = QUICK | {"max_steps": 60, "eval_every": 20, "lr": 2e-3, "optimizer": optimizer}
    bertgpt.finetune(str(sheet(labeled_texts(100))), model=str(bases[family]), out=str(tmp_path / "run"), **options)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["accuracy"] > 0.9


@pytest.mark.parametrize("family", ["bert", "decoder"])
def test_losses_do_not_depend_on_micro_batch_size(family: str, bases: Bases, sheet: Sheet, tmp_path: Path) -> None:
    losses = []
    for micro in (8, 2, 1):
        out = tmp_path / str(micro)
        options = QUICK | {"dropout": 0.0, "max_steps": 6, "micro_batch_size": micro, "eval_every": 6}
        bertgpt.finetune(str(sheet(labeled_texts())), model=str(bases[family]), out=str(out), **options)
        lines = logged_metrics(out / "seed-1337")
        losses.append([line["loss"] for line in lines if line["split"] == "train"])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[2] == pytest.approx(losses[0], abs=1e-6)


def test_interrupted_seeds_resume(bases: Bases, sheet: Sheet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first and in the second seed, with dropout, to the same bytes."""
    file, options = str(sheet(labeled_texts())), QUICK | {"seeds": 2, "micro_batch_size": 4}
    bertgpt.finetune(file, model=str(bases["encoder"]), out=str(tmp_path / "straight"), **options)
    for step in (4, 8):  # of the second seed
        with monkeypatch.context() as patched:
            interrupt(patched, Trainer, "train_step", step, killed)
            with pytest.raises(RuntimeError, match="killed"):
                bertgpt.finetune(file, model=str(bases["encoder"]), out=str(tmp_path / "broken"), **options)
    bertgpt.finetune(file, model=str(bases["encoder"]), out=str(tmp_path / "broken"), **options)
    for seed in ("seed-1337", "seed-1338"):
        assert_identical_runs(tmp_path / "straight" / seed, tmp_path / "broken" / seed)
    for name in ("metrics.json", "t.csv.json", "final/model.safetensors", "final/manifest.json"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


def test_run_with_different_options_is_refused(judge: Path, bases: Bases, run: Run) -> None:
    argv = ["finetune", str(judge.parent / "t.csv"), "--model", str(bases["encoder"]), "--out", str(judge)]
    options = QUICK | {"max_steps": 8, "lr": 2e-3}
    del options["random_baseline"]
    done = run(*argv, *flags(options), "--json")
    assert json.loads(done.out)["error"]["code"] == "BG213"
    assert "options.lr was 0.001, is now 0.002" in done.out


def test_train_val_split() -> None:
    """Duplicates stay on one side, whatever else is in the data; test texts are on neither."""
    texts = [f"Text {i}." for i in range(400)] + ["text  7.", "TEXT 7."]
    labels = ["a", "b"] * 201
    dev = LabeledSplit(["Text 3.", "text 4. "], None, ["a", "b"])
    task = LabeledDataset("t", LabeledSplit(texts, None, labels), dev, ("a", "b"), ("accuracy",), {})
    train, val, left_out = train_val_split(task, 0.2)
    assert left_out == 2
    assert len(train) + len(val) == 400
    assert not {normalize_text(text) for text in train.texts} & {normalize_text(text) for text in val.texts}
    assert 50 < len(val) < 110
    more = LabeledDataset("t", LabeledSplit(["New.", *texts], None, ["a", *labels]), dev, ("a", "b"), ("accuracy",), {})
    again = train_val_split(more, 0.2)[1].texts
    assert [text for text in again if text != "New."] == val.texts


def test_collapsed_seed_is_reported(judge: Path) -> None:
    model = saved_of(judge)
    assert model.head is not None
    with torch.no_grad():
        model.head.classifier.classifier.weight.zero_()
    split = LabeledSplit([text for text, _ in labeled_texts(20)], None, [label for _, label in labeled_texts(20)])
    task = LabeledDataset("t", split, split, ("bad", "good"), ("accuracy",), {})
    result = score_classifiers(task, [model], {}, {})
    assert result.scores["accuracy"].value == 0.5
    assert any(note.startswith("collapsed: seed 1") for note in result.notes)


def setup_of(bases: Bases, sheet: Sheet, tmp_path: Path, **options: Any) -> FinetuneSetup:
    given = (
        QUICK | {"model": str(bases["bert"]), "out": str(tmp_path / "x"), "task": str(sheet(labeled_texts()))} | options
    )
    return FinetuneSetup(FinetuneOptions.model_validate(given))


def test_frozen_layers_and_layerwise_lr_decay(bases: Bases, sheet: Sheet, tmp_path: Path) -> None:
    setup = setup_of(bases, sheet, tmp_path, layerwise_lr_decay=0.5, freeze_layers=2)
    names = ("token_embedding.weight", "blocks.0.up_proj.weight", "blocks.3.up_proj.weight", "pooler.weight")
    lr_scale = SeedRun(setup, 1, random_init=False).lr_scale
    assert [lr_scale(f"transformer.{name}") for name in names] == [0.5**5, 0.5**4, 0.5, 1.0]
    assert lr_scale("classifier.weight") == 1.0
    bertgpt.finetune(setup.options.task, model=str(bases["bert"]), out=str(tmp_path / "x"),
                     **(QUICK | {"layerwise_lr_decay": 0.5, "freeze_layers": 2}))  # fmt: skip
    before, after = saved_of(bases["bert"]).model.state_dict(), saved_of(tmp_path / "x").model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith(("token_embedding", "blocks.0", "blocks.1"))} <= same
    assert not {name for name in before if name.startswith(("blocks.2", "blocks.3", "pooler"))} & same
    unused = {name for name in before if name.startswith(("nsp_head", "mlm_"))}
    assert unused <= same


def test_seed_decides_head_and_order(bases: Bases, sheet: Sheet, tmp_path: Path) -> None:
    setup = setup_of(bases, sheet, tmp_path)
    one, same, other = (SeedRun(setup, seed, False).classifier().classifier.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    pretrained, random = (
        SeedRun(setup, 1, init).classifier().transformer.token_embedding.weight for init in (False, True)
    )
    assert torch.equal(pretrained, setup.pretrained.model.token_embedding.weight)
    assert not torch.equal(pretrained, random)


def test_regression(bases: Bases, sheet: Sheet, tmp_path: Path, run: Run) -> None:
    rows = [(text, 4.5 if label == "good" else 0.5) for text, label in labeled_texts(100)]
    out = tmp_path / "x"
    options = QUICK | {"max_steps": 40, "eval_every": 20, "lr": 3e-3}
    del options["random_baseline"]
    argv = ["finetune", str(sheet(rows)), "--model", str(bases["encoder"]), "--out", str(out)]
    done = run(*argv, "--no-random-baseline", *flags(options))
    assert done.code == 0, done.err
    assert "t.csv: regression;" in done.err
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["pearson"] > 0.9
    assert "classification_acc" not in (out / "seed-1337" / "metrics.jsonl").read_text()
    assert saved_of(out).head.labels == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["gpt2", "bert", "encoder", "decoder"])
def test_exported_classifier_predicts_the_same_labels(
    family: str, bases: Bases, sheet: Sheet, tmp_path: Path, run: Run
) -> None:
    """Loaded by transformers with its tokenizer, for texts and pairs, in padded batches."""
    rows = [(text, "and so on" * (i % 4), label) for i, (text, label) in enumerate(labeled_texts())]
    file = str(sheet(rows, ("text", "then", "label")))
    bertgpt.finetune(file, model=str(bases[family]), out=str(tmp_path / "x"), pair_column="then", **QUICK)
    done = run("export", str(tmp_path / "x"), "--out", str(tmp_path / "hf"), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["result"]["architecture"].endswith("ForSequenceClassification")
    kept = saved_of(tmp_path / "x")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    assert model.config.id2label == {0: "bad", 1: "good"}
    texts, others = [row[0] for row in rows[:9]], [row[1] for row in rows[:9]]
    for given in ((texts, None), (texts, others)):
        with torch.no_grad():
            theirs = model(**tokenizer(*given, padding=True, return_tensors="pt")).logits
        assert np.abs(theirs.numpy() - classify(kept, *given)).max() < 1e-4


def test_predict_labels_of_a_file(judge: Path, sheet: Sheet, tmp_path: Path, run: Run) -> None:
    file = sheet([(text,) for text, _ in labeled_texts(10)], ("text",), "new.csv")
    for ending in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"predictions.{ending}"
        done = run("eval", "predict", "--model", str(judge), "--data", str(file), "--out", str(out), "--json")
        assert done.code == 0, done.err
        from bertgpt.evals.tables import read_records as read

        rows = read(str(out))
        assert [row["text"] for row in rows] == [text for text, _ in labeled_texts(10)]
        logits = classify(saved_of(judge), [row["text"] for row in rows])
        assert [row["label"] for row in rows] == [("bad", "good")[i] for i in logits.argmax(axis=1)]
        assert all(abs(float(row["p(bad)"]) + float(row["p(good)"]) - 1) < 1e-4 for row in rows)


def test_predictions_keep_the_other_columns(judge: Path, sheet: Sheet, tmp_path: Path, run: Run) -> None:
    """So that rows can be joined."""
    rows = [(f"m{i}", text, label) for i, (text, label) in enumerate(labeled_texts(10))]
    file, out = sheet(rows, ("id", "body", "label"), "mail.csv"), tmp_path / "predictions.csv"
    argv = ["--model", str(judge), "--data", str(file), "--text-column", "body", "--out", str(out)]
    assert run("eval", "predict", *argv).code == 0
    from bertgpt.evals.tables import read_records as read

    predicted = read(str(out))
    assert list(predicted[0]) == ["id", "body", "given label", "label", "p(bad)", "p(good)"]
    assert [(row["id"], row["body"], row["given label"]) for row in predicted] == rows


def test_predictions_in_bf16(judge: Path) -> None:
    texts = [text for text, _ in labeled_texts(6)]
    full, half = (classify(bertgpt.load(judge, "cpu", precision).pretrained, texts) for precision in ("fp32", "bf16"))
    assert np.abs(full - half).max() < 0.1


def test_eval_repeats_the_scores_of_finetune(bases: Bases, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "x"
    bertgpt.finetune("acceptability", model=str(bases["encoder"]), out=str(out), limit=60, **QUICK)
    done = run("eval", "acceptability", "--model", str(out), "--limit", "60", "--out", str(tmp_path / "r"), "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)["result"]["results"][0]
    saved = json.loads((out / "acceptability.json").read_text())
    assert result["scores"] == saved["scores"]
    assert result["partial"]
    assert result["baselines"]["TF-IDF baseline"] == saved["baselines"]["TF-IDF baseline"]


def test_dry_run(bases: Bases, sheet: Sheet, tmp_path: Path, run: Run) -> None:
    done = run("finetune", str(sheet(labeled_texts())), "--model", str(bases["gpt2"]), "--out", str(tmp_path / "x"),
               "--dry-run", "--json")  # fmt: skip
    result = json.loads(done.out)["result"]
    assert result["train"] + result["val"] == 48
    assert result["test"] == 12
    assert result["classes"] == ["bad", "good"]
    assert not (tmp_path / "x").exists()


def test_label_ids() -> None:
    part = LabeledSplit(["x", "y"], None, ["b", "a"])
    assert part.label_ids(("a", "b")).tolist() == [1, 0]
    assert LabeledSplit(["x"], None, [0.5]).label_ids(()).tolist() == [0.5]


def test_fine_tuned_model_loads(judge: Path) -> None:
    kept = pretrained.load(judge)
    assert kept.head is not None
    assert (kept.head.task, kept.head.labels) == ("t.csv", ("bad", "good"))
    assert normalize_text(" A  b ") == "a b"
