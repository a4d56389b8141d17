"""Evaluation suites: constant models, agreement with transformers and lm-evaluation-harness, and errors."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import bertgpt
from bertgpt.config.presets import GPT2, make_config
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.evals.choices import blimp, multiple_choice, tie_credit
from bertgpt.evals.language import masked_accuracy, perplexity
from bertgpt.evals.probe import probe
from bertgpt.evals.requests import encode_pair, loglikelihood
from bertgpt.evals.tables import read_records
from bertgpt.evals.tasks import LabeledDataset, LabeledSplit
from bertgpt.hub import pretrained
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference import batching
from bertgpt.training.init import init_model
from bertgpt.utils.errors import BertGPTError
from tests.conftest import Outcome
from tests.fixtures.models import save_random_model

Run = Callable[..., Outcome]
CHOICES = [
    {"context": "There was a hard frost in the", "endings": ["clock shop.", "sea.", "garden of the town"], "label": 0},
    {"context": "She found", "endings": ["a purse", "nobody at all", "rain"], "label": 2},
    {"context": "", "endings": ["It was cold.", "It were cold."], "label": 0},
]
PAIRS = [
    {"sentence_good": "She was glad.", "sentence_bad": "She were glad.", "UID": "a", "linguistics_term": "x"},
    {"sentence_good": "The dogs sleep.", "sentence_bad": "The dogs sleeps.", "UID": "b", "linguistics_term": "x"},
]
TEXTS = ["There was a hard frost in the clock shop of Tarn.", "She was glad. " * 30, "Olive \N{SNOWMAN} ok"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> dict[str, PretrainedModel]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_random_model(folder / name, name, tokenizer) for name in ("gpt2", "decoder", "bert", "encoder")}


def constant(model: PretrainedModel, value: float) -> PretrainedModel:
    """The model with all parameters equal: its output is uniform, or NaN."""
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.fill_(value)
    return model


# ------------------------------------------------------------------------------------- definitions of scores


def test_uniform_model_scores_chance(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Ties get partial credit: texts with equally many tokens are equally likely."""
    model = constant(save_random_model(tmp_path, "gpt2", tokenizer), 0.0)
    rows = [{"context": "a", "endings": ["b", "c", "d", "e"], "label": label} for label in (0, 1, 2, 3)]
    result = multiple_choice(model, rows, "hellaswag")
    assert {name: score.value for name, score in result.scores.items()} == dict.fromkeys(result.scores, 0.25)
    pairs = [dict(PAIRS[0], sentence_bad="She was glad!"), dict(PAIRS[1], sentence_bad="The dogs sleep!")]
    for objective in ("clm", "mlm"):
        assert blimp(PretrainedModel(model.model, tokenizer, objective), pairs).scores["accuracy"].value == 0.5
    loss = perplexity(model, TEXTS, None).scores["loss"].value
    assert loss == pytest.approx(math.log(model.model.config.vocab_size), rel=1e-5)


def test_nan_is_an_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = constant(save_random_model(tmp_path, "gpt2", tokenizer), math.nan)
    for evaluate in (lambda: multiple_choice(model, CHOICES, "cloze"), lambda: blimp(model, PAIRS)):
        with pytest.raises(BertGPTError, match="output is NaN") as raised:
            evaluate()
        assert raised.value.code == "BG321"
    with pytest.raises(BertGPTError, match="features are NaN"):
        probe(model, labeled_texts(), "probe", full=False)


def test_tie_credit() -> None:
    assert [tie_credit([1.0, 2.0], correct) for correct in (0, 1)] == [0.0, 1.0]
    assert [tie_credit([3.0, 3.0, 1.0, 3.0], correct) for correct in (0, 2)] == [1 / 3, 0.0]


@torch.inference_mode()
def test_loglikelihood_sums_over_continuation_tokens(models: dict[str, PretrainedModel]) -> None:
    """Context and continuation are encoded together after an end token; long contexts lose their beginning."""
    model = models["gpt2"]
    long = "She was glad of the rain. " * 40
    requests = [("There was a", " hard frost"), ("There was a ", "hard frost"), ("", "Olive"), (long, " and rain")]
    for (context, continuation), result in zip(requests, loglikelihood(model, requests), strict=True):
        context_ids, ids = encode_pair(model, context, continuation)
        row = torch.tensor([[model.tokenizer.eos_id, *context_ids, *ids][-(model.max_length + 1) :]])
        logprobs = model.model.logits(model.model(row[:, :-1], causal=True))[0].log_softmax(dim=1)[-len(ids) :]
        expected = sum(float(logprobs[n, i]) for n, i in enumerate(ids))
        assert result.logprob == pytest.approx(expected, abs=1e-3)
        assert result.tokens == len(ids)
        assert result.greedy == (logprobs.argmax(dim=1).tolist() == ids)
    first, second = loglikelihood(model, requests[:2])
    assert first == second  # a space belongs to the word after it


