"""Training steps on a CUDA device beside nanoGPT and `transformers`: the same shapes and targets, in turn.

    python benchmarks/gpu.py --nanogpt FOLDER --profile

FOLDER is a checkout of karpathy/nanoGPT, whose model.py is imported from there. To rehearse it on a CPU, with tiny
shapes and few steps, in a minute or two:

    python benchmarks/gpu.py --rehearse --nanogpt FOLDER --profile

Needed are torch, numpy, pyarrow, tokenizers, tiktoken, safetensors, typer, pydantic, rich, pyyaml and fsspec, and no
network. Where bertgpt is not installed, PYTHONPATH names its checkout.

Causal: gpt2, 124M, rows of 1024, beside nanoGPT's model, with biases, in its loop. To reach: 42 % MFU, and 1.1 times
nanoGPT. Masked: bert-base, 110M, rows of 512, 15 % hidden, beside BertForMaskedLM with SDPA attention. To reach: 1.5
times its speed.

Ours is what `bertgpt pretrain` does: shards and plans of text that is made up here, with a tokenizer trained on it that
has as many ids as the preset; `Trainer.train_step` on what the loader has ready. All are compiled, and have bf16
autocast, clipped gradients, the same rates, and AdamW fused. Theirs are given what is best for them: a loss is read
every ten steps only, and BertForMaskedLM gets no attention mask, where ours keeps pieces and padding apart. nanoGPT
has 2^31 logits at 42 rows, from where on it counts them in 64 bits; hence 32 rows, if nothing else is said.

Steps before the first block, in which code is compiled, do not count. MFU counts for all what bertgpt's
`flops_per_token` does: logits at scored positions only, attention as if it were not causal. Memory is the most that a
side held at once, without what the other one has on the card. --profile says where a step of ours spends its time.
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

from bertgpt.config.options import PretrainOptions
from bertgpt.config.presets import PRESETS, ModelConfig
from bertgpt.config.resolve import resolve
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
LOGGED = 10  # steps between losses that a peer reads
PROFILED = 3  # steps
KINDS = {  # of kernels, by what is in their names; the first that fits
    "attention": "flash|fmha|sdpa|attention|flex",
    "products": "gemm|nvjet|cutlass|xmma|cublas|splitk|mkldnn|aten::(addmm|mm|bmm)",
    "optimizer and clipping": "multi_tensor|adam|lpnorm",
    "copies": "memcpy|memset",
    "compiled, not products": "^triton_|^graph_|torch-compiled",
    "torch's own, not compiled": "at::|at_cuda_detail|aten::|cub::|elementwise|reduce_kernel",
}


@dataclass(frozen=True)
class Case:
    """A model, its rows, and the text that they are made of."""

    preset: str
    rows: int
    length: int
    words: int
    megabytes: float
    reach: str


@dataclass(frozen=True)
class Steps:
    """How many of them."""

    warmup: int
    block: int
    rounds: int


@dataclass
class Side:
    """Somebody's way to train, and what was found."""

    name: str
    loop: "Ours | Theirs"
    resting: int = 0  # bytes on the card between its steps
    most: int = 0
    loss: float = math.nan
    seconds: list[float] = field(default_factory=list)  # of a step, in each block


# ---------------------------------------------------------------------------------------------------------- text


