"""The suites: on constant models, against transformers, and on what is wrong."""

import json
import math
import os
import subprocess
import sys
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
from bertgpt.evals.compare import compare_results
from bertgpt.evals.language import masked_accuracy, perplexity
from bertgpt.evals.probe import Parts, probe
from bertgpt.evals.requests import encode_pair, loglikelihood
from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.evals.tables import read_records
from bertgpt.evals.tasks import LabelledSplit
from bertgpt.hub import pretrained
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference import batching
from bertgpt.training.init import init_model
from bertgpt.utils.errors import BertGPTError
from tests.conftest import Outcome
from tests.fixtures.models import written

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
    return {name: written(folder / name, name, tokenizer) for name in ("gpt2", "decoder", "bert", "encoder")}


def constant(kept: PretrainedModel, value: float) -> PretrainedModel:
    """A model to which everything is equally likely, or nothing is a number."""
    with torch.no_grad():
        for weight in kept.model.parameters():
            weight.fill_(value)
    return kept


# --------------------------------------------------------------------------------------- what scores mean


def test_a_model_that_knows_nothing_scores_chance(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Ties count their share: texts of as many tokens are equally likely to it."""
    kept = constant(written(tmp_path, "gpt2", tokenizer), 0.0)
    same = [{"context": "a", "endings": ["b", "c", "d", "e"], "label": label} for label in (0, 1, 2, 3)]
    found = multiple_choice(kept, same, "hellaswag")
    assert {name: score.value for name, score in found.scores.items()} == dict.fromkeys(found.scores, 0.25)
    twins = [dict(PAIRS[0], sentence_bad="She was glad!"), dict(PAIRS[1], sentence_bad="The dogs sleep!")]
    for objective in ("clm", "mlm"):
        assert blimp(PretrainedModel(kept.model, tokenizer, objective), twins).scores["accuracy"].value == 0.5
    told = perplexity(kept, TEXTS, None)
    assert told.scores["loss"].value == pytest.approx(math.log(kept.model.config.vocab_size), rel=1e-5)


def test_what_is_not_a_number_is_no_answer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    kept = constant(written(tmp_path, "gpt2", tokenizer), math.nan)
    for ask in (lambda: multiple_choice(kept, CHOICES, "cloze"), lambda: blimp(kept, PAIRS)):
        with pytest.raises(BertGPTError, match="not a number") as raised:
            ask()
        assert raised.value.code == "BG321"
    with pytest.raises(BertGPTError, match="not numbers"):
        probe(kept, labelled(), "probe", full=False)


def test_the_best_of_some() -> None:
    assert [tie_credit([1.0, 2.0], right) for right in (0, 1)] == [0.0, 1.0]
    assert [tie_credit([3.0, 3.0, 1.0, 3.0], right) for right in (0, 2)] == [1 / 3, 0.0]


@torch.inference_mode()
def test_answers_are_sums_over_the_tokens_of_a_continuation(models: dict[str, PretrainedModel]) -> None:
    """Encoded together with what is before it, from one end id on; what is too long loses its beginning."""
    kept = models["gpt2"]
    long = "She was glad of the rain. " * 40
    requests = [("There was a", " hard frost"), ("There was a ", "hard frost"), ("", "Olive"), (long, " and rain")]
    for (context, continuation), answer in zip(requests, loglikelihood(kept, requests), strict=True):
        before, after = encode_pair(kept, context, continuation)
        row = torch.tensor([[kept.tokenizer.eos_id, *before, *after][-(kept.max_length + 1) :]])
        odds = kept.model.logits(kept.model(row[:, :-1], causal=True))[0].log_softmax(dim=1)[-len(after) :]
        wanted = sum(float(odds[n, i]) for n, i in enumerate(after))
        assert answer.logprob == pytest.approx(wanted, abs=1e-3)
        assert answer.tokens == len(after)
        assert answer.greedy == (odds.argmax(dim=1).tolist() == after)
    first, second = loglikelihood(kept, requests[:2])
    assert first == second  # a space belongs to the word behind it


def test_a_continuation_is_encoded_with_what_is_before_it(models: dict[str, PretrainedModel]) -> None:
    """Where both are parts of a word, its ids are not those that either has alone."""
    kept = models["gpt2"]
    encode = kept.tokenizer.encode
    before, after = encode_pair(kept, "She was gla", "d of the rain")
    assert after == encode("She was glad of the rain")[len(encode("She was gla")) :] != encode("d of the rain")
    assert before == encode("She was gla")


@pytest.mark.parametrize("name", ["gpt2", "decoder", "bert", "encoder"])
def test_company_changes_no_score(
    name: str, models: dict[str, PretrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is in a batch, and however it is filled up."""
    kept = models[name]

    def all_of_it() -> list[float]:
        made = [blimp(kept, PAIRS).items["good"]]
        if kept.objective == "clm":
            made += [
                perplexity(kept, TEXTS, 16).items["nats"],
                *multiple_choice(kept, CHOICES, "cloze").items["logprobs"],
            ]
        else:
            made.append(masked_accuracy(kept, TEXTS).items["correct"])
        return [value for each in made for value in each]

    together = all_of_it()
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 1)
    assert all_of_it() == pytest.approx(together, abs=1e-4, rel=1e-5)