def test_context_and_continuation_are_encoded_together(models: dict[str, PretrainedModel]) -> None:
    """A word split between the two has other ids than its parts alone."""
    model = models["gpt2"]
    encode = model.tokenizer.encode
    context_ids, ids = encode_pair(model, "She was gla", "d of the rain")
    assert ids == encode("She was glad of the rain")[len(encode("She was gla")) :] != encode("d of the rain")
    assert context_ids == encode("She was gla")


@pytest.mark.parametrize("name", ["gpt2", "decoder", "bert", "encoder"])
def test_scores_do_not_depend_on_batching(
    name: str, models: dict[str, PretrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on the other rows of a batch nor on padding."""
    model = models[name]

    def item_scores() -> list[float]:
        columns = [blimp(model, PAIRS).items["logprob_good"]]
        if model.objective == "clm":
            columns += [
                perplexity(model, TEXTS, 16).items["nll"],
                *multiple_choice(model, CHOICES, "cloze").items["logprobs"],
            ]
        else:
            columns.append(masked_accuracy(model, TEXTS).items["correct"])
        return [value for column in columns for value in column]

    batched = item_scores()
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 1)
    assert item_scores() == pytest.approx(batched, abs=1e-4, rel=1e-5)


def test_bits_per_byte(models: dict[str, PretrainedModel], tmp_path: Path) -> None:
    """Per byte of the texts, and not defined for a lossy tokenizer."""
    from bertgpt.data.tokenizers.train import train_tokenizer

    result = perplexity(models["gpt2"], TEXTS, None)
    assert result.items["bytes"] == [len(text.encode()) for text in TEXTS]
    expected = sum(result.items["nll"]) / math.log(2) / sum(result.items["bytes"])
    assert result.scores["bits_per_byte"].value == pytest.approx(expected)
    wordpiece = train_tokenizer("wordpiece", 300, TEXTS * 20)
    lossy = perplexity(save_random_model(tmp_path, "gpt2", wordpiece), TEXTS, None)
    assert "bits_per_byte" not in lossy.scores
    assert any("lossy tokenizer" in note for note in lossy.notes)


def test_masked_accuracy_by_replacement(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A model that copies its input is right only for kept tokens."""
    copying = save_random_model(tmp_path, "bert", tokenizer)
    model = constant(copying, 0.0).model
    with torch.no_grad():
        size = model.config.dim
        model.token_embedding.weight[: model.config.vocab_size] = torch.nn.functional.normalize(
            torch.randn((model.config.vocab_size, size), generator=torch.Generator().manual_seed(0))
        )
        model.embed_norm.weight.fill_(1.0)
        for block in model.blocks:
            block.attention_norm.weight.fill_(1.0)
            block.mlp_norm.weight.fill_(1.0)
        model.mlm_dense.weight.copy_(torch.eye(size) * 50)
        model.mlm_norm.weight.fill_(1.0)
    text = "There was a hard frost in the clock shop of Tarn, and Olive found a purse there. " * 40
    result = masked_accuracy(copying, [text])
    scores = {name: score.value for name, score in result.scores.items()}
    assert scores["accuracy, [MASK]"] < 0.05
    assert scores["accuracy, random"] < 0.1
    assert scores["accuracy, kept"] > 0.5
    assert sum(result.items["targets"]) == pytest.approx(0.15 * 5 * len(tokenizer.encode(text)), rel=0.05)


# -------------------------------------------------------------------------------------------------- probes


def make_dataset(train: LabeledSplit, test: LabeledSplit) -> LabeledDataset:
    classes = tuple(sorted({str(label) for split in (train, test) for label in split.labels}))
    return LabeledDataset("probe", train, test, classes, ("accuracy",))


def labeled_texts(count: int = 200) -> LabeledDataset:
    texts = [f"{'rain and frost' if i % 2 else 'a purse and a clock'} number {i}" for i in range(count)]
    labels = ["weather" if i % 2 else "things" for i in range(count)]
    cut = count * 3 // 4
    return make_dataset(LabeledSplit(texts[:cut], None, labels[:cut]), LabeledSplit(texts[cut:], None, labels[cut:]))


def test_linear_probe_learns_labels_but_not_shuffled_ones(models: dict[str, PretrainedModel]) -> None:
    result = probe(models["bert"], labeled_texts(), "probe", full=False)
    assert result.scores["accuracy"].value > 0.9
    assert result.baselines["TF-IDF baseline"].value == 1.0
    assert result.baselines["majority class"].value == 0.5
    assert 0.2 < result.baselines["shuffled labels"].value < 0.8
    assert result.scores["legacy probe (pooled, unscaled)"].value > 0.5
    assert result.n == len(result.items["correct"]) == 50


@pytest.mark.slow
def test_full_probe_adds_layers_and_learning_curve(models: dict[str, PretrainedModel]) -> None:
    result = probe(models["bert"], labeled_texts(200), "probe", full=True)
    assert {f"layer {layer}" for layer in range(5)} <= result.scores.keys()
    assert "accuracy, 100 training texts" in result.scores
    quick = probe(models["bert"], labeled_texts(200), "probe", full=False)
    assert result.scores["layer 4"].value == quick.scores["accuracy"].value


def test_probe_that_does_not_converge_is_an_error(
    models: dict[str, PretrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertgpt.evals.probe.MAX_ITER", 1)
    with pytest.raises(BertGPTError, match="does not converge") as raised:
        probe(models["bert"], labeled_texts(), "probe", full=False)
    assert raised.value.code == "BG323"


def test_probe_with_few_texts_and_many_classes(models: dict[str, PretrainedModel]) -> None:
    """The validation split for choosing C must be larger than a tenth to hold each class."""
    texts = [f"number {i} of {i % 6}" for i in range(36)]
    split = LabeledSplit(texts, None, [str(i % 6) for i in range(36)])
    assert probe(models["bert"], make_dataset(split, split), "probe", full=False).n == 36


def test_probe_errors(models: dict[str, PretrainedModel]) -> None:
    train, test = labeled_texts().train, labeled_texts().test
    one_class = make_dataset(LabeledSplit(train.texts, None, ["x"] * 150), test)
    with pytest.raises(BertGPTError, match="only one class"):
        probe(models["bert"], one_class, "probe", full=False)
    unseen = make_dataset(train, LabeledSplit(test.texts, None, ["other"] * 50))
    with pytest.raises(BertGPTError, match="missing from the training data"):
        probe(models["bert"], unseen, "probe", full=False)


# ----------------------------------------------------------------------------------------- the eval command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, models: dict[str, PretrainedModel]) -> Path:
    """Runs gpt and bert, and data files."""
    folder = tmp_path_factory.mktemp("eval")
    for name, family in (("gpt", "gpt2"), ("bert", "bert")):
        pretrained.save(models[family], folder / name / "final", "# a model\n")
    (folder / "cloze.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHOICES))
    (folder / "labels.tsv").write_text("text\tlabel\n" + "".join(f"rain {i}\t{i % 2}\n" for i in range(60)))
    return folder


def test_same_model_and_data_give_same_bytes(run: Run, folder: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        argv = ["eval", "cloze", "--model", str(folder / "gpt"), "--data", str(folder / "cloze.jsonl")]
        done = run(*argv, "--out", str(tmp_path / out), "--json")
        assert done.code == 0, done.err
    assert (tmp_path / "one" / "cloze.json").read_bytes() == (tmp_path / "two" / "cloze.json").read_bytes()
    result = json.loads((tmp_path / "one" / "cloze.json").read_text())
    assert json.loads(done.out)["result"]["results"] == [result]
    assert result["n"] == 3
    assert not result["partial"]
    assert {"weights", "tokenizer", "data", "precision"} == result["metadata"].keys()
    table = pq.read_table(tmp_path / "one" / "cloze.items.parquet").to_pydict()
    assert sum(table["acc"]) / 3 == pytest.approx(result["scores"]["acc"]["value"], abs=1e-6)
    limited = run(*argv, "--out", str(tmp_path / "two"), "--limit", "2")
    assert "PARTIAL, n = 2" in limited.out


@pytest.mark.slow
def test_compare_two_models_on_the_same_items(run: Run, folder: Path, tmp_path: Path) -> None:
    for name in ("gpt", "bert"):
        for argv in (["probe", "--data", str(folder / "labels.tsv")], ["tinyworld", "--limit", "6"]):
            done = run("eval", *argv, "--model", str(folder / name), "--out", str(tmp_path / name))
            assert (done.code, "different weights" in done.err) == (0, False), done.err
    compared = run("eval", "compare", str(tmp_path / "gpt"), str(tmp_path / "bert"))
    assert "not distinguishable" in compared.out
    words = [line.split()[:2] for line in compared.out.splitlines()]
    assert [["tinyworld", task] in words for task in ("topic", "sentiment", "acceptability", "cloze")] == [
        True, True, True, False,  # cloze needs a causal model
    ]  # fmt: skip
    assert run("eval", "compare", str(tmp_path / "gpt")).code == 2
    argv = ["eval", "probe", "--model", str(folder / "bert"), "--data", str(folder / "labels.tsv"), "--limit", "40"]
    run(*argv, "--out", str(tmp_path / "bert"))
    argv[3] = str(folder / "gpt")
    done = run(*argv, "--out", str(tmp_path / "bert"))
    assert "probe.json: scores of different weights" in done.err
    compared = run("eval", "compare", str(tmp_path / "gpt"), str(tmp_path / "bert"))
    assert "not comparable: results of probe cover different items" in compared.out
    (tmp_path / "gpt" / "tinyworld.items.parquet").unlink()
    assert "BG324" in run("eval", "compare", str(tmp_path / "gpt"), str(tmp_path / "bert")).err
    assert run("eval", "compare", str(tmp_path / "gpt"), str(folder)).code == 2


def test_ending_without_tokens_is_refused(models: dict[str, PretrainedModel]) -> None:
    """Its log-likelihood would be 0, and it would win."""
    with pytest.raises(BertGPTError, match="no tokens"):
        loglikelihood(models["gpt2"], [("She found", "")])


@pytest.mark.parametrize(
    ("suite", "row", "missing"),
    [
        ("blimp", {"sentence_good": "a", "sentence_bad": "b", "linguistics_term": "x"}, "UID"),
        ("hellaswag", {"ctx_full": "a", "endings": ["b", "c"]}, "label"),
        ("lambada", {"txt": "a b"}, "text"),
    ],
)
def test_items_without_a_column(
    suite: str, row: dict[str, Any], missing: str, run: Run, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    done = run("eval", suite, "--model", str(folder / "gpt"), "--data", str(tmp_path / "x.jsonl"))
    assert (done.code, f"error[BG212]: {suite} needs {missing}" in done.err) == (2, True), done.err


@pytest.mark.parametrize("suite", ["lm", "mlm", "blimp", "cloze", "lambada", "probe"])
def test_weights_with_nan_give_no_score(suite: str, tokenizer: Tokenizer, tmp_path: Path, run: Run) -> None:
    model = save_random_model(tmp_path / "run", "bert" if suite == "mlm" else "gpt2", tokenizer)
    pretrained.save(constant(model, math.nan), tmp_path / "nan" / "final", "#")
    rows = {"blimp": PAIRS, "cloze": CHOICES, "lambada": [{"text": "She found a purse"}]}.get(
        suite, [{"text": "a b c d"}]
    )
    rows = [{"text": f"rain {i}", "label": i % 2} for i in range(40)] if suite == "probe" else rows
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("eval", suite, "--model", str(tmp_path / "nan"), "--data", str(tmp_path / "x.jsonl"))
    assert (done.code, "BG321" in done.err) == (3, True), done.out


def test_intervals_of_one_document(models: dict[str, PretrainedModel]) -> None:
    """Nothing can be said from one: no interval. Of several, tokens are resampled with their document."""
    [one, several] = [perplexity(models["gpt2"], texts, None).scores["loss"] for texts in (TEXTS[:1], TEXTS)]
    assert (one.low, one.high) == (None, None)
    assert several.low is not None
    assert several.low < several.value
    text = "She was glad of the rain. He was happy in the garden of the town. " * 3
    [one, several] = [
        masked_accuracy(models["bert"], texts).scores["accuracy, all"] for texts in ([text], [text, TEXTS[0]])
    ]
    assert (one.low, one.high) == (None, None)
    assert several.low is not None


@pytest.mark.parametrize(
    ("name", "content", "columns", "code"),
    [
        ("x.tsv", "text\tlabel\na\t1\n", ["--text-column", "sentence"], "BG212"),
        ("x.tsv", "text\tsign\na\t1\n", [], "BG212"),
        ("x.tsv", "text\tlabel\na\t1\nb\t-1\n", [], "BG322"),
        ("x.tsv", "text\tlabel\na\n", [], "BG303"),
        ("x.csv", "text,label\n", [], "BG310"),
        ("x.jsonl", '{"text": 1, "label": 0}\n', [], "BG303"),
        ("x.jsonl", "no json\n", [], "BG302"),
        ("x.csv", b"text,label\ncaf\xe9,1\n", [], "BG301"),
        ("x.tsv", "text\tlabel\n" + "same\tone\n" * 30, [], "BG322"),
    ],
)
def test_bad_labeled_files(
    name: str, content: Any, columns: list[str], code: str, run: Run, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run("eval", "probe", "--model", str(folder / "gpt"), "--data", str(file), *columns)
    assert code in done.err
    assert done.code == int(code[2])


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"context": "a", "endings": ["b"], "label": 0}, "BG303"), ({"context": "a", "label": 0}, "BG212"),
        ({"context": "a", "endings": ["b", "c"], "label": 2}, "BG322"),
        ({"context": "a", "endings": ["b", "c"], "label": -1}, "BG322"),
        ({"context": "a", "endings": ["b", ""], "label": 0}, "BG303"),
    ],
)  # fmt: skip
def test_bad_cloze_files(row: dict[str, Any], code: str, run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(CHOICES[0]) + "\n" + json.dumps(row) + "\n")
    done = run("eval", "cloze", "--model", str(folder / "gpt"), "--data", str(tmp_path / "x.jsonl"))
    assert code in done.err


def test_suites_refuse_the_wrong_objective(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert, gpt, data = str(folder / "bert"), str(folder / "gpt"), str(folder / "cloze.jsonl")
    for argv in (["lm", "--model", bert, "--data", "tinyworld"], ["mlm", "--model", gpt, "--data", "tinyworld"],
                 ["cloze", "--model", bert, "--data", data]):  # fmt: skip
        done = run("eval", *argv)
        assert (done.code, "BG222" in done.err) == (2, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "BG223" in run("eval", "lm", "--model", gpt, "--data", "tinyworld").err


def test_exported_model_has_the_same_scores(folder: Path, tmp_path: Path) -> None:
    bertgpt.export(str(folder / "gpt"), out=str(tmp_path / "hf"))
    options = {"data": str(folder / "cloze.jsonl"), "out": str(tmp_path / "out")}
    ours, exported = (
        bertgpt.evaluate("cloze", model=str(model), **options)["results"][0]["scores"]
        for model in (folder / "gpt", tmp_path / "hf")
    )
    assert ours == exported


# --------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize(("suite", "n"), [("hellaswag", 40), ("lambada", 40), ("blimp", 40)])
def test_published_sets(suite: str, n: int, run: Run, folder: Path, data: Path, tmp_path: Path) -> None:
    done = run("eval", suite, "--model", str(folder / "gpt"), "--data", str(data), "--limit", str(n),
               "--out", str(tmp_path), "--json")  # fmt: skip
    assert done.code == 0, done.err
    [result] = json.loads(done.out)["result"]["results"]
    assert (result["n"], result["partial"]) == (n, True)
    assert list(result["metadata"]["data"]) == [file.name for file in (data / suite).iterdir()]


def test_loglikelihoods_match_lm_evaluation_harness(data: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """200 items of each suite, on the exported model, with an end token before each context."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = PretrainedModel(init_model(make_config(64, 2, 2, tokenizer.max_id + 1, GPT2), 0).eval(), tokenizer, "clm")
    pretrained.save(model, tmp_path / "run" / "final", "# a model\n")
    bertgpt.export(str(tmp_path / "run"), out=str(tmp_path / "hf"))
    harness = HFLM(pretrained=str(tmp_path / "hf"), device="cpu", dtype="float32", batch_size=16)
    files = {name: read_records(str(next((data / name).iterdir())))[:200] for name in ("hellaswag", "lambada", "blimp")}
    requests = [(row["ctx_full"], f" {end}") for row in files["hellaswag"] for end in row["endings"]]
    requests += [(row["context"], f" {row['continuation']}") for row in files["lambada"]]
    requests += [("", row[name]) for row in files["blimp"] for name in ("sentence_good", "sentence_bad")]
    end = tokenizer.tokens[tokenizer.eos_id]
    instances = [
        Instance("loglikelihood", {}, (f"{end}{context}" if context else "", continuation), number)
        for number, (context, continuation) in enumerate(requests)
    ]
    expected = harness.loglikelihood(instances, disable_tqdm=True)
    assert len(requests) == 1400
    for ours, (logprob, greedy) in zip(loglikelihood(model, requests), expected, strict=True):
        assert ours.logprob == pytest.approx(logprob, abs=1e-4, rel=0)
        assert ours.greedy == greedy
