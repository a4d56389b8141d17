"""Export to `transformers` and import back: same logits, tokenizer and weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file

import bertgpt
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub import mapping, pretrained, to_hf
from bertgpt.hub.pretrained import ClassificationHead, PretrainedModel
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import lock
from tests.conftest import Outcome
from tests.fixtures.models import FAMILIES, random_classifier, save_random_model

Run = Callable[..., Outcome]


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load(family: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = save_random_model(tmp_path, family, tokenizer)
    loaded = pretrained.load(tmp_path)
    assert loaded.model.config == model.model.config
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    for name, weight in model.model.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_export_loads_in_transformers_and_imports_back(
    family: str, tmp_path: Path, tokenizer: Tokenizer, run: Run, hard_strings: list[str]
) -> None:
    model = save_random_model(tmp_path / "run", family, tokenizer)
    out = tmp_path / "hf"
    done = run("export", str(tmp_path / "run"), "--out", str(out), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["result"]["max_logit_difference"] < 1e-4
    causal = model.objective == "clm"
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    hf_model = auto.from_pretrained(out).eval()
    ids = torch.randint(6, 700, (2, 100), generator=torch.Generator().manual_seed(1))
    assert (hf_model(ids).logits - model.model.logits(model.model(ids, causal=causal))).abs().max() < 1e-4
    hf_tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert hf_tokenizer.model_max_length == 128
    for text in hard_strings:
        if not any(special in text for special in tokenizer.special_tokens):
            assert hf_tokenizer(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    names = {"cls": "cls_token_id", "sep": "sep_token_id", "mask": "mask_token_id", "pad": "pad_token_id"}
    assert {role: getattr(hf_tokenizer, name) for role, name in names.items()} == {r: tokenizer.roles[r] for r in names}
    assert (hf_tokenizer("a lamp")["input_ids"][0] == tokenizer.roles["cls"]) is not causal
    if family == "bert":
        pair = hf_tokenizer("a lamp", "a clock")
        first = pair["input_ids"].index(tokenizer.roles["sep"])
        assert pair["token_type_ids"] == [0] * (first + 1) + [1] * (len(pair["input_ids"]) - first - 1)
    else:
        assert "token_type_ids" not in hf_tokenizer("a lamp")
    if causal:
        text = transformers.pipeline("text-generation", model=hf_model, tokenizer=hf_tokenizer)(
            "The lamp", max_new_tokens=4
        )
        assert text[0]["generated_text"].startswith("The lamp")
    else:
        candidates = transformers.pipeline("fill-mask", model=hf_model, tokenizer=hf_tokenizer)("The [MASK] was old.")
        assert len(candidates) == 5
    done = run("import", str(out), "--out", str(tmp_path / "back"), "--json")
    assert done.code == 0, done.err
    back = pretrained.load(tmp_path / "back")
    assert back.objective == model.objective
    assert back.tokenizer.roles == tokenizer.roles
    assert back.prefix_token == "eos"
    for name, weight in model.model.state_dict().items():
        assert torch.equal(weight, back.model.state_dict()[name]), name
    assert run("export", str(tmp_path / "run"), "--out", str(out)).code == 0  # it exists already


@pytest.mark.parametrize("labels", [(), ("bad", "good", "neither")])
@pytest.mark.parametrize("family", FAMILIES)
def test_exported_classifier_imports_back(
    family: str, labels: tuple[str, ...], tmp_path: Path, tokenizer: Tokenizer, run: Run
) -> None:
    base, texts = save_random_model(tmp_path / "base", family, tokenizer), ["The lamp was old.", "A clock."]
    classifier = random_classifier(base.model, causal=base.objective == "clm", num_labels=len(labels) or 1)
    head = ClassificationHead("sentiment", labels, classifier)
    pretrained.save(PretrainedModel(base.model, tokenizer, base.objective, head=head), tmp_path / "run" / "final", "#")
    for argv in (["export", "run", "--out", "hf"], ["import", "hf", "--out", "back"]):
        done = run(argv[0], str(tmp_path / argv[1]), "--out", str(tmp_path / argv[3]))
        assert done.code == 0, done.err
    models = [bertgpt.load(tmp_path / name) for name in ("run", "hf", "back")]
    expected, *others = [model.classify(texts) for model in models]
    for results in others:
        for result, other in zip(expected, results, strict=True):
            assert result["label"] == other["label"]
            assert other["score"] == pytest.approx(result["score"], abs=1e-5)
    for method in ("generate", "fill_mask", "score", "mask_and_predict"):
        with pytest.raises(BertGPTError, match="was fine-tuned for"):
            getattr(models[2], method)("A [MASK] clock.")


@pytest.mark.parametrize("family", FAMILIES)
def test_export_has_the_positions_of_training(family: str, tmp_path: Path, tokenizer: Tokenizer, run: Run) -> None:
    """A model of 128 positions that was trained on 48: config, position table and tokenizer say 48."""
    model = save_random_model(tmp_path / "base", family, tokenizer)
    short = PretrainedModel(model.model, tokenizer, model.objective, seq_len=48)
    pretrained.save(short, tmp_path / "run" / "final", "#")
    done = run("export", str(tmp_path / "run"), "--out", str(tmp_path / "hf"), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["result"]["max_logit_difference"] < 1e-4
    hf_config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert hf_config.get("n_positions", hf_config.get("max_position_embeddings")) == 48
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf").model_max_length == 48
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    tables = [weight for name, weight in weights.items() if name.endswith(("wpe.weight", "position_embeddings.weight"))]
    assert [len(table) for table in tables] == [48] * (family in ("gpt2", "bert"))
    back = bertgpt.load(tmp_path / "hf").pretrained
    assert (back.max_length, back.model.config.max_seq_len) == (48, 48)


def export_of_others(folder: Path, run: Run) -> None:
    """Export own to hf, without what tells that bertgpt has written it."""
    assert run("export", str(folder / "own"), "--out", str(folder / "hf")).code == 0
    (folder / "hf" / "manifest.json").unlink()


def test_imported_gpt2_generates_what_transformers_does(tmp_path: Path, tokenizer: Tokenizer, run: Run) -> None:
    """No end token before the prompt, unless --prefix-token eos asks for it, as models trained here do."""
    own = save_random_model(tmp_path / "own", "gpt2", tokenizer)
    export_of_others(tmp_path, run)
    assert run("import", str(tmp_path / "hf"), "--out", str(tmp_path / "imported")).code == 0
    ids = torch.tensor([tokenizer.encode("The lamp was old")])
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    expected = hf_model.generate(ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids))

    def generated(model: str, *more: str) -> tuple[list[int], str, str]:
        argv = ["--prompt", "The lamp was old", "--temperature", "0", "--max-new-tokens", "8", "--json", *more]
        done = run("generate", "--model", str(tmp_path / model), *argv)
        result = json.loads(done.out)["result"]
        return result["samples"][0]["tokens"], result["prefix_token"], done.err

    tokens, prefix, notes = generated("imported")
    assert (tokens, prefix, "--prefix-token none" in notes) == (expected[0, ids.size(1) :].tolist(), "none", True)
    assert generated("hf")[0] == tokens
    assert generated("imported", "--prefix-token", "eos") == generated("own")
    assert generated("own")[1] == "eos"
    assert own.prepend_prefix([]) == [tokenizer.eos_id]
    with pytest.raises(BertGPTError, match="no such prefix token"):
        bertgpt.load(tmp_path / "own", prefix_token="bos")


def test_definition_names_the_prefix_token(tmp_path: Path, tokenizer: Tokenizer, run: Run) -> None:
    save_random_model(tmp_path / "own", "gpt2", tokenizer)
    export_of_others(tmp_path, run)
    row = {"context": "The lamp was", "endings": [" old", " a clock"], "label": 0}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    results = {}
    for name, more in (("own", []), ("hf", []), ("hf", ["--prefix-token", "eos"]), ("own", ["--prefix-token", "none"])):
        argv = ["--model", str(tmp_path / name), "--data", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "r")]
        assert run("eval", "cloze", *argv, *more).code == 0
        definition = json.loads((tmp_path / "r" / "cloze.json").read_text())["definition"]
        results[name, *more] = definition, pq.read_table(tmp_path / "r" / "cloze.items.parquet")["logprobs"].to_pylist()
    assert results["own",][0] == "cloze.loglikelihood/1+prefix-eos"
    assert results["hf",][0] == "cloze.loglikelihood/1+prefix-none"
    assert results["hf", "--prefix-token", "eos"] == results["own",]
    assert results["own", "--prefix-token", "none"] == results["hf",]
    assert results["own",] != results["hf",]


def test_import_again_has_nothing_to_do(tmp_path: Path, tokenizer: Tokenizer, run: Run) -> None:
    for family in ("gpt2", "bert"):
        save_random_model(tmp_path / family, family, tokenizer)
        assert run("export", str(tmp_path / family), "--out", str(tmp_path / f"{family}-hf")).code == 0
    gpt2, bert, back = (str(tmp_path / name) for name in ("gpt2-hf", "bert-hf", "back"))
    first, again = run("import", gpt2, "--out", back, "--json"), run("import", gpt2, "--out", back, "--json")
    assert (again.code, again.out) == (0, first.out)
    assert "nothing to do" in again.err
    assert "BG213" in run("import", bert, "--out", back).err
    assert run("import", bert, "--out", back, "--overwrite").code == 0
    assert bertgpt.load(back).pretrained.objective == "mlm"
    with lock(Path(back) / "run.lock", "the run"):
        assert "BG601" in run("import", gpt2, "--out", back, "--overwrite").err


def test_hybrid_is_exported_as_a_causal_model(tmp_path: Path, tokenizer: Tokenizer, run: Run) -> None:
    model = save_random_model(tmp_path, "decoder", tokenizer)
    pretrained.save(PretrainedModel(model.model, tokenizer, "hybrid"), tmp_path / "hybrid" / "final", "# hybrid\n")
    done = run("export", str(tmp_path / "hybrid"), "--out", str(tmp_path / "hf"), "--json")
    assert json.loads(done.out)["result"]["architecture"] == "ModernBertDecoderForCausalLM"
    assert "hybrid" in done.err


def test_export_with_different_logits_is_not_published(
    tmp_path: Path, tokenizer: Tokenizer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_random_model(tmp_path / "run", "bert", tokenizer)
    monkeypatch.setattr(to_hf, "to_hf_config", lambda *args: mapping.to_hf_config(*args) | {"layer_norm_eps": 0.1})
    done = run("export", str(tmp_path / "run"), "--out", str(tmp_path / "hf"), "--json")
    assert json.loads(done.out)["error"]["code"] == "BG319"
    assert not (tmp_path / "hf").exists()


def change_config(folder: Path, **changes: Any) -> None:
    hf_config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(hf_config | changes))


def test_unsupported_and_corrupt_models_are_refused(tmp_path: Path, tokenizer: Tokenizer, run: Run) -> None:
    save_random_model(tmp_path / "run", "gpt2", tokenizer)
    assert run("export", str(tmp_path / "run"), "--out", str(tmp_path / "hf")).code == 0

    def code(*argv: str) -> tuple[int, str]:
        done = run(*argv, "--json")
        return done.code, json.loads(done.out)["error"]["code"]

    assert code("export", str(tmp_path / "run"), "--to", "bin", "--out", str(tmp_path / "x")) == (2, "BG204")
    change_config(tmp_path / "hf", activation_function="relu")
    assert code("import", str(tmp_path / "hf"), "--out", str(tmp_path / "a")) == (2, "BG218")
    change_config(tmp_path / "hf", activation_function="gelu_new", vocab_size=300)
    assert code("import", str(tmp_path / "hf"), "--out", str(tmp_path / "a")) == (2, "BG219")
    change_config(tmp_path / "hf", vocab_size=tokenizer.max_id + 1, n_layer=5)
    assert code("import", str(tmp_path / "hf"), "--out", str(tmp_path / "a")) == (3, "BG318")
    change_config(tmp_path / "hf", n_layer=4, model_type="mamba")
    assert code("import", str(tmp_path / "hf"), "--out", str(tmp_path / "a")) == (2, "BG218")
    hf = tmp_path / "hf"
    (hf / "model.safetensors").write_bytes(b"no tensors")
    change_config(hf, model_type="gpt2")
    assert code("import", str(hf), "--out", str(tmp_path / "a")) == (3, "BG318")
    (hf / "config.json").write_text('{"model_type": "gpt2"}')
    assert code("import", str(hf), "--out", str(tmp_path / "a")) == (3, "BG318")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert code("import", str(tmp_path / "pickled"), "--out", str(tmp_path / "a")) == (2, "BG220")
    assert "safetensors" in run("import", str(tmp_path / "pickled"), "--out", str(tmp_path / "a")).err
    weights = tmp_path / "run" / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert code("export", str(tmp_path / "run"), "--out", str(tmp_path / "y")) == (3, "BG305")