def documents(words: int, megabytes: float) -> Iterator[str]:
    """Texts of made-up words, common and rare ones as in a language (Zipf, 1949)."""
    draws = np.random.default_rng(0)
    lengths = draws.integers(3, 10, words)
    letters = "".join(draws.choice(list(LETTERS), lengths.sum(), p=falling(len(LETTERS), 0.7)).tolist())
    ends = np.cumsum(lengths)
    lexicon = [letters[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    shares, made = falling(words, 1.0), 0
    while made < megabytes * 1e6:
        chosen = draws.choice(words, int(draws.integers(200, 2000)), p=shares).tolist()
        yield (text := " ".join(lexicon[word] for word in chosen))
        made += len(text)


def falling(size: int, slope: float) -> Any:
    """Shares that fall with the rank."""
    shares = 1 / np.arange(3, size + 3) ** slope
    return shares / shares.sum()


def data_of(case: Case, folder: Path) -> Path:
    """Shards, or a plan, with the vocabulary of the preset."""
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
    """What `bertgpt pretrain` puts together."""
    given = {
        "data": str(data), "out": str(folder / "run"), "preset": case.preset, "device": device.type,
        "tokens_per_step": case.rows * case.length, "micro_batch_size": case.rows, "max_steps": 100_000,
        "precision": "bf16", "compile": True,
    }  # fmt: skip
    if PRESETS[case.preset].objective == "clm":
        given["seq_len"] = case.length
    run = PretrainSetup(resolve(PretrainOptions, given).options)
    (folder / "run").mkdir()
    trainer = run.build_trainer(RunDirectory(folder / "run"))
    assert trainer.model.config.vocab == PRESETS[case.preset].model.vocab_size, "the text has too few words"
    return trainer


class Ours:
    """What the loop of a trainer does in a step at which nothing else is due."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.ahead = trainer, trainer.batches()
        self.progress = Progress("training", trainer.schedule.steps, in_bytes=False)

    def step(self) -> float:
        """The next one, and its loss."""
        with self.trainer.timer.measure("training"):
            metrics = self.trainer.train_step(next(self.ahead))
        assert metrics is not None
        self.trainer.step += 1
        self.trainer.log_step(metrics, self.progress)
        return metrics["loss"]


# --------------------------------------------------------------------------------------------------------- theirs


class Theirs:
    """The usual loop around somebody's model, in the order in which nanoGPT has it."""

    def __init__(
        self, loss: Callable[..., Tensor], optimizer: torch.optim.Optimizer, batches: Iterator[Any], trainer: Trainer
    ) -> None:
        self.loss, self.optimizer, self.batches, self.trainer = loss, optimizer, batches, trainer
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.batch, self.taken, self.read = next(batches), 0, math.nan

    def step(self) -> float:
        """The next one, and the newest loss that was read."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.trainer.schedule.lr(self.taken)
        with torch.autocast(self.trainer.device.type, torch.bfloat16):
            loss = self.loss(*self.batch)
        self.batch = next(self.batches)  # while the device computes
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.trainer.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.taken % LOGGED == 0:
            self.read = loss.item()
        self.taken += 1
        return self.read


def nanogpt(checkout: Path, case: Case, folder: Path, trainer: Trainer) -> Theirs:
    """Its model with our shape, and its optimizer."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["nanogpt_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = trainer.model.config
    shape = module.GPTConfig(
        block_size=case.length, vocab_size=filled(config), n_layer=config.layers, n_head=config.heads,
        n_embd=config.dim, dropout=0.0, bias=config.bias,
    )  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):  # it says how many parameters there are
        model = module.GPT(shape).to(trainer.device)
        optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), trainer.device.type)
    compiled = torch.compile(model)
    batches = windows(folder / "bin" / "train.bin", case, trainer.device)
    return Theirs(lambda ids, targets: compiled(ids, targets)[1], optimizer, batches, trainer)


def filled(config: ModelConfig) -> int:
    """The ids, and as many more as tensor cores like: what both of us have in memory."""
    return -(-config.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def windows(file: Path, case: Case, device: torch.device) -> Iterator[Any]:
    """Random places of a memory map, as nanoGPT's loop takes them."""
    while True:
        ids = np.memmap(file, np.uint16, "r")
        places = torch.randint(len(ids) - case.length, (case.rows,)).tolist()
        found = (
            torch.stack([torch.from_numpy(ids[at + by : at + by + case.length].astype(np.int64)) for at in places])
            for by in (0, 1)
        )
        yield tuple(sent(tensor, device) for tensor in found)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On its way to the device."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def masked_lm(trainer: Trainer) -> Theirs:
    """BertForMaskedLM with our shape, on the rows that we have."""
    import transformers

    config, device = trainer.model.config, trainer.device
    theirs = to_hf_config(config, layout_of(config, causal=False), {"pad": 0})
    made = transformers.AutoConfig.for_model(**theirs, attn_implementation="sdpa")
    model = transformers.BertForMaskedLM(made).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01, fused=True)
    compiled = torch.compile(model)
    stream = trainer.loader.streams[0]
    own = StepLoader(
        ShuffledStream(stream.dataset, 0, stream.batch_size)
    )  # a stream remembers where it is, so that two cannot share one
    ready = Prefetcher(own.steps(), lambda step: labelled(step[0][0]))
    batches = (tuple(sent(tensor, device) for tensor in batch) for batch in ready)
    return Theirs(lambda ids, labels: compiled(input_ids=ids, labels=labels).loss, optimizer, batches, trainer)


