"""Generation and embedding on a CPU, compared with nanoGPT's sampler and `transformers`.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/generate.py --data FOLDER --nanogpt nanoGPT [--only generate|embed] [--rounds 5]

FOLDER contains agnews/test.csv and tokenizers/{gpt2,bert-base-uncased}. Generation: GPT-2 124M with random weights, the
same in all programs; 256 new tokens after a prompt of 16. Embedding: mean pooling of the last layer over 2,000 texts of
AG News with a BERT of dim 384, 6 layers and 6 heads with random weights, compared with the usual loop over the file in
batches of 32, each padded to its longest text. Programs take turns; the table shows medians and ratios of medians.
"""

import argparse
import contextlib
import csv
import importlib.util
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bertgpt

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # for all programs; `bertgpt generate` sets it on an idle machine

import numpy as np
import torch
import transformers

from bertgpt.config.presets import BERT, PRESETS, make_config
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.hub import pretrained
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.language_model import LanguageModel
from bertgpt.ops.kernels import has_bf16
from bertgpt.training.init import init_model
from bertgpt.utils.console import Console

MAX_NEW_TOKENS, PROMPT_TOKENS = 256, 15  # the prompt has an end token before these
Programs = dict[str, Callable[[], int]]  # each runs once and returns how many tokens or texts it processed


def compare(title: str, unit: str, programs: Programs, ratios: list[tuple[str, str]], rounds: int) -> None:
    """Time the programs in turn, after a warmup; print the medians and their ratios."""
    for program in programs.values():
        program()
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            amount = program()
            speeds[name].append(amount / (time.perf_counter() - start))
    console = Console()
    console.heading(title)
    median = {name: statistics.median(each) for name, each in speeds.items()}
    rows = [(name, f"{median[name]:,.1f}", f"{min(s):,.1f}-{max(s):,.1f}") for name, s in speeds.items()]
    console.table(("", f"{unit}/s", "range"), rows)
    for one, other in ratios:
        console.text(f"{one}: {median[one] / median[other]:.2f} times {other}")
    console.text()


def precisions() -> tuple[str, ...]:
    """fp32, and bf16 where the processor supports it."""
    return ("fp32", "bf16") if has_bf16(torch.device("cpu")) else ("fp32",)


def generation(data: Path, nanogpt: Path, rounds: int) -> None:
    """Compare generation in three programs with the same weights."""
    tokenizer = load_tokenizer(data / "tokenizers" / "gpt2")
    with tempfile.TemporaryDirectory() as folder:
        model = PretrainedModel(init_model(PRESETS["gpt2"].model, 0), tokenizer, "clm", cross_document_attention=True)
        pretrained.save(model, Path(folder) / "run" / "final", "# random\n")
        bertgpt.export(str(Path(folder) / "run"), out=str(Path(folder) / "hf"))
        hf_model = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "hf").eval()
        models = {name: bertgpt.load(str(Path(folder) / "run"), "cpu", name) for name in precisions()}
    nanogpt_model = load_nanogpt(nanogpt, hf_model.state_dict())
    prompt = tokenizer.decode(
        tokenizer.encode("It was the best of times, it was the worst of times, it was the age")[:PROMPT_TOKENS]
    )
    ids = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(prompt)]])

    def run_bertgpt(model: LanguageModel, num_samples: int) -> Callable[[], int]:
        def generate() -> int:
            samples = model.generate(prompt, num_samples=num_samples, max_new_tokens=MAX_NEW_TOKENS, temperature=1.0)
            return sum(len(sample["tokens"]) for sample in samples)

        return generate

    def run_nanogpt() -> int:
        return nanogpt_model.generate(ids, MAX_NEW_TOKENS).size(1) - ids.size(1)

    def run_transformers() -> int:
        limits = {"max_new_tokens": MAX_NEW_TOKENS, "min_new_tokens": MAX_NEW_TOKENS}
        return hf_model.generate(ids, **limits, do_sample=True, top_k=0, pad_token_id=0).size(1) - ids.size(1)

    programs = {
        "nanoGPT, no cache": run_nanogpt,
        "transformers, KV cache": run_transformers,
        "bertgpt, fp32": run_bertgpt(models["fp32"], 1),
        **{f"bertgpt, {name}": run_bertgpt(models[name], 1) for name in list(models)[1:]},
        "bertgpt, fp32, batch of 8": run_bertgpt(models["fp32"], 8),
    }
    ratios = [("bertgpt, fp32", "nanoGPT, no cache"), ("bertgpt, fp32", "transformers, KV cache"),
              ("bertgpt, bf16", "bertgpt, fp32"), ("bertgpt, fp32, batch of 8", "bertgpt, fp32")]  # fmt: skip
    ratios = [pair for pair in ratios if set(pair) <= set(programs)]
    compare("GPT-2 124M: 256 tokens after a prompt of 16", "tokens", programs, ratios, rounds)