def test_bits_per_byte_are_of_the_texts_bytes(models: dict[str, PretrainedModel], tmp_path: Path) -> None:
    """And there are none where a tokenizer does not keep the text."""
    from bertgpt.data.tokenizers.train import train_tokenizer

    found = perplexity(models["gpt2"], TEXTS, None)
    assert found.items["bytes"] == [len(text.encode()) for text in TEXTS]
    wanted = sum(found.items["nats"]) / math.log(2) / sum(found.items["bytes"])
    assert found.scores["bits_per_byte"].value == pytest.approx(wanted)
    pieces = train_tokenizer("wordpiece", 300, TEXTS * 20)
    lossy = perplexity(written(tmp_path, "gpt2", pieces), TEXTS, None)
    assert "bits_per_byte" not in lossy.scores
    assert any("does not keep the text" in note for note in lossy.notes)


def test_masked_accuracies_are_by_what_stands_there(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A model that repeats what it sees finds what was left as it was, and nothing else."""
    kept = written(tmp_path, "bert", tokenizer)
    model = constant(kept, 0.0).model
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
    found = masked_accuracy(kept, [text])
    scores = {name: score.value for name, score in found.scores.items()}
    assert scores["accuracy of the mask"] < 0.05
    assert scores["accuracy of other"] < 0.1
    assert scores["accuracy of kept"] > 0.5
    shares = [sum(found.items["targets"])]
    assert shares[0] == pytest.approx(0.15 * 5 * len(tokenizer.encode(text)), rel=0.05)


# -------------------------------------------------------------------------------------------------- probes


def labelled(count: int = 200) -> Parts:
    texts = [f"{'rain and frost' if i % 2 else 'a purse and a clock'} number {i}" for i in range(count)]
    labels = ["weather" if i % 2 else "things" for i in range(count)]
    cut = count * 3 // 4
    return LabelledSplit(texts[:cut], None, labels[:cut]), LabelledSplit(texts[cut:], None, labels[cut:])


def test_a_probe_finds_what_is_there_and_shuffled_labels_nothing(models: dict[str, PretrainedModel]) -> None:
    found = probe(models["bert"], labelled(), "probe", full=False)
    assert found.scores["accuracy"].value > 0.9
    assert found.baselines["tf-idf"].value == 1.0
    assert found.baselines["majority"].value == 0.5
    assert 0.2 < found.baselines["shuffled labels"].value < 0.8
    assert found.scores["exact variant (pooled, not scaled)"].value > 0.5
    assert found.n == len(found.items["correct"]) == 50


def test_in_full_every_layer_and_fewer_texts_are_asked(models: dict[str, PretrainedModel]) -> None:
    found = probe(models["bert"], labelled(400), "probe", full=True)
    assert {f"layer {layer}" for layer in range(5)} <= found.scores.keys()
    assert "accuracy of 100" in found.scores
    last, quick = found.scores["layer 4"].value, probe(models["bert"], labelled(400), "probe", full=False)
    assert last == quick.scores["accuracy"].value


def test_a_classifier_that_does_not_converge_is_no_score(
    models: dict[str, PretrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertgpt.evals.probe.ITERATIONS", 1)
    with pytest.raises(BertGPTError, match="does not converge") as raised:
        probe(models["bert"], labelled(), "probe", full=False)
    assert raised.value.code == "BG323"


def test_few_texts_of_many_classes_are_probed(models: dict[str, PretrainedModel]) -> None:
    """A tenth of them, which strengths are chosen by, would not hold each class."""
    texts = [f"number {i} of {i % 6}" for i in range(36)]
    part = LabelledSplit(texts, None, [str(i % 6) for i in range(36)])
    assert probe(models["bert"], (part, part), "probe", full=False).n == 36


def test_what_cannot_be_probed_is_said(models: dict[str, PretrainedModel]) -> None:
    train, test = labelled()
    with pytest.raises(BertGPTError, match="one class only"):
        probe(models["bert"], (LabelledSplit(train.texts, None, ["x"] * 150), test), "probe", full=False)
    with pytest.raises(BertGPTError, match="not in the training part"):
        probe(models["bert"], (train, LabelledSplit(test.texts, None, ["other"] * 50)), "probe", full=False)


# --------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, models: dict[str, PretrainedModel]) -> Path:
    """Runs gpt and bert, and files to ask about."""
    made = tmp_path_factory.mktemp("eval")
    for name, family in (("gpt", "gpt2"), ("bert", "bert")):
        pretrained.save(models[family], made / name / "final", "# a model\n")
    (made / "cloze.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHOICES))
    (made / "labels.tsv").write_text("text\tlabel\n" + "".join(f"rain {i}\t{i % 2}\n" for i in range(60)))
    return made


def test_the_same_model_and_data_give_the_same_bytes(run: Run, folder: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        argv = ["eval", "cloze", "--model", str(folder / "gpt"), "--data", str(folder / "cloze.jsonl")]
        done = run(*argv, "--out", str(tmp_path / out), "--json")
        assert done.code == 0, done.err
    assert (tmp_path / "one" / "cloze.json").read_bytes() == (tmp_path / "two" / "cloze.json").read_bytes()
    result = json.loads((tmp_path / "one" / "cloze.json").read_text())
    assert json.loads(done.out)["result"]["found"] == [result]
    assert result["n"] == 3
    assert not result["partial"]
    assert {"weights", "tokenizer", "data", "precision"} == result["facts"].keys()
    table = pq.read_table(tmp_path / "one" / "cloze.items.parquet").to_pydict()
    assert sum(table["acc"]) / 3 == pytest.approx(result["scores"]["acc"]["value"], abs=1e-6)
    limited = run(*argv, "--out", str(tmp_path / "two"), "--limit", "2")
    assert "PARTIAL, 2 items" in limited.out


def test_two_models_are_compared_on_the_same_items(run: Run, folder: Path, tmp_path: Path) -> None:
    for name in ("gpt", "bert"):
        for argv in (["probe", "--data", str(folder / "labels.tsv")], ["tinyworld", "--limit", "6"]):
            done = run("eval", *argv, "--model", str(folder / name), "--out", str(tmp_path / name))
            assert (done.code, "other weights" in done.err) == (0, False), done.err
    told = run("eval", "compare", str(tmp_path / "gpt"), str(tmp_path / "bert"))
    assert "not distinguishable" in told.out
    words = [line.split()[:2] for line in told.out.splitlines()]
    assert [["tinyworld", task] in words for task in ("topic", "sentiment", "acceptability", "cloze")] == [
        True, True, True, False,  # which a BERT cannot be asked
    ]  # fmt: skip
    assert run("eval", "compare", str(tmp_path / "gpt")).code == 2
    argv = ["eval", "probe", "--model", str(folder / "bert"), "--data", str(folder / "labels.tsv"), "--limit", "40"]
    run(*argv, "--out", str(tmp_path / "bert"))
    argv[3] = str(folder / "gpt")
    assert "probe.json was of other weights, and is replaced" in run(*argv, "--out", str(tmp_path / "bert")).err
    assert "BG324" in run("eval", "compare", str(tmp_path / "gpt"), str(tmp_path / "bert")).err
    assert run("eval", "compare", str(tmp_path / "gpt"), str(folder)).code == 2


def test_the_better_of_two_is_named(tmp_path: Path) -> None:
    """More that is right, fewer bits."""
    worse = {"probe": {"correct": [False, True] * 20}, "lm": {"nats": [9.0, 7.0] * 20, "bytes": [2, 3] * 20}}
    better = {"probe": {"correct": [True] * 40}, "lm": {"nats": [5.0, 6.0] * 20, "bytes": [2, 3] * 20}}
    for name, told in (("worse", worse), ("better", better)):
        for suite, items in told.items():
            EvalResult(suite, "x/1", 40, {"score": ScoreWithInterval(0.5)}, items=items, facts={"data": {}}).save(
                tmp_path / name, 0.0
            )
    for one, other, verdict in (("worse", "better", "B"), ("better", "worse", "A")):
        found = compare_results(tmp_path / one, tmp_path / other)
        assert [each["suite"] for each in found] == ["lm", "probe"]
        assert {each["verdict"] for each in found} == {f"{verdict} is better"}
    bits = next(each for each in compare_results(tmp_path / "worse", tmp_path / "better") if each["suite"] == "lm")
    assert bits["a"] == pytest.approx(16 / 5 / math.log(2))


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
def test_bad_labelled_files(
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
def test_bad_choices(row: dict[str, Any], code: str, run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(CHOICES[0]) + "\n" + json.dumps(row) + "\n")
    done = run("eval", "cloze", "--model", str(folder / "gpt"), "--data", str(tmp_path / "x.jsonl"))
    assert code in done.err


def test_suites_refuse_the_other_kind_of_model(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F44."""
    bert, gpt, data = str(folder / "bert"), str(folder / "gpt"), str(folder / "cloze.jsonl")
    for argv in (["lm", "--model", bert, "--data", "tinyworld"], ["mlm", "--model", gpt, "--data", "tinyworld"],
                 ["cloze", "--model", bert, "--data", data]):  # fmt: skip
        done = run("eval", *argv)
        assert (done.code, "BG222" in done.err) == (2, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "BG223" in run("eval", "lm", "--model", gpt, "--data", "tinyworld").err


def test_a_model_of_transformers_has_the_same_scores(folder: Path, tmp_path: Path) -> None:
    bertgpt.export(str(folder / "gpt"), out=str(tmp_path / "hf"))
    ask = {"data": str(folder / "cloze.jsonl")}
    ours, theirs = (
        bertgpt.evaluate("cloze", model=str(model), out=str(tmp_path / "out"), **ask)["found"][0]["scores"]
        for model in (folder / "gpt", tmp_path / "hf")
    )
    assert ours == theirs


# --------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize(("suite", "n"), [("hellaswag", 40), ("lambada", 40), ("blimp", 40)])
def test_published_sets(suite: str, n: int, run: Run, folder: Path, data: Path, tmp_path: Path) -> None:
    done = run("eval", suite, "--model", str(folder / "gpt"), "--data", str(data), "--limit", str(n),
               "--out", str(tmp_path), "--json")  # fmt: skip
    assert done.code == 0, done.err
    [found] = json.loads(done.out)["result"]["found"]
    assert (found["n"], found["partial"]) == (n, True)
    assert list(found["facts"]["data"]) == [file.name for file in (data / suite).iterdir()]


def test_log_likelihoods_are_those_of_the_evaluation_harness(data: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """200 items of each on the exported model; an end id stands before every context there too."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    kept = PretrainedModel(init_model(make_config(64, 2, 2, tokenizer.max_id + 1, GPT2), 0).eval(), tokenizer, "clm")
    pretrained.save(kept, tmp_path / "run" / "final", "# a model\n")
    bertgpt.export(str(tmp_path / "run"), out=str(tmp_path / "hf"))
    harness = HFLM(pretrained=str(tmp_path / "hf"), device="cpu", dtype="float32", batch_size=16)
    files = {name: read_records(str(next((data / name).iterdir())))[:200] for name in ("hellaswag", "lambada", "blimp")}
    requests = [(row["ctx_full"], f" {end}") for row in files["hellaswag"] for end in row["endings"]]
    requests += [(row["context"], f" {row['continuation']}") for row in files["lambada"]]
    requests += [("", row[name]) for row in files["blimp"] for name in ("sentence_good", "sentence_bad")]
    end = tokenizer.tokens[tokenizer.eos_id]
    asked = [
        Instance("loglikelihood", {}, (f"{end}{context}" if context else "", continuation), number)
        for number, (context, continuation) in enumerate(requests)
    ]
    theirs = harness.loglikelihood(asked, disable_tqdm=True)
    assert len(requests) == 1400
    for ours, (logprob, greedy) in zip(loglikelihood(kept, requests), theirs, strict=True):
        assert ours.logprob == pytest.approx(logprob, abs=1e-4, rel=0)
        assert ours.greedy == greedy


def test_linear_models_take_one_thread_however_many_there_are() -> None:
    """Of every library of products, those too that only such a model loads: or sums would depend on the machine."""
    code = """if True:
        from threadpoolctl import threadpool_info
        from bertgpt.evals.probe import on_one_core
        with on_one_core():
            print([library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"])
    """
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    threads = json.loads(done.stdout)
    assert len(threads) > 1
    assert set(threads) == {1}