def labelled(rows: MLMBatch) -> tuple[Tensor, Tensor]:
    """Ids, and labels as `transformers` wants them: one for each position."""
    labels = np.full(rows.input_ids.shape, -100)
    row, slot = np.nonzero(np.arange(rows.masked_positions.shape[1]) < rows.num_targets[:, None])
    labels[row, rows.masked_positions[row, slot]] = rows.labels[row, slot]
    return torch.from_numpy(rows.input_ids.astype(np.int64)), torch.from_numpy(labels)


# ---------------------------------------------------------------------------------------------------- measurement


class Card:
    """The device as it is measured; a CPU has no memory of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.is_cuda = device, device.type == "cuda"

    def name(self) -> str:
        """As its maker calls it."""
        return torch.cuda.get_device_name(self.device) if self.is_cuda else "a CPU"

    def wait(self) -> None:
        """Until everything is done."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def held(self) -> int:
        """Bytes, now."""
        return torch.cuda.memory_allocated(self.device) if self.is_cuda else 0

    def most(self) -> int:
        """Bytes, since `forget`."""
        return torch.cuda.max_memory_allocated(self.device) if self.is_cuda else 0

    def forget(self) -> None:
        """Begin anew."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)


def settled(name: str, make: Callable[[], "Ours | Theirs"], warmup: int, card: Card) -> Side:
    """A side that has taken its first steps, in which code is compiled and moments are made."""
    before, start = card.held(), time.perf_counter()
    side = Side(name, make())
    for _ in range(warmup):
        side.loss = side.loop.step()
    card.wait()
    side.resting = card.held() - before
    print(f"{name}: {warmup} steps in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return side


def take(side: Side, steps: int, card: Card) -> None:
    """A block of steps."""
    others = card.held() - side.resting
    card.forget()
    card.wait()
    start = time.perf_counter()
    for _ in range(steps):
        side.loss = side.loop.step()
    card.wait()
    side.seconds.append((time.perf_counter() - start) / steps)
    side.most = max(side.most, card.most() - others)


def compare(case: Case, checkout: Path | None, folder: Path, steps: Steps, card: Card, peak: float | None) -> Ours:
    """In turn, and the medians; ratios to theirs."""
    console = Console()
    console.heading(f"{case.preset}: {case.rows} rows of {case.length} a step, bf16")
    data = data_of(case, folder)
    ours = settled("bertgpt", lambda: Ours(our_trainer(case, data, folder, card.device)), steps.warmup, card)
    trainer = ours.loop.trainer
    name, make, lacking = peer(case, checkout, folder, trainer)
    if lacking:
        console.text(f"{name} is not measured: {lacking}")
    sides = [ours] if lacking else [settled(name, make, steps.warmup, card), ours]
    gc.collect()
    gc.freeze()  # as `pretrain` does
    for _ in range(steps.rounds):
        for side in sides:
            take(side, steps.block, card)
    gc.unfreeze()
    tokens = case.rows * case.length
    flops = trainer.config.flops_per_step / tokens
    columns = ("", "tokens/s", "range", "ms a step", "range", "MFU", "peak memory", "loss", "ratio")
    console.table(columns, [row(side, sides[0], tokens, flops, peak) for side in sides])
    done = f"{steps.rounds} blocks of {steps.block} steps each, {flops / 1e6:.0f} MFLOP a token"
    console.text(f"{done}; to reach: {case.reach}")
    console.text()
    return ours.loop


def peer(case: Case, checkout: Path | None, folder: Path, trainer: Trainer) -> tuple[str, Callable[[], Theirs], str]:
    """Who stands beside us, how it is made, and what is lacking for that."""
    if PRESETS[case.preset].objective == "mlm":
        lacking = "" if importlib.util.find_spec("transformers") else "transformers is not installed"
        return "BertForMaskedLM", lambda: masked_lm(trainer), lacking
    lacking = "" if checkout else "--nanogpt names no checkout of it"
    return "nanoGPT", lambda: nanogpt(checkout, case, folder, trainer), lacking


def row(side: Side, first: Side, tokens: int, flops: float, peak: float | None) -> tuple[str, ...]:
    """Its line of the table."""
    seconds = statistics.median(side.seconds)
    quickest, slowest = min(side.seconds), max(side.seconds)
    usage = f"{flops * tokens / seconds / peak:.1%}" if peak else "-"
    return (
        side.name,
        f"{tokens / seconds:,.0f}",
        f"{tokens / slowest:,.0f}-{tokens / quickest:,.0f}",
        f"{seconds * 1e3:.2f}",
        f"{quickest * 1e3:.2f}-{slowest * 1e3:.2f}",
        usage,
        f"{side.most / 1e9:.2f} GB" if side.most else "-",
        f"{side.loss:.2f}",
        f"{statistics.median(first.seconds) / seconds:.2f}",
    )


def profile(ours: Ours, card: Card, shown: int = 30) -> None:
    """Where the time of a step goes: by kind of kernel, and by kernel."""
    activity = torch.profiler.ProfilerActivity
    ours.step()
    card.wait()
    start = time.perf_counter()
    for _ in range(PROFILED):
        ours.step()
    card.wait()
    whole = (time.perf_counter() - start) / PROFILED
    with torch.profiler.profile(activities=[activity.CPU, *([activity.CUDA] if card.is_cuda else [])]) as seen:
        for _ in range(PROFILED):
            ours.step()
        card.wait()
    spent, calls = Counter[str](), Counter[str]()
    for event in seen.key_averages():
        on_card = event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
        if on_card or not card.is_cuda:
            spent[event.key] += (event.self_device_time_total if card.is_cuda else event.self_cpu_time_total) / PROFILED
            calls[event.key] += event.count
    kinds = Counter[str]()
    for name, microseconds in spent.items():
        kinds[kind_of(name)] += microseconds
    console, busy = Console(), spent.total()
    console.heading(f"A step of ours: {whole * 1e3:.2f} ms, kernels for {busy / 1e3:.2f} ms of it")
    console.table(("kind", "ms a step", "share"), [(n, *told(us, busy)) for n, us in kinds.most_common()])
    console.text()
    rows = [(n[:100], f"{calls[n] / PROFILED:.0f}", *told(us, busy)) for n, us in spent.most_common(shown)]
    console.table(("kernel", "calls", "ms a step", "share"), rows)
    console.text()


def told(microseconds: float, busy: float) -> tuple[str, str]:
    """A time, and its share."""
    return f"{microseconds / 1e3:.3f}", f"{microseconds / busy:.1%}"


def kind_of(name: str) -> str:
    """What a kernel is for."""
    return next((kind for kind, marks in KINDS.items() if re.search(marks, name, re.IGNORECASE)), "others")


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes and few steps, on the CPU")
    parser.add_argument("--profile", action="store_true", help="also say where a step of ours spends its time")
    parser.add_argument("--only", choices=["gpt2", "bert-base"])
    parser.add_argument(
        "--micro-batch-size", type=int, default=32, help="rows of 1024 in a step, and twice as many of 512"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="in each block")
    parser.add_argument("--peak", type=float, help="bf16 FLOPs a second that the device could make")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; --rehearse goes through it on the CPU")
    reach = "42 % MFU, 1.1 times nanoGPT", "1.5 times BertForMaskedLM"
    if options.rehearse:
        card, steps = Card(torch.device("cpu")), Steps(warmup=2, block=2, rounds=2)
        cases = [Case("tiny-gpt", 4, 64, 20_000, 2, reach[0]), Case("tiny-bert", 4, 64, 20_000, 2, reach[1])]
    else:
        card, steps = Card(torch.device("cuda", 0)), Steps(10, options.steps, options.rounds)
        rows = options.micro_batch_size
        cases = [Case("gpt2", rows, 1024, 60_000, 14, reach[0]), Case("bert-base", 2 * rows, 512, 60_000, 14, reach[1])]
    Console().text(f"{card.name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}\n")
    for case, name in zip(cases, ("gpt2", "bert-base"), strict=True):
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                ours = compare(
                    case, options.nanogpt, Path(folder), steps, card, options.peak or peak_flops(card.device)
                )
                if options.profile:
                    profile(ours, card)
                ours.ahead.close()
                del ours
            torch._dynamo.reset()  # what was compiled holds its model
            gc.collect()


if __name__ == "__main__":
    main()