def load_nanogpt(checkout: Path, weights: dict[str, Any]) -> Any:
    """nanoGPT's model with the same weights; its linear layers are transposed."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its parameter count
        model = module.GPT(module.GPTConfig(vocab_size=50257, dropout=0.0)).eval()
    transposed = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    model.load_state_dict(
        {name: w.t() if name.endswith(transposed) else w for name, w in weights.items()}, strict=False
    )
    return model


def embedding(data: Path, rounds: int, texts: int = 2000) -> None:
    """Compare mean-pooled embeddings in two programs with the same weights."""
    with (data / "agnews" / "test.csv").open(encoding="utf-8", newline="") as file:
        news = [" ".join(row[1:]) for row in csv.reader(file)][:texts]
    tokenizer = load_tokenizer(data / "tokenizers" / "bert-base-uncased")
    model = PretrainedModel(init_model(make_config(384, 6, 6, tokenizer.max_id + 1, BERT), 0), tokenizer, "mlm")
    with tempfile.TemporaryDirectory() as folder:
        pretrained.save(model, Path(folder) / "run" / "final", "# random\n")
        bertgpt.export(str(Path(folder) / "run"), out=str(Path(folder) / "hf"))
        hf_model = transformers.AutoModel.from_pretrained(Path(folder) / "hf").eval()
        hf_tokenizer = transformers.AutoTokenizer.from_pretrained(Path(folder) / "hf")
        models = {name: bertgpt.load(str(Path(folder) / "run"), "cpu", name) for name in precisions()}
    vectors: dict[str, Any] = {}

    @torch.no_grad()
    def run_transformers() -> int:
        means = []
        for start in range(0, len(news), 32):
            batch = hf_tokenizer(news[start : start + 32], padding=True, truncation=True, max_length=512,
                                    return_tensors="pt", return_special_tokens_mask=True)  # fmt: skip
            is_text = (batch["attention_mask"] * (1 - batch.pop("special_tokens_mask")))[..., None]
            means.append((hf_model(**batch).last_hidden_state * is_text).sum(1) / is_text.sum(1))
        vectors["transformers"] = torch.cat(means).numpy()
        return len(news)

    def run_bertgpt(precision: str) -> Callable[[], int]:
        def embed() -> int:
            vectors[precision] = models[precision].embed(news)
            return len(news)

        return embed

    programs = {"transformers, padded": run_transformers} | {f"bertgpt, {name}": run_bertgpt(name) for name in models}
    ratios = [(name, "transformers, padded") for name in list(programs)[1:]]
    compare(
        f"BERT dim 384, 6 layers, 6 heads: mean-pooled embeddings of {len(news):,} texts",
        "texts",
        programs,
        ratios,
        rounds,
    )
    difference = np.abs(vectors["transformers"] - vectors["fp32"]).max()
    Console().text(f"embeddings of transformers and bertgpt (fp32) differ by at most {difference:.1g}")


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["generate", "embed"])
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    if options.only in (None, "generate"):
        generation(options.data, options.nanogpt, options.rounds)
    if options.only in (None, "embed"):
        embedding(options.data, options.rounds)


if __name__ == "__main__":
    main()
