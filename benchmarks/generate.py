"""Generation and embedding on a CPU beside nanoGPT's sampler and `transformers`.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/generate.py --data FOLDER --nanogpt nanoGPT [--only generate|embed] [--rounds 5]

FOLDER holds agnews/test.csv and tokenizers/{gpt2,bert-base-uncased}. Generation: GPT-2's shape with random weights, the
same everywhere; 256 new tokens behind a prompt of 16. Embedding: the mean of the last layer over 2,000 texts of AG News
by a BERT of d384 L6 H6 with random weights; beside it the usual loop, in the order of the file, padded to the longest
of 32. Sides take turns; medians, and ratios of medians.
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

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # for all of them, as `bertgpt generate` has it on an idle machine

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

NEW, PROMPT = 256, 15  # and the end id before it
Sides = dict[str, Callable[[], int]]  # each does something, and says how much


def alternate(title: str, unit: str, sides: Sides, ratios: list[tuple[str, str]], rounds: int) -> None:
    """Turns; then the medians, and how they relate."""
    for side in sides.values():
        side()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            amount = side()
            found[name].append(amount / (time.perf_counter() - start))
    console = Console()
    console.heading(title)
    median = {name: statistics.median(speeds) for name, speeds in found.items()}
    rows = [(name, f"{median[name]:,.1f}", f"{min(s):,.1f}-{max(s):,.1f}") for name, s in found.items()]
    console.table(("", f"{unit}/s", "range"), rows)
    for one, other in ratios:
        console.text(f"{one}: {median[one] / median[other]:.2f} times {other}")
    console.text()


def precisions() -> tuple[str, ...]:
    """bf16 too, where the processor does not have to emulate it."""
    return ("fp32", "bf16") if has_bf16(torch.device("cpu")) else ("fp32",)


def generation(data: Path, nanogpt: Path, rounds: int) -> None:
    """The same weights in three programs."""
    tokenizer = load_tokenizer(data / "tokenizers" / "gpt2")
    with tempfile.TemporaryDirectory() as folder:
        kept = PretrainedModel(init_model(PRESETS["gpt2"].model, 0), tokenizer, "clm", cross_document_attention=True)
        pretrained.save(kept, Path(folder) / "run" / "final", "# random\n")
        bertgpt.export(str(Path(folder) / "run"), out=str(Path(folder) / "hf"))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "hf").eval()
        ours = {name: bertgpt.load(str(Path(folder) / "run"), "cpu", name) for name in precisions()}
    nano = nano_of(nanogpt, theirs.state_dict())
    prompt = tokenizer.decode(
        tokenizer.encode("It was the best of times, it was the worst of times, it was the age")[:PROMPT]
    )
    ids = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(prompt)]])

    def own(model: LanguageModel, rows: int) -> Callable[[], int]:
        def go() -> int:
            made = model.generate(prompt, num_samples=rows, max_new_tokens=NEW, temperature=1.0)
            return sum(len(sample["tokens"]) for sample in made)

        return go

    def nano_go() -> int:
        return nano.generate(ids, NEW).size(1) - ids.size(1)

    def their_go() -> int:
        made = theirs.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=True, top_k=0, pad_token_id=0)
        return made.size(1) - ids.size(1)

    sides = {
        "nanoGPT, no cache": nano_go,
        "transformers, with its cache": their_go,
        "bertgpt, fp32": own(ours["fp32"], 1),
        **{f"bertgpt, {name}": own(ours[name], 1) for name in list(ours)[1:]},
        "bertgpt, fp32, 8 at once": own(ours["fp32"], 8),
    }
    ratios = [("bertgpt, fp32", "nanoGPT, no cache"), ("bertgpt, fp32", "transformers, with its cache"),
              ("bertgpt, bf16", "bertgpt, fp32"), ("bertgpt, fp32, 8 at once", "bertgpt, fp32")]  # fmt: skip
    ratios = [pair for pair in ratios if set(pair) <= set(sides)]
    alternate("GPT-2's shape, 124M: 256 tokens behind a prompt of 16", "tokens", sides, ratios, rounds)


def nano_of(checkout: Path, weights: dict[str, Any]) -> Any:
    """nanoGPT's model with the same weights; its projections are the other way round."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.redirect_stdout(io.StringIO()):  # it counts its weights aloud
        model = module.GPT(module.GPTConfig(vocab_size=50257, dropout=0.0)).eval()
    turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    model.load_state_dict({name: w.t() if name.endswith(turned) else w for name, w in weights.items()}, strict=False)
    return model


def embedding(data: Path, rounds: int, texts: int = 2000) -> None:
    """The same weights in two programs."""
    with (data / "agnews" / "test.csv").open(encoding="utf-8", newline="") as file:
        news = [" ".join(row[1:]) for row in csv.reader(file)][:texts]
    tokenizer = load_tokenizer(data / "tokenizers" / "bert-base-uncased")
    kept = PretrainedModel(init_model(make_config(384, 6, 6, tokenizer.max_id + 1, BERT), 0), tokenizer, "mlm")
    with tempfile.TemporaryDirectory() as folder:
        pretrained.save(kept, Path(folder) / "run" / "final", "# random\n")
        bertgpt.export(str(Path(folder) / "run"), out=str(Path(folder) / "hf"))
        theirs = transformers.AutoModel.from_pretrained(Path(folder) / "hf").eval()
        their_tokenizer = transformers.AutoTokenizer.from_pretrained(Path(folder) / "hf")
        ours = {name: bertgpt.load(str(Path(folder) / "run"), "cpu", name) for name in precisions()}
    vectors: dict[str, Any] = {}

    @torch.no_grad()
    def their_go() -> int:
        parts = []
        for start in range(0, len(news), 32):
            batch = their_tokenizer(news[start : start + 32], padding=True, truncation=True, max_length=512,
                                    return_tensors="pt", return_special_tokens_mask=True)  # fmt: skip
            own = (batch["attention_mask"] * (1 - batch.pop("special_tokens_mask")))[..., None]
            parts.append((theirs(**batch).last_hidden_state * own).sum(1) / own.sum(1))
        vectors["theirs"] = torch.cat(parts).numpy()
        return len(news)

    def own_go(precision: str) -> Callable[[], int]:
        def go() -> int:
            vectors[precision] = ours[precision].embed(news)
            return len(news)

        return go

    sides = {"transformers, padded": their_go} | {f"bertgpt, {name}": own_go(name) for name in ours}
    ratios = [(name, "transformers, padded") for name in list(sides)[1:]]
    alternate(f"BERT d384 L6 H6: the mean vectors of {len(news):,} texts", "texts", sides, ratios, rounds)
    difference = np.abs(vectors["theirs"] - vectors["fp32"]).max()
    Console().text(f"vectors of transformers and of bertgpt in fp32 differ by {difference:.1g} at most")


def main() -> None:
    """Compare."""
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
