"""`bertgpt generate` with causal models."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bertgpt
from bertgpt.hub.pretrained import load
from bertgpt.tinyworld import World
from bertgpt.utils import console, threads
from bertgpt.utils.errors import BertGPTError
from tests.conftest import Outcome
from tests.fixtures.forkserver import ForkServer

Run = Callable[..., Outcome]


def prompts_of_many_lengths(count: int) -> list[str]:
    """The first words of tinyworld documents; the first prompt is empty."""
    texts = [document.text for document in World(5).documents(0, count)]
    return [" ".join(text.split()[: number % 23]) for number, text in enumerate(texts)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt", "modern"])
def test_greedy_decoding_matches_transformers(name: str, runs: Path, tmp_path: Path) -> None:
    """Token for token over 100 prompts, in batches and one by one."""
    bertgpt.export(str(runs / name), out=str(tmp_path / "hf"))
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    model, prompts = bertgpt.load(str(runs / name)), prompts_of_many_lengths(100)
    assert len({len(model.pretrained.tokenizer.encode(prompt)) for prompt in prompts}) > 15
    batched = model.generate(prompts, temperature=0, max_new_tokens=12)
    for number, (prompt, sample) in enumerate(zip(prompts, batched, strict=True)):
        ids = torch.tensor([[model.pretrained.tokenizer.eos_id, *model.pretrained.tokenizer.encode(prompt)]])
        wanted = hf_model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.size(1) :]
        assert sample["tokens"] == wanted.tolist()
        assert sample["prompt"] == prompt
        if number < 20:
            alone = model.generate(prompt, temperature=0, max_new_tokens=12)
            assert alone[0]["tokens"] == sample["tokens"]
            assert alone[0]["logprobs"] == pytest.approx(sample["logprobs"], abs=1e-4)


def test_samples_depend_on_seed_and_prompt_not_on_the_batch(runs: Path) -> None:
    """A prompt that is given twice gets two different samples, as with num_samples=2."""
    model = bertgpt.load(str(runs / "gpt"))
    options: dict[str, Any] = {"max_new_tokens": 15, "seed": 3}

    def texts(prompts: str | list[str], **more: Any) -> list[str]:
        return [sample["text"] for sample in model.generate(prompts, **options | more)]

    both = texts(["There was", "She"], num_samples=3)
    assert len(set(both)) == 6
    assert texts("She", num_samples=2) == both[3:5]
    assert texts(["She", "x", "She", "There was"]) == [both[3], texts("x")[0], both[4], both[0]]
    assert texts("She", seed=4) != texts("She")


def test_stream_yields_growing_samples(runs: Path) -> None:
    model = bertgpt.load(str(runs / "gpt"))
    options: dict[str, Any] = {"max_new_tokens": 6, "num_samples": 2, "temperature": 0}
    lengths = []
    for samples in model.stream(["She", "It"], **options):
        lengths.append([len(sample.tokens) for sample in samples])
    assert lengths == [[n] * 4 for n in range(1, 7)]
    assert [sample.as_json() for sample in samples] == model.generate(["She", "It"], **options)


def test_logprobs_are_those_of_the_model(runs: Path) -> None:
    """Before temperature, top-k and top-p."""
    model = load(runs / "gpt")
    [sample] = bertgpt.load(str(runs / "gpt")).generate("There", temperature=2.0, top_k=50, max_new_tokens=9)
    ids = [model.tokenizer.eos_id, *model.tokenizer.encode("There"), *sample["tokens"]]
    with torch.inference_mode():
        logprobs = model.model.logits(model.model(torch.tensor([ids]), causal=True))[0].log_softmax(dim=1)
    start = len(ids) - 9
    wanted = [float(logprobs[start + n - 1, i]) for n, i in enumerate(sample["tokens"])]
    assert sample["logprobs"] == pytest.approx(wanted, abs=1e-4)


def test_text_ends_at_the_eos_token_or_a_stop_string(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bertgpt.load(str(runs / "gpt"))
    [whole] = model.generate("It", max_new_tokens=40, seed=11)
    text = whole["text"]
    stop = text[6:9]
    index = text.index(stop)
    [stopped] = model.generate("It", max_new_tokens=40, seed=11, stop=["never there", stop])
    assert (stopped["text"], stopped["finish_reason"]) == (text[:index], "stop")
    assert whole["tokens"][: len(stopped["tokens"])] == stopped["tokens"]
    with torch.no_grad():
        model.pretrained.model.token_embedding.weight[model.pretrained.tokenizer.eos_id] *= 30
    model.pretrained.model.prepack_weights()
    samples = model.generate("It", num_samples=20, max_new_tokens=40)
    ended = [each for each in samples if each["finish_reason"] == "eos"]
    assert ended
    for each in ended:
        assert each["tokens"][-1] == model.pretrained.tokenizer.eos_id
        assert model.pretrained.tokenizer.decode(each["tokens"][:-1]) == each["text"]


def test_live_display_shows_the_text(run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are shown one after the other; what may begin a stop string is held back."""
    argv = ["generate", "--model", str(runs / "gpt"), "--prompt", "She ", "--num-samples", "3", "--seed", "2",
            "--max-new-tokens", "30", "--stop", " the", "--stop", "\x1b"]  # fmt: skip
    samples = json.loads(run(*argv, "--json").out)["result"]["samples"]
    written: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(console, "write", written.append)
        assert run(*argv).code == 0
    shown = "\n\n".join(f"{n} of 3\nShe {console.printable(sample['text'])}" for n, sample in enumerate(samples, 1))
    assert "".join(written) == shown + "\n"
    assert len(written) > 40
    assert {key for sample in samples for key in sample} == {"prompt", "text", "tokens", "logprobs", "finish_reason"}


