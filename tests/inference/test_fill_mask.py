"""Gaps filled by models that look both ways."""

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
from tests.fixtures.models import written

Run = Callable[..., Outcome]
TEXT = "The [MASK] found a rusty [MASK]. She was [MASK]"


def test_gaps_are_filled_as_transformers_fills_them(runs: Path, tmp_path: Path, run: Run) -> None:
    """The same candidates with the same probabilities, all gaps of a text at once."""
    bertgpt.export(str(runs / "bert"), out=str(tmp_path / "hf"))
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    kept = load(runs / "bert")
    ids = kept.add_cls_sep(encode_with_masks(kept.tokenizer, TEXT))
    with torch.no_grad():
        odds = theirs(torch.tensor([ids])).logits[0].softmax(dim=1)
    gaps = [place for place, i in enumerate(ids) if i == kept.tokenizer.roles["mask"]]
    [found] = json.loads(
        run("generate", "--model", str(runs / "bert"), "--prompt", TEXT, "--json", "--candidates", "3").out
    )["result"]["samples"]
    assert len(gaps) == len(found["masks"]) == 3
    for gap, mask in zip(gaps, found["masks"], strict=True):
        best = odds[gap].topk(3)
        assert [each["token"] for each in mask["candidates"]] == best.indices.tolist()
        assert [each["score"] for each in mask["candidates"]] == pytest.approx(best.values.tolist(), abs=1e-4)
        ids[gap] = int(best.indices[0])
    assert found["text"] == kept.tokenizer.decode(ids[1:-1])


def test_the_mask_takes_the_space_before_it_as_words_do(tokenizer: Tokenizer) -> None:
    pieces = train_tokenizer("wordpiece", 300, ["the dog is here"] * 9)
    for each in (tokenizer, pieces):
        mask = each.roles["mask"]
        found = encode_with_masks(each, "the [MASK] is [MASK][MASK]here")
        assert found == [*each.encode("the"), mask, *each.encode(" is"), mask, mask, *each.encode("here")]
    assert encode_with_masks(tokenizer, "[MASK] is") == [tokenizer.roles["mask"], *tokenizer.encode(" is")]


def test_a_hybrid_answers_from_the_position_before(runs: Path) -> None:
    kept = load(runs / "both")
    ids = kept.add_cls_sep(encode_with_masks(kept.tokenizer, TEXT))
    with torch.no_grad():
        logits = kept.model.logits(kept.model(torch.tensor([ids]), causal=False))[0]
    gaps = [place for place, i in enumerate(ids) if i == kept.tokenizer.roles["mask"]]
    [found] = bertgpt.load(str(runs / "both")).fill_mask(TEXT, candidates=1)
    logits[:, kept.suppressed_ids()] = -torch.inf  # special ids are no part of a text
    wanted = logits[[gap - 1 for gap in gaps]].argmax(dim=1).tolist()
    assert [mask["candidates"][0]["token"] for mask in found["masks"]] == wanted
    goes_on = bertgpt.generate(model=str(runs / "both"), prompt="She", max_new_tokens=2)["samples"]
    assert len(goes_on[0]["tokens"]) == 2


def test_gaps_of_a_long_text_are_each_seen_with_what_is_around_them(runs: Path) -> None:
    """128 positions: a gap at the beginning, in the midst, and at the end of 600."""
    kept = load(runs / "bert")
    words = ["sun "] * 300
    for place in (0, 150, 299):
        words[place] = "[MASK] "
    [found] = bertgpt.load(str(runs / "bert")).fill_mask("".join(words), candidates=1)
    ids = encode_with_masks(kept.tokenizer, "".join(words))
    mask = kept.tokenizer.roles["mask"]
    gaps = [place for place, i in enumerate(ids) if i == mask]
    assert len(ids) > 250
    for gap, filled in zip(gaps, found["masks"], strict=True):
        first = min(max(0, gap - 63), len(ids) - 126)
        with torch.no_grad():
            hidden = kept.model(torch.tensor([kept.add_cls_sep(ids[first : first + 126])]), causal=False)
        wanted = int(kept.model.logits(hidden)[0, gap - first + 1].argmax())
        assert filled["candidates"][0]["token"] == wanted


def knows(kept: PretrainedModel, ids: list[int]) -> None:
    """A model that fills every gap with the first of these ids."""
    with torch.no_grad():
        kept.model.lm_bias[ids[0]] += 1000
    kept.model.prepack_weights()


