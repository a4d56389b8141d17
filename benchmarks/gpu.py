"""Training speed, MFU and memory on a CUDA device, beside nanoGPT and transformers: same shapes, alternating blocks.

    python benchmarks/gpu.py --nanogpt FOLDER --profile

FOLDER is a checkout of karpathy/nanoGPT, whose model.py is imported. To rehearse on a CPU, with tiny shapes and few
steps, in a minute or two:

    python benchmarks/gpu.py --rehearse --nanogpt FOLDER --profile

It needs torch, numpy, pyarrow, tokenizers, tiktoken, safetensors, typer, pydantic, rich, pyyaml and fsspec, and no
network. If bertgpt is not installed, add its checkout to PYTHONPATH.

GPT: gpt2, 124M, rows of 1024, beside nanoGPT's model, with biases, in its loop. Target: 42 % MFU, 1.1 times nanoGPT.
BERT: bert-base, 110M, rows of 512, 15 % masked, beside BertForMaskedLM with SDPA attention. Target: 1.5 times its
speed.

Ours is what `bertgpt pretrain` does: shards and mask plans of synthetic text, with a tokenizer trained on it that has
the vocabulary size of the preset; `Trainer.train_step` on prefetched batches. All sides are compiled, with bf16
autocast, gradient clipping, the same learning rates and fused AdamW. The others get what is best for them: their loss
is read every ten steps only, and BertForMaskedLM gets no attention mask, while ours separates segments and padding.
From 42 rows on nanoGPT has 2^31 logits, which need 64-bit indices; hence 32 rows by default.

Steps before the first block, which compile, do not count. MFU uses bertgpt's `flops_per_token` for all sides: logits at
target positions only, attention as if it were not causal. Memory is the peak of a side, without what the other holds.
--profile shows where a step of ours spends its time.
"""

import argparse
import contextlib
import gc
import importlib.util
import math
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bertgpt  # isort: skip - before torch, which reads what it sets
import numpy as np
import torch
from torch import Tensor

from bertgpt.config.presets import PRESETS, ModelConfig
from bertgpt.config.resolve import resolve
from bertgpt.config.training_options import PretrainOptions
from bertgpt.data.loading.loader import Prefetcher, ShuffledStream, StepLoader
from bertgpt.data.loading.mlm import MLMBatch
from bertgpt.hub.mapping import layout_of, to_hf_config
from bertgpt.model import VOCAB_MULTIPLE
from bertgpt.stages.pretrain import PretrainSetup
from bertgpt.trainer import Trainer
from bertgpt.training.device import peak_flops
from bertgpt.training.run_directory import RunDirectory
from bertgpt.utils.console import Console, Progress

LETTERS = "etaoinshrdlucmfwypvbgk"
LOGGED = 10  # steps between reads of the loss by the other side
PROFILED = 3  # steps
KERNEL_KINDS = {  # by a pattern of their names; the first that matches
    "attention": "flash|fmha|sdpa|attention|flex",
    "matrix products": "gemm|nvjet|cutlass|xmma|cublas|splitk|mkldnn|aten::(addmm|mm|bmm)",
    "optimizer and clipping": "multi_tensor|adam|lpnorm",
    "copies": "memcpy|memset",
    "compiled, other": "^triton_|^graph_|torch-compiled",
    "eager": "at::|at_cuda_detail|aten::|cub::|elementwise|reduce_kernel",
}


@dataclass(frozen=True)
class Case:
    """A preset, its batch, and the size of the synthetic text."""

    preset: str
    rows: int
    length: int
    words: int
    megabytes: float
    target: str


@dataclass(frozen=True)
class Steps:
    """Number of steps before and in each block, and of blocks."""

    warmup: int
    block: int
    rounds: int


@dataclass
class Side:
    """An implementation and its measurements."""

    name: str
    loop: "Ours | Theirs"
    resting: int = 0  # bytes allocated between its steps
    peak: int = 0  # bytes allocated during a step
    loss: float = math.nan
    seconds: list[float] = field(default_factory=list)  # per step, of each block


# ---------------------------------------------------------------------------------------------------------- text