def test_stop_string_across_two_tokens_is_never_shown(run: Run, runs: Path) -> None:
    argv = ["generate", "--model", str(runs / "gpt"), "--prompt", "She", "--seed", "2", "--max-new-tokens", "30"]
    [sample] = json.loads(run(*argv, "--json").out)["result"]["samples"]
    decode = bertgpt.load(str(runs / "gpt")).pretrained.tokenizer.decode
    boundaries = [len(decode(sample["tokens"][:count])) for count in range(3, 20)]
    across = (sample["text"][boundary - 1 : boundary + 1] for boundary in boundaries)
    stop = next(both for both in across if both.isascii() and both.isprintable())
    index = sample["text"].index(stop)
    assert run(*argv, "--stop", stop).out == f"She{console.printable(sample['text'][:index])}\n"


def test_probabilities_are_shown_as_digits(run: Run, runs: Path) -> None:
    argv = ["generate", "--model", str(runs / "gpt"), "--max-new-tokens", "12", "--prompt", ""]
    [sample] = json.loads(run(*argv, "--json").out)["result"]["samples"]
    line = run(*argv, "--logprobs").out
    digits = ["⁰¹²³⁴⁵⁶⁷⁸⁹".index(c) for c in line.partition("\n\n")[0] if c in "⁰¹²³⁴⁵⁶⁷⁸⁹"]
    tenths = [int(math.exp(logprob) * 10) for logprob in sample["logprobs"]]
    assert digits[0] == tenths[0]
    assert len(digits) <= len(tenths)


# ------------------------------------------------------------------------------------------------ prompts and options


def test_empty_and_unusual_prompts(run: Run, runs: Path) -> None:
    """An empty prompt starts at an end token; text unknown to the tokenizer is encoded byte by byte."""
    argv = ["generate", "--model", str(runs / "gpt"), "--max-new-tokens", "4", "--json"]
    for prompt in ("", "\N{SNOWMAN}\u202eабв\x00\x1b[31m", "   ", "\n"):
        done = run(*argv, "--prompt", prompt)
        assert done.code == 0, done.err
        assert json.loads(done.out)["result"]["samples"][0]["prompt"] == prompt
        assert "\x1b" not in done.out


