"""Mask filling, and masked predictions on a text."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import bertgpt
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.data.tokenizers.train import train_tokenizer
from bertgpt.hub.pretrained import PretrainedModel, load
from bertgpt.inference.fill_mask import FillMask, append_token, encode_with_masks, sample_mask_positions
from bertgpt.inference.language_model import LanguageModel
from tests.conftest import Outcome
from tests.fixtures.models import save_random_model

Run = Callable[..., Outcome]
TEXT = "The [MASK] found a rusty [MASK]. She was [MASK]"


def test_filled_masks_match_transformers(runs: Path, tmp_path: Path, run: Run) -> None:
    """The same candidates with the same probabilities, for several masks in a text."""
    bertgpt.export(str(runs / "bert"), out=str(tmp_path / "hf"))
    hf_model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    model = load(runs / "bert")
    ids = model.add_cls_sep(encode_with_masks(model.tokenizer, TEXT))
    with torch.no_grad():
        probs = hf_model(torch.tensor([ids])).logits[0].softmax(dim=1)
    positions = [position for position, i in enumerate(ids) if i == model.tokenizer.roles["mask"]]
    [sample] = json.loads(
        run("generate", "--model", str(runs / "bert"), "--prompt", TEXT, "--json", "--candidates", "3").out
    )["result"]["samples"]
    assert len(positions) == len(sample["masks"]) == 3
    for position, mask in zip(positions, sample["masks"], strict=True):
        top = probs[position].topk(3)
        assert [each["token"] for each in mask["candidates"]] == top.indices.tolist()
        assert [each["score"] for each in mask["candidates"]] == pytest.approx(top.values.tolist(), abs=1e-4)
        ids[position] = int(top.indices[0])
    assert sample["text"] == model.tokenizer.decode(ids[1:-1])


def test_mask_takes_the_space_before_it_as_words_do(tokenizer: Tokenizer) -> None:
    wordpiece = train_tokenizer("wordpiece", 300, ["the dog is here"] * 9)
    for each in (tokenizer, wordpiece):
        mask = each.roles["mask"]
        ids = encode_with_masks(each, "the [MASK] is [MASK][MASK]here")
        assert ids == [*each.encode("the"), mask, *each.encode(" is"), mask, mask, *each.encode("here")]
    assert encode_with_masks(tokenizer, "[MASK] is") == [tokenizer.roles["mask"], *tokenizer.encode(" is")]


def test_hybrid_predicts_a_mask_from_the_position_before(runs: Path) -> None:
    model = load(runs / "both")
    ids = model.add_cls_sep(encode_with_masks(model.tokenizer, TEXT))
    with torch.no_grad():
        logits = model.model.logits(model.model(torch.tensor([ids]), causal=False))[0]
    positions = [position for position, i in enumerate(ids) if i == model.tokenizer.roles["mask"]]
    [result] = bertgpt.load(str(runs / "both")).fill_mask(TEXT, candidates=1)
    logits[:, model.suppressed_ids()] = -torch.inf  # special tokens are never predicted
    wanted = logits[[position - 1 for position in positions]].argmax(dim=1).tolist()
    assert [mask["candidates"][0]["token"] for mask in result["masks"]] == wanted
    samples = bertgpt.generate(model=str(runs / "both"), prompt="She", max_new_tokens=2)["samples"]
    assert len(samples[0]["tokens"]) == 2


def test_masks_of_a_long_text_are_filled_from_the_text_around_them(runs: Path) -> None:
    """A context of 128, and masks at the beginning, middle and end of a text of about 600 tokens."""
    model = load(runs / "bert")
    words = ["sun "] * 300
    for index in (0, 150, 299):
        words[index] = "[MASK] "
    [result] = bertgpt.load(str(runs / "bert")).fill_mask("".join(words), candidates=1)
    ids = encode_with_masks(model.tokenizer, "".join(words))
    mask_id = model.tokenizer.roles["mask"]
    positions = [position for position, i in enumerate(ids) if i == mask_id]
    assert len(ids) > 250
    for position, mask in zip(positions, result["masks"], strict=True):
        first = min(max(0, position - 63), len(ids) - 126)
        with torch.no_grad():
            hidden = model.model(torch.tensor([model.add_cls_sep(ids[first : first + 126])]), causal=False)
        wanted = int(model.model.logits(hidden)[0, position - first + 1].argmax())
        assert mask["candidates"][0]["token"] == wanted


def always_predict(model: PretrainedModel, token: int) -> None:
    """Change the bias of a model so that it predicts this token at every mask."""
    with torch.no_grad():
        model.model.lm_bias[token] += 1000
    model.model.prepack_weights()


def test_masked_prediction_counts_and_displays_correct_predictions(run: Run, runs: Path, tmp_path: Path) -> None:
    text = "There was a hard frost in the clock shop, and the tall engineer was the first to come. " * 12
    text = text.strip()
    argv = ["generate", "--model", str(runs / "bert"), "--mask-text", text]
    result = json.loads(run(*argv, "--json").out)["result"]["masked_prediction"]
    model = load(runs / "bert")
    ids = model.tokenizer.encode(text)
    assert len(ids) > 128  # several segments
    assert 0.1 * len(ids) < len(result["masks"]) <= 0.15 * len(ids) + 3
    assert [ids[mask["position"]] for mask in result["masks"]] == [mask["label"] for mask in result["masks"]]
    for mask in result["masks"]:
        assert (mask["prediction"], mask["prob"]) == (mask["candidates"][0]["token"], mask["candidates"][0]["score"])
        assert mask["correct"] == (mask["prediction"] == mask["label"])
    assert "".join(segment["text"] for segment in result["segments"]) == text
    the = model.tokenizer.encode(" the")[0]
    always_predict(model, the)
    easy = FillMask().mask_and_predict(model, text)
    correct = [mask["label"] == the for mask in easy["masks"]]
    assert [mask["correct"] for mask in easy["masks"]] == correct
    assert easy["accuracy"] == sum(correct) / len(correct) > 0
    printed = run(*argv).out
    wrong = [segment for segment in result["segments"] if segment.get("correct") is False]
    assert printed.count(": ") >= len(wrong) > 0
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8")
    assert json.loads(run(*argv[:-1], str(file), "--json").out)["result"]["masked_prediction"] == result
    other = json.loads(run(*argv, "--seed", "5", "--json").out)["result"]["masked_prediction"]
    assert [mask["position"] for mask in other["masks"]] != [mask["position"] for mask in result["masks"]]
    assert "too short" in run(*argv[:-1], "so").err


def test_whole_words_are_masked(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" extraordinarily unbelievable clockmakers wonderfully astonished everybody" * 6)
    is_start = [*tokenizer.starts_word[ids].tolist(), True]
    masked = set(sample_mask_positions(tokenizer, ids, 0, seed=1))
    assert masked
    word: list[int] = []
    for position in range(len(ids)):
        word.append(position)
        if is_start[position + 1]:
            assert len(masked & set(word)) in (0, len(word))
            word = []


def test_control_characters_are_escaped(run: Run, runs: Path) -> None:
    done = run("generate", "--model", str(runs / "bert"), "--prompt", "\x1b[31m [bold] \u202e [MASK]")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    assert "[bold]" in done.out


def test_text_outside_masks_is_unchanged(runs: Path, tmp_path: Path) -> None:
    """Also where the tokenizer lower-cases, and encodes some words as unknown."""
    model = bertgpt.load(str(runs / "bert"))
    assert model.fill_mask("The dog") == [{"prompt": "The dog", "text": "The dog", "masks": []}]
    wordpiece = train_tokenizer("wordpiece", 300, ["the dog is here and sleeps"] * 9)
    text = "The Zebra's [MASK] quizzed 日本 in Tarn. [MASK]"
    [result] = LanguageModel(save_random_model(tmp_path, "bert", wordpiece)).fill_mask(text)
    first, second = (mask["candidates"][0]["token_str"] for mask in result["masks"])
    wanted = append_token(wordpiece, "The Zebra's ", first) + " quizzed 日本 in Tarn. "
    assert result["text"] == append_token(wordpiece, wanted, second)


def test_missing_file_and_prompt_beside_mask_text_are_refused(run: Run, runs: Path) -> None:
    done = run("generate", "--model", str(runs / "bert"), "--mask-text", "missing.txt")
    assert (done.code, "no such file" in done.err) == (2, True)
    both = run("generate", "--model", str(runs / "bert"), "--mask-text", "a text of some words", "--prompt", "a")
    assert both.code == 2


def test_word_of_several_tokens_is_one_segment(runs: Path) -> None:
    text = "The extraordinarily wonderful clockmakers astonished everybody, unbelievably. " * 5
    result = bertgpt.load(str(runs / "bert")).mask_and_predict(text)
    masked = [segment for segment in result["segments"] if "prediction" in segment]
    assert len(masked) < len(result["masks"])
    assert all(word.strip(" .,") in text.split() or word.strip(" .,") == "" or word.strip() in text
               for word in (segment["text"] for segment in masked))  # fmt: skip
    assert "�" not in "".join(segment["text"] for segment in result["segments"])