def documents(words: int, megabytes: float) -> Iterator[str]:
    """Synthetic documents of random words with Zipfian frequencies (Zipf, 1949)."""
    draws = np.random.default_rng(0)
    lengths = draws.integers(3, 10, words)
    letters = "".join(draws.choice(list(LETTERS), lengths.sum(), p=zipf(len(LETTERS), 0.7)).tolist())
    ends = np.cumsum(lengths)
    lexicon = [letters[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    probs, size = zipf(words, 1.0), 0
    while size < megabytes * 1e6:
        chosen = draws.choice(words, int(draws.integers(200, 2000)), p=probs).tolist()
        yield (text := " ".join(lexicon[word] for word in chosen))
        size += len(text)


def zipf(size: int, exponent: float) -> Any:
    """Probabilities that fall with the rank."""
    weights = 1 / np.arange(3, size + 3) ** exponent
    return weights / weights.sum()


def prepare_data(case: Case, folder: Path) -> Path:
    """Shards or a mask plan, with the vocabulary size of the preset."""
    preset = PRESETS[case.preset]
    causal, text = preset.objective == "clm", folder / "text.txt"
    text.write_text("\n\n".join(documents(case.words, case.megabytes)), encoding="utf-8")
    trained = {"train_tokenizer": "bpe" if causal else "wordpiece", "vocab_size": preset.model.vocab_size}
    bertgpt.shard(str(text), out=str(folder / "shards"), val_fraction=0.01, **trained)
    if causal:
        bertgpt.export(str(folder / "shards"), out=str(folder / "bin"))
        return folder / "shards"
    bertgpt.mask(str(folder / "shards"), out=str(folder / "plan"), seq_len=case.length)
    return folder / "plan"


# ---------------------------------------------------------------------------------------------------------- ours


def our_trainer(case: Case, data: Path, folder: Path, device: torch.device) -> Trainer:
    """The trainer that `bertgpt pretrain` builds."""
    given = {
        "data": str(data), "out": str(folder / "run"), "preset": case.preset, "device": device.type,
        "tokens_per_step": case.rows * case.length, "micro_batch_size": case.rows, "max_steps": 100_000,
        "precision": "bf16", "compile": True,
    }  # fmt: skip
    if PRESETS[case.preset].objective == "clm":
        given["seq_len"] = case.length
    setup = PretrainSetup(resolve(PretrainOptions, given).options)
    (folder / "run").mkdir()
    trainer = setup.build_trainer(RunDirectory(folder / "run"))
    assert trainer.model.config.vocab_size == PRESETS[case.preset].model.vocab_size, (
        "the text has too few distinct words"
    )
    return trainer


class Ours:
    """The loop of the trainer, for steps without callbacks or checkpoints."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.batches = trainer, trainer.batches()
        self.progress = Progress("training", trainer.schedule.steps, in_bytes=False)

    def step(self) -> float:
        """Take a step; returns its loss."""
        with self.trainer.timer.measure("training"):
            metrics = self.trainer.train_step(next(self.batches))
        assert metrics is not None
        self.trainer.step += 1
        self.trainer.log_step(metrics, self.progress)
        return metrics["loss"]


# --------------------------------------------------------------------------------------------------------- theirs


class Theirs:
    """A plain training loop around another model, in the order of nanoGPT's."""

    def __init__(
        self, loss: Callable[..., Tensor], optimizer: torch.optim.Optimizer, batches: Iterator[Any], trainer: Trainer
    ) -> None:
        self.loss, self.optimizer, self.batches, self.trainer = loss, optimizer, batches, trainer
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.batch, self.steps, self.last_loss = next(batches), 0, math.nan

    def step(self) -> float:
        """Take a step; returns the last loss that was read."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.trainer.schedule.lr(self.steps)
        with torch.autocast(self.trainer.device.type, torch.bfloat16):
            loss = self.loss(*self.batch)
        self.batch = next(self.batches)  # while the device computes
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.trainer.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.steps % LOGGED == 0:
            self.last_loss = loss.item()
        self.steps += 1
        return self.last_loss


def nanogpt(checkout: Path, case: Case, folder: Path, trainer: Trainer) -> Theirs:
    """Its model with our shape, and its optimizer."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["nanogpt_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = trainer.model.config
    shape = module.GPTConfig(
        block_size=case.length, vocab_size=padded_vocab_size(config), n_layer=config.layers, n_head=config.heads,
        n_embd=config.dim, dropout=0.0, bias=config.bias,
    )  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):  # it prints its number of parameters
        model = module.GPT(shape).to(trainer.device)
        optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), trainer.device.type)
    compiled = torch.compile(model)
    batches = random_windows(folder / "bin" / "train.bin", case, trainer.device)
    return Theirs(lambda ids, targets: compiled(ids, targets)[1], optimizer, batches, trainer)