def test_prompts_from_a_file_or_a_pipe(process: Callable[..., Outcome], run: Run, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffThere was\r\n\nShe\n".encode())
    argv = ["generate", "--model", str(runs / "gpt"), "--max-new-tokens", "3", "--json"]
    samples = json.loads(run(*argv, "--prompts-file", str(file), "--prompt", "A").out)["result"]["samples"]
    assert [sample["prompt"] for sample in samples] == ["A", "There was", "She"]
    for piped, prompt in (("It was\nso\n", "It was\nso"), ("", "")):
        done = process(*argv, stdin=piped)
        assert json.loads(done.out)["result"]["samples"][0]["prompt"] == prompt
    assert run(*argv, "--prompts-file", str(tmp_path / "none")).code == 3
    (tmp_path / "blank").write_text("\n\n")
    assert "BG310" in run(*argv, "--prompts-file", str(tmp_path / "blank")).err
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    assert "BG301" in run(*argv, "--prompts-file", str(tmp_path / "latin")).err
    assert "BG301" in run(*argv, "--prompt", "caf\udce9").err


def test_too_long_prompt(run: Run, runs: Path) -> None:
    """It is truncated on the left with a note, or refused."""
    argv = ["generate", "--model", str(runs / "gpt"), "--max-new-tokens", "5", "--prompt", "She was glad. " * 60]
    done = run(*argv, "--json")
    assert "truncated on the left" in done.err
    [sample] = json.loads(done.out)["result"]["samples"]
    assert len(sample["tokens"]) == 5
    refused = run(*argv, "--no-truncate")
    assert refused.code == 2
    assert "BG204" in refused.err


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("temperature", "0", 0), ("temperature", "-1", 2), ("temperature", "nan", 2), ("temperature", "inf", 2),
        ("top-k", "0", 0), ("top-k", "100000", 0), ("top-k", "-1", 2), ("top-p", "0", 2), ("top-p", "1", 0),
        ("top-p", "1.1", 2), ("max-new-tokens", "0", 0), ("repetition-penalty", "0", 2), ("num-samples", "0", 2),
    ],
)  # fmt: skip
def test_option_ranges(option: str, value: str, code: int, run: Run, runs: Path) -> None:
    done = run("generate", "--model", str(runs / "gpt"), "--prompt", "a", "--max-new-tokens", "2", f"--{option}", value)
    assert done.code == code, done.err
    if option == "top-k" and value == "100000":
        assert "all 700 ids" in done.err
    if option == "max-new-tokens":
        assert done.out == "a\n"


# ------------------------------------------------------------------------------------------------ refusals