def test_a_quiz_counts_what_is_found_and_marks_it(run: Run, runs: Path, tmp_path: Path) -> None:
    text = "There was a hard frost in the clock shop, and the tall engineer was the first to come. " * 12
    text = text.strip()
    argv = ["generate", "--model", str(runs / "bert"), "--mask-text", text]
    quiz = json.loads(run(*argv, "--json").out)["result"]["masked_prediction"]
    kept = load(runs / "bert")
    ids = kept.tokenizer.encode(text)
    assert len(ids) > 128  # several rows
    assert 0.1 * len(ids) < len(quiz["masks"]) <= 0.15 * len(ids) + 3
    assert [ids[mask["position"]] for mask in quiz["masks"]] == [mask["label"] for mask in quiz["masks"]]
    assert "".join(segment["text"] for segment in quiz["segments"]) == text
    knows(kept, kept.tokenizer.encode(" the"))
    easy = FillMask().mask_and_predict(kept, text)
    right = [mask["label"] == kept.tokenizer.encode(" the")[0] for mask in easy["masks"]]
    assert [mask["correct"] for mask in easy["masks"]] == right
    assert easy["accuracy"] == sum(right) / len(right) > 0
    shown = run(*argv).out
    wrong = [segment for segment in quiz["segments"] if segment.get("correct") is False]
    assert shown.count(": ") >= len(wrong) > 0
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8")
    assert json.loads(run(*argv[:-1], str(file), "--json").out)["result"]["masked_prediction"] == quiz
    again = json.loads(run(*argv, "--seed", "5", "--json").out)["result"]["masked_prediction"]
    assert [mask["position"] for mask in again["masks"]] != [mask["position"] for mask in quiz["masks"]]
    assert "too short" in run(*argv[:-1], "so").err


def test_whole_words_are_hidden(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" extraordinarily unbelievable clockmakers wonderfully astonished everybody" * 6)
    begins = [*tokenizer.starts_word[ids].tolist(), True]
    hidden = set(sample_mask_positions(tokenizer, ids, 0, seed=1))
    assert hidden
    word: list[int] = []
    for place in range(len(ids)):
        word.append(place)
        if begins[place + 1]:
            assert len(hidden & set(word)) in (0, len(word))
            word = []


def test_what_drives_a_terminal_is_escaped(run: Run, runs: Path) -> None:
    done = run("generate", "--model", str(runs / "bert"), "--prompt", "\x1b[31m [bold] \u202e [MASK]")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    assert "[bold]" in done.out


def test_a_text_without_a_gap_is_as_it_was_and_the_rest_of_one_too(runs: Path, tmp_path: Path) -> None:
    """Also where the tokenizer lower-cases, and knows some of its words only as unknown."""
    model = bertgpt.load(str(runs / "bert"))
    assert model.fill_mask("The dog") == [{"prompt": "The dog", "text": "The dog", "masks": []}]
    pieces = train_tokenizer("wordpiece", 300, ["the dog is here and sleeps"] * 9)
    text = "The Zebra's [MASK] quizzed 日本 in Tarn. [MASK]"
    [found] = LanguageModel(written(tmp_path, "bert", pieces)).fill_mask(text)
    first, second = (mask["candidates"][0]["token_str"] for mask in found["masks"])
    wanted = append_token(pieces, "The Zebra's ", first) + " quizzed 日本 in Tarn. "
    assert found["text"] == append_token(pieces, wanted, second)


def test_a_file_that_is_not_there_is_no_text(run: Run, runs: Path) -> None:
    done = run("generate", "--model", str(runs / "bert"), "--mask-text", "missing.txt")
    assert (done.code, "no such file" in done.err) == (2, True)
    both = run("generate", "--model", str(runs / "bert"), "--mask-text", "a text of some words", "--prompt", "a")
    assert both.code == 2


def test_a_word_of_several_tokens_is_one_gap_for_who_reads(runs: Path) -> None:
    text = "The extraordinarily wonderful clockmakers astonished everybody, unbelievably. " * 5
    quiz = bertgpt.load(str(runs / "bert")).mask_and_predict(text)
    hidden = [segment for segment in quiz["segments"] if "prediction" in segment]
    assert len(hidden) < len(quiz["masks"])
    assert all(word.strip(" .,") in text.split() or word.strip(" .,") == "" or word.strip() in text
               for word in (segment["text"] for segment in hidden))  # fmt: skip
    assert "�" not in "".join(segment["text"] for segment in quiz["segments"])