def padded_vocab_size(config: ModelConfig) -> int:
    """Vocabulary size padded for tensor cores, which both sides allocate."""
    return -(-config.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def random_windows(file: Path, case: Case, device: torch.device) -> Iterator[Any]:
    """Random windows of a memory-mapped file, as in nanoGPT's loader."""
    while True:
        ids = np.memmap(file, np.uint16, "r")
        starts = torch.randint(len(ids) - case.length, (case.rows,)).tolist()
        inputs, targets = (
            torch.stack([torch.from_numpy(ids[i : i + case.length].astype(np.int64)) for i in first])
            for first in (starts, [start + 1 for start in starts])
        )
        yield copy_to_device(inputs, device), copy_to_device(targets, device)


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy asynchronously from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def masked_lm(trainer: Trainer) -> Theirs:
    """BertForMaskedLM with our shape, on our rows."""
    import transformers

    config, device = trainer.model.config, trainer.device
    hf_config = to_hf_config(config, layout_of(config, causal=False), {"pad": 0, "eos": 0})
    bert_config = transformers.AutoConfig.for_model(**hf_config, attn_implementation="sdpa")
    model = transformers.BertForMaskedLM(bert_config).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01, fused=True)
    compiled = torch.compile(model)
    stream = trainer.loader.streams[0]
    # A stream caches its current position, so each side needs its own.
    loader = StepLoader(ShuffledStream(stream.dataset, 0, stream.batch_size))
    prefetched = Prefetcher(loader.steps(), lambda step: with_hf_labels(step[0][0]))
    batches = (tuple(copy_to_device(tensor, device) for tensor in batch) for batch in prefetched)
    return Theirs(lambda ids, labels: compiled(input_ids=ids, labels=labels).loss, optimizer, batches, trainer)


def with_hf_labels(batch: MLMBatch) -> tuple[Tensor, Tensor]:
    """input_ids, and labels of every position as transformers expects them."""
    labels = np.full(batch.input_ids.shape, -100)
    row, slot = np.nonzero(np.arange(batch.masked_positions.shape[1]) < batch.num_targets[:, None])
    labels[row, batch.masked_positions[row, slot]] = batch.labels[row, slot]
    return torch.from_numpy(batch.input_ids.astype(np.int64)), torch.from_numpy(labels)


# ---------------------------------------------------------------------------------------------------- measurement