def test_missing_model_lists_the_runs_in_the_folder(
    run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(runs.parent)
    done = run("generate", "--prompt", "a")
    assert done.code == 2
    assert "bertgpt generate --model runs/bert; or bertgpt generate --model runs/gpt" in done.err
    assert "did you mean runs/gpt?" in run("generate", "--model", "runs/gtp").err
    monkeypatch.chdir(tmp_path)
    assert "bertgpt pretrain trains one" in run("generate").err


def test_unsupported_use_is_refused_with_a_hint(run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    bert, gpt, both = (str(runs / name) for name in ("bert", "gpt", "both"))
    for argv, message in (
        ([bert, "--prompt", "no gap"], f'--model {bert} --prompt "A text with a [MASK] in it."'),
        ([bert], "[MASK]"),
        ([gpt, "--prompt", "a [MASK]"], f'--model {gpt} --prompt "..."'),
        ([gpt, "--mask-text", "a text"], "mask filling is not supported"),
        ([bert, "--mask-text", "a [MASK] text"], "to fill the [MASK] of a text: --prompt TEXT"),
        ([both, "--prompt", "a [MASK]", "--prompt", "a"], "hybrid either fills masks"),
    ):
        done = run("generate", "--model", *argv)
        assert done.code == 2, argv
        assert "BG222" in done.err
        assert message in done.err
    with pytest.raises(BertGPTError, match="masked language model"):
        bertgpt.load(bert).generate("a")
    with pytest.raises(BertGPTError, match="causal model"):
        bertgpt.load(gpt).fill_mask("a [MASK]")


def test_torchrun_is_refused(run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run("generate", "--model", str(runs / "gpt"))
    assert (done.code, "BG223" in done.err) == (2, True)


def test_transformers_folder_is_loaded_directly(runs: Path, tmp_path: Path) -> None:
    bertgpt.export(str(runs / "gpt"), out=str(tmp_path / "hf"))
    wanted, result = (
        bertgpt.generate(model=str(m), prompt="She", max_new_tokens=9) for m in (runs / "gpt", tmp_path / "hf")
    )
    assert result["samples"][0]["tokens"] == wanted["samples"][0]["tokens"]


# ------------------------------------------------------------------------------- pipes, closed streams, interrupts


def endless(runs: Path) -> list[str]:
    """A command line that generates until it is stopped."""
    return ["generate", "--model", str(runs / "gpt"), "--prompt", "a\n", "--max-new-tokens", "100000"]


def test_reader_closes_the_pipe(runs: Path, forkserver: ForkServer) -> None:
    child = forkserver.popen(endless(runs))
    assert child.stdout.readline() == "a\n"
    child.stdout.close()
    assert "Traceback" not in child.stderr.read()
    assert child.wait(60) == 141


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_closed_streams(closed: str, runs: Path, script: str) -> None:
    command = f'"{script}" generate --model "{runs / "gpt"}" --max-new-tokens 3 {closed}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == (0 if closed == "<&-" else 141)
    assert "Traceback" not in done.stderr


def test_interrupt_prints_one_word(runs: Path, forkserver: ForkServer) -> None:
    child = forkserver.popen(endless(runs))
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    child.stdout.read()
    assert (child.wait(60), child.stderr.read().strip()) == (130, "interrupted")


def test_openmp_threads_spin_only_on_an_idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for load_average, wanted in ((0.1, "5000"), (64.0, None)):
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        monkeypatch.setattr(os, "getloadavg", lambda load_average=load_average: (load_average,) * 3)
        threads.set_openmp_spin_count()
        assert os.environ.get("GOMP_SPINCOUNT") == wanted


def test_generation_imports_only_what_it_needs(process: Callable[..., Outcome], runs: Path) -> None:
    program = (
        "import sys, bertgpt; bertgpt.generate(model=sys.argv[1], prompt='a', max_new_tokens=2);"
        "print(*sorted({m.partition('.')[0] for m in sys.modules} | set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(runs / "gpt")], capture_output=True, text=True)
    assert not {
        "transformers",
        "datasets",
        "sklearn",
        "rich",
        "typer",
        "torch._inductor",
        "torch._dynamo",
        "tiktoken",
    } & set(done.stdout.split()), done.stdout + done.stderr


# ------------------------------------------------------------------------------------- regressions


def test_special_and_unknown_ids_are_never_generated(runs: Path, tmp_path: Path) -> None:
    """Special tokens, and embedding rows beyond the tokenizer, which many models of the hub have."""
    bertgpt.export(str(runs / "gpt"), out=str(tmp_path / "hf"))
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    rows = weights["transformer.wte.weight"]
    top = bertgpt.load(str(runs / "gpt")).generate("She", max_new_tokens=1, temperature=0)[0]["tokens"]
    weights["transformer.wte.weight"] = torch.cat((rows, 3 * rows[top].expand(50, -1)))
    weights["transformer.wte.weight"][:5] = 3 * rows[top]
    save_file(weights, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"vocab_size": len(rows) + 50}))
    model = bertgpt.load(tmp_path / "hf")
    for sample in model.generate("She", num_samples=20, max_new_tokens=5):
        assert all(4 < token < len(rows) for token in sample["tokens"])


@pytest.mark.parametrize("temperature", [1e-300, 1e-7])
def test_tiny_temperature_is_greedy(temperature: float, runs: Path) -> None:
    model = bertgpt.load(str(runs / "gpt"))
    wanted, samples = (model.generate("She", max_new_tokens=8, temperature=each) for each in (0, temperature))
    assert samples == wanted


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0}, {"temperature": math.nan}, {"top_k": -1}, {"top_p": 0.0}, {"repetition_penalty": 0.0},
        {"num_samples": 0}, {"max_new_tokens": -1}, {"stop": [""]}, {"stop": [1]}, {"max_tokens": 3}, {"prompts": [1]},
    ],
)  # fmt: skip
def test_invalid_options_are_refused_in_python(options: dict[str, Any], runs: Path) -> None:
    with pytest.raises(BertGPTError):
        bertgpt.load(str(runs / "gpt")).generate(**({"prompts": "a"} | options))


def test_stop_may_be_a_single_string(runs: Path) -> None:
    model = bertgpt.load(str(runs / "gpt"))
    one, other = (model.generate("She", max_new_tokens=30, stop=stop) for stop in ("ther", ["ther"]))
    assert one == other


def test_invalid_arguments_of_load_are_refused(runs: Path, tmp_path: Path) -> None:
    for options in ({"precision": "int8"}, {"device": "tpu"}):
        with pytest.raises(BertGPTError):
            bertgpt.load(str(runs / "gpt"), **options)
    with pytest.raises(BertGPTError, match="no model found"):
        bertgpt.load(tmp_path / "nowhere")
    assert repr(bertgpt.load(runs / "gpt")).startswith("<causal language model, ")
    bertgpt.export(str(runs / "gpt"), out=str(tmp_path / "hf"))
    assert bertgpt.load(tmp_path / "hf").pretrained.max_length == bertgpt.load(runs / "gpt").pretrained.max_length


def test_inspect_takes_a_run(runs: Path, run: Run) -> None:
    one, other = (run("inspect", str(runs / "gpt" / part)) for part in ("", "final"))
    assert one.code == 0
    assert one.out == other.out