class MeasuredDevice:
    """The device under test; memory is measured on CUDA only."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.is_cuda = device, device.type == "cuda"

    def name(self) -> str:
        """Name of the device."""
        return torch.cuda.get_device_name(self.device) if self.is_cuda else "a CPU"

    def synchronize(self) -> None:
        """Wait for all kernels."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def allocated(self) -> int:
        """Bytes allocated now."""
        return torch.cuda.memory_allocated(self.device) if self.is_cuda else 0

    def peak_allocated(self) -> int:
        """Peak of allocated bytes since the last reset."""
        return torch.cuda.max_memory_allocated(self.device) if self.is_cuda else 0

    def reset_peak(self) -> None:
        """Reset the peak."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)


def warmed_up(name: str, make: Callable[[], "Ours | Theirs"], warmup: int, device: MeasuredDevice) -> Side:
    """A side after its first steps, which compile code and allocate optimizer state."""
    before, start = device.allocated(), time.perf_counter()
    side = Side(name, make())
    for _ in range(warmup):
        side.loss = side.loop.step()
    device.synchronize()
    side.resting = device.allocated() - before
    print(f"{name}: {warmup} steps in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return side


def measure_block(side: Side, steps: int, device: MeasuredDevice) -> None:
    """Time a block of steps."""
    others = device.allocated() - side.resting
    device.reset_peak()
    device.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        side.loss = side.loop.step()
    device.synchronize()
    side.seconds.append((time.perf_counter() - start) / steps)
    side.peak = max(side.peak, device.peak_allocated() - others)


def compare(
    case: Case, checkout: Path | None, folder: Path, steps: Steps, device: MeasuredDevice, peak: float | None
) -> Ours:
    """Measure both sides in turn; print medians and ratios."""
    console = Console()
    console.heading(f"{case.preset}: {case.rows} rows of {case.length} per step, bf16")
    data = prepare_data(case, folder)
    ours = warmed_up("bertgpt", lambda: Ours(our_trainer(case, data, folder, device.device)), steps.warmup, device)
    trainer = ours.loop.trainer
    name, make, missing = peer(case, checkout, folder, trainer)
    if missing:
        console.text(f"{name} is not measured: {missing}")
    sides = [ours] if missing else [warmed_up(name, make, steps.warmup, device), ours]
    gc.collect()
    gc.freeze()  # as `pretrain` does
    for _ in range(steps.rounds):
        for side in sides:
            measure_block(side, steps.block, device)
    gc.unfreeze()
    tokens = case.rows * case.length
    flops = trainer.config.flops_per_step / tokens
    columns = ("", "tokens/s", "range", "ms per step", "range", "MFU", "peak memory", "loss", "ratio")
    console.table(columns, [row(side, sides[0], tokens, flops, peak) for side in sides])
    done = f"{steps.rounds} blocks of {steps.block} steps each, {flops / 1e6:.0f} MFLOP per token"
    console.text(f"{done}; target: {case.target}")
    console.text()
    return ours.loop


def peer(case: Case, checkout: Path | None, folder: Path, trainer: Trainer) -> tuple[str, Callable[[], Theirs], str]:
    """Name of the other side, a function that builds it, and what is missing for it."""
    if PRESETS[case.preset].objective == "mlm":
        missing = "" if importlib.util.find_spec("transformers") else "transformers is not installed"
        return "BertForMaskedLM", lambda: masked_lm(trainer), missing
    missing = "" if checkout else "--nanogpt is not given"
    return "nanoGPT", lambda: nanogpt(checkout, case, folder, trainer), missing


def row(side: Side, first: Side, tokens: int, flops: float, peak: float | None) -> tuple[str, ...]:
    """Its row of the table."""
    seconds = statistics.median(side.seconds)
    fastest, slowest = min(side.seconds), max(side.seconds)
    mfu = f"{flops * tokens / seconds / peak:.1%}" if peak else "-"
    return (
        side.name,
        f"{tokens / seconds:,.0f}",
        f"{tokens / slowest:,.0f}-{tokens / fastest:,.0f}",
        f"{seconds * 1e3:.2f}",
        f"{fastest * 1e3:.2f}-{slowest * 1e3:.2f}",
        mfu,
        f"{side.peak / 1e9:.2f} GB" if side.peak else "-",
        f"{side.loss:.2f}",
        f"{statistics.median(first.seconds) / seconds:.2f}",
    )


def profile(ours: Ours, device: MeasuredDevice, shown: int = 30) -> None:
    """Print the time of a step by kind of kernel, and by kernel."""
    activity = torch.profiler.ProfilerActivity
    ours.step()
    device.synchronize()
    start = time.perf_counter()
    for _ in range(PROFILED):
        ours.step()
    device.synchronize()
    seconds = (time.perf_counter() - start) / PROFILED
    with torch.profiler.profile(activities=[activity.CPU, *([activity.CUDA] if device.is_cuda else [])]) as profiler:
        for _ in range(PROFILED):
            ours.step()
        device.synchronize()
    spent, calls = Counter[str](), Counter[str]()
    for event in profiler.key_averages():
        is_kernel = event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
        if is_kernel or not device.is_cuda:
            spent[event.key] += (
                event.self_device_time_total if device.is_cuda else event.self_cpu_time_total
            ) / PROFILED
            calls[event.key] += event.count
    kinds = Counter[str]()
    for name, microseconds in spent.items():
        kinds[kind_of(name)] += microseconds
    console, busy = Console(), spent.total()
    console.heading(f"A step of ours: {seconds * 1e3:.2f} ms, {busy / 1e3:.2f} ms of it in kernels")
    console.table(("kind", "ms per step", "share"), [(n, *format_share(us, busy)) for n, us in kinds.most_common()])
    console.text()
    rows = [(n[:100], f"{calls[n] / PROFILED:.0f}", *format_share(us, busy)) for n, us in spent.most_common(shown)]
    console.table(("kernel", "calls", "ms per step", "share"), rows)
    console.text()


def format_share(microseconds: float, busy: float) -> tuple[str, str]:
    """A time in ms, and its share of the total."""
    return f"{microseconds / 1e3:.3f}", f"{microseconds / busy:.1%}"


def kind_of(name: str) -> str:
    """The kind of a kernel."""
    return next((kind for kind, pattern in KERNEL_KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes and few steps, on the CPU")
    parser.add_argument("--profile", action="store_true", help="also profile a step of ours")
    parser.add_argument("--only", choices=["gpt2", "bert-base"])
    parser.add_argument(
        "--micro-batch-size", type=int, default=32, help="rows of 1024 per step, and twice as many of 512"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps per block")
    parser.add_argument("--peak", type=float, help="peak bf16 FLOP/s of the device")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        raise SystemExit("no CUDA device; --rehearse runs on the CPU")
    targets = "42 % MFU, 1.1 times nanoGPT", "1.5 times BertForMaskedLM"
    if options.rehearse:
        device, steps = MeasuredDevice(torch.device("cpu")), Steps(warmup=2, block=2, rounds=2)
        cases = [Case("tiny-gpt", 4, 64, 20_000, 2, targets[0]), Case("tiny-bert", 4, 64, 20_000, 2, targets[1])]
    else:
        device, steps = MeasuredDevice(torch.device("cuda", 0)), Steps(10, options.steps, options.rounds)
        rows = options.micro_batch_size
        cases = [
            Case("gpt2", rows, 1024, 60_000, 14, targets[0]),
            Case("bert-base", 2 * rows, 512, 60_000, 14, targets[1]),
        ]
    Console().text(f"{device.name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}\n")
    for case, name in zip(cases, ("gpt2", "bert-base"), strict=True):
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                ours = compare(
                    case, options.nanogpt, Path(folder), steps, device, options.peak or peak_flops(device.device)
                )
                if options.profile:
                    profile(ours, device)
                ours.batches.close()
                del ours
            torch._dynamo.reset()  # compiled code holds its model
            gc.collect()


if __name__ == "__main__":
    main()
