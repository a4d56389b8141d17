"""Training speed and data efficiency on this CPU, beside nanoGPT and transformers' run_mlm.py.

    pip install accelerate
    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/train.py --data FOLDER --nanogpt nanoGPT [--only speed|gpt|bert] [--rounds 5] [--plot curves.svg]

FOLDER holds fineweb-edu/000_00000.parquet and tokenizers/bert-base-uncased. Speed: complete steps with data loading and
optimizer, in alternating blocks. nanoGPT: its own model.py, with the loop of its train.py written again here.
run_mlm.py: the Trainer, data collator and model that it uses. Quality: 2.4M tokens of FineWeb-Edu, vocabulary 8,192,
4 layers of 256, rows of 256, 8,192 tokens per step; validation loss on the same windows (CLM) or masked tokens (MLM).
"""

import argparse
import contextlib
import importlib.util
import io
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

import bertgpt
from bertgpt.callbacks.validation import ValidationCallback
from bertgpt.config.presets import BERT, GPT2, MODERNBERT, PRESETS, ModelConfig, Preset, make_config
from bertgpt.config.training_options import PretrainOptions
from bertgpt.data.format import read_manifest
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.stages.pretrain import PretrainSetup
from bertgpt.training.run_directory import RunDirectory
from bertgpt.utils.console import Console

Curve = list[tuple[int, float, float]]  # steps, validation loss, seconds of training
STEPS, PER_STEP, LENGTH = 300, 8192, 256
MODERN_GPT = make_config(256, 4, 4, 8192, MODERNBERT | {"max_seq_len": 512}, ffn_dim=704)
MODERN_BERT = MODERN_GPT
POST_NORM = make_config(256, 4, 4, 8192, BERT)


# ------------------------------------------------------------------------------------------- implementations


class Ours:
    """bertgpt's trainer, as `bertgpt pretrain` sets it up."""

    def __init__(self, data: Path, model: ModelConfig, **options: Any) -> None:
        objective = "clm" if read_manifest(data)["kind"] == "shards" else "mlm"
        PRESETS["benchmark"] = Preset("", model, objective, {})  # type: ignore[arg-type]
        folder = Path(tempfile.mkdtemp())
        setup = PretrainSetup(PretrainOptions(data=str(data), preset="benchmark", out=str(folder), **options))
        self.trainer = setup.build_trainer(RunDirectory(folder))
        self.batches = self.trainer.batches()
        self.validation = ValidationCallback(setup.datasets("val"), 1, setup.length, 1 << 40)

    def block(self, steps: int) -> float:
        """Seconds that so many steps take."""
        start = time.perf_counter()
        for _ in range(steps):
            self.trainer.train_step(next(self.batches))
            self.trainer.step += 1
        return time.perf_counter() - start

    def loss(self) -> float:
        """Validation loss."""
        metrics = self.validation(self.trainer.view())
        assert metrics is not None
        return float(metrics["loss"])


class NanoGPT:
    """nanoGPT's model, and the loop of its train.py on a CPU."""

    def __init__(self, checkout: Path, bins: Path, rows: int, lr: float, amp: bool, **model: Any) -> None:
        spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        torch.manual_seed(1337)
        config = {"dropout": 0.0, "bias": False, "block_size": LENGTH, "vocab_size": 8192} | model
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its number of parameters
            self.model = module.GPT(module.GPTConfig(**config))
            self.optimizer = self.model.configure_optimizers(0.1, lr, (0.9, 0.95), "cpu")
        self.bins, self.rows, self.lr, self.amp, self.step = bins, rows, lr, amp, 0

    def batch(self) -> tuple[Tensor, Tensor]:
        """Windows at random positions, with replacement."""
        ids = np.memmap(self.bins / "train.bin", np.uint16, "r")
        starts = torch.randint(len(ids) - LENGTH, (self.rows,)).tolist()
        windows = [torch.from_numpy(ids[start : start + LENGTH + 1].astype(np.int64)) for start in starts]
        rows = torch.stack(windows)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def current_lr(self, warmup: int = 30) -> float:
        """Linear warmup, then cosine decay to a tenth."""
        if self.step < warmup:
            return self.lr * (self.step + 1) / (warmup + 1)
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, (self.step - warmup) / (STEPS - warmup))))
        return self.lr * (0.1 + 0.9 * factor)

    def block(self, steps: int) -> float:
        """Seconds that so many steps take."""
        self.model.train()
        start = time.perf_counter()
        for _ in range(steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.current_lr()
            ids, targets = self.batch()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.amp):
                _, loss = self.model(ids, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
        return time.perf_counter() - start

    @torch.no_grad()
    def loss(self) -> float:
        """Validation loss on all windows, the same as those of `Ours`."""
        self.model.eval()
        ids = torch.from_numpy(np.fromfile(self.bins / "val.bin", np.uint16).astype(np.int64))
        total, count = 0.0, 0
        for start in range(0, len(ids) - 1, LENGTH * 32):
            chunk = ids[start : start + LENGTH * 32 + 1]
            whole = (len(chunk) - 1) // LENGTH * LENGTH
            for first, last in ((0, whole), (whole, len(chunk) - 1)):  # the last window is shorter
                if last > first:
                    rows = (-1, LENGTH) if last - first >= LENGTH else (1, -1)
                    _, loss = self.model(chunk[first:last].view(rows), chunk[first + 1 : last + 1].view(rows))
                    total, count = total + float(loss) * (last - first), count + last - first
        return total / count


class RunMlm:
    """What transformers' run_mlm.py uses, with its defaults."""

    def __init__(self, data: Path, rows: int, length: int, **model: Any) -> None:
        import transformers

        split = next(file for file in read_manifest(data)["files"] if file["split"] == "train")
        ids = np.array(bertgpt_tokens(data / split["path"])[: 4000 * length], np.int64).reshape(-1, length)
        config = transformers.BertConfig(attn_implementation="sdpa", **model)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(data / "tokenizer"))
        self.model = transformers.BertForMaskedLM(config)
        self.rows = [{"input_ids": row, "attention_mask": [1] * length} for row in ids.tolist()]
        self.collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        self.size, self.folder = rows, tempfile.mkdtemp()

    def block(self, steps: int) -> float:
        """Seconds that so many steps take, without those of setting up."""
        import transformers

        times: list[float] = []

        class StepTimer(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                times.append(time.perf_counter())

        arguments = transformers.TrainingArguments(
            self.folder, max_steps=steps + 1, per_device_train_batch_size=self.size, use_cpu=True, save_strategy="no",
            report_to="none", disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        trainer = transformers.Trainer(
            self.model, arguments, data_collator=self.collator, train_dataset=self.rows, callbacks=[StepTimer()]
        )
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        return sum(end - start for start, end in pairwise(times))


def bertgpt_tokens(path: Path) -> Any:
    """The flat token stream of a shard."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        column = pa.ipc.open_file(source).get_batch(0).column("tokens")
    return column.values.to_numpy()


# --------------------------------------------------------------------------------------------------- data


def prepare_data(data: Path, folder: Path) -> dict[str, Path]:
    """Shards, mask plans and flat token files of the FineWeb-Edu sample."""
    source, words = str(data / "fineweb-edu" / "000_00000.parquet"), str(data / "tokenizers" / "bert-base-uncased")
    made = {name: folder / name for name in ("own", "bins", "plan", "wordpiece", "wordpiece-plan")}
    common = {"limit_tokens": 2_750_000, "val_fraction": 0.1}
    bertgpt.shard(source, out=str(made["own"]), train_tokenizer="bpe", vocab_size=8192, **common)
    bertgpt.export(str(made["own"]), out=str(made["bins"]))
    bertgpt.mask(str(made["own"]), out=str(made["plan"]), seq_len=LENGTH)
    bertgpt.shard(source, out=str(made["wordpiece"]), tokenizer=words, **common)
    bertgpt.mask(str(made["wordpiece"]), out=str(made["wordpiece-plan"]), seq_len=128)
    return made


# -------------------------------------------------------------------------------------------------- speed


def alternate(title: str, sides: dict[str, Callable[[int], float]], tokens: int, rounds: int, steps: int) -> None:
    """Run blocks of steps in turn; print medians and the speedup of the last side."""
    for block in sides.values():
        block(2)
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, block in sides.items():
            speeds[name].append(steps * tokens / block(steps))
    last = statistics.median(speeds[list(sides)[-1]])
    rows = []
    for name, values in speeds.items():
        median = statistics.median(values)
        rows.append((name, f"{median:,.0f}", f"{min(values):,.0f}-{max(values):,.0f}", f"{last / median:.2f}"))
    console = Console()
    console.heading(title)
    console.table(("", "tokens/s", "range", "speedup of bertgpt"), rows)
    console.text()


def speed(made: dict[str, Path], nanogpt: Path, rounds: int) -> None:
    """Speed of GPT and BERT training."""
    size = {"n_layer": 6, "n_head": 6, "n_embd": 384}
    theirs = {
        precision: NanoGPT(nanogpt, made["bins"], 8, 1e-3, precision == "bf16", **size)
        for precision in ("fp32", "bf16")
    }
    gpt = make_config(384, 6, 6, 8192, GPT2 | {"max_seq_len": LENGTH})
    options = {"seq_len": LENGTH, "tokens_per_step": 8 * LENGTH, "max_steps": 10_000, "cross_document_attention": True}
    ours = {precision: Ours(made["own"], gpt, precision=precision, **options) for precision in ("fp32", "auto")}
    sides = {
        "nanoGPT, default (fp32)": theirs["fp32"].block,
        "nanoGPT, with bf16": theirs["bf16"].block,
        "bertgpt, fp32": ours["fp32"].block,
        f"bertgpt, default ({ours['auto'].trainer.config.precision})": ours["auto"].block,
    }
    alternate("GPT: d384 L6 H6, vocabulary 8,192, 8 rows of 256", sides, 8 * LENGTH, rounds, 10)

    vocab_size = load_tokenizer(made["wordpiece"] / "tokenizer").max_id + 1
    bert = make_config(384, 6, 6, vocab_size, BERT | {"max_seq_len": 128})
    mlm = RunMlm(
        made["wordpiece"], 32, 128, vocab_size=vocab_size, hidden_size=384, num_hidden_layers=6, num_attention_heads=6,
        intermediate_size=1536, max_position_embeddings=128,
    )  # fmt: skip
    options = {"tokens_per_step": 32 * 128, "max_steps": 10_000, "dropout": 0.1}
    ours = {p: Ours(made["wordpiece-plan"], bert, precision=p, **options) for p in ("fp32", "auto")}
    sides = {
        "run_mlm.py, default (fp32)": mlm.block,
        "bertgpt, fp32": ours["fp32"].block,
        f"bertgpt, default ({ours['auto'].trainer.config.precision})": ours["auto"].block,
    }
    alternate(f"BERT: d384 L6 H6, vocabulary {vocab_size:,}, 32 rows of 128, dropout 0.1", sides, 32 * 128, rounds, 4)


# ------------------------------------------------------------------------------------------------ quality


def curve(side: Ours | NanoGPT, steps: int, every: int) -> Curve:
    """Validation losses during training."""
    points, seconds = [], 0.0
    for step in range(every, steps + 1, every):
        seconds += side.block(every)
        points.append((step, side.loss(), seconds))
    return points


def first_at(curve: Curve, target: float) -> tuple[int, float] | None:
    """The first step with at most a target loss, and the seconds until then."""
    return next(((step, seconds) for step, loss, seconds in curve if loss <= target), None)


def quality(
    title: str, theirs: dict[str, Callable[[], Ours | NanoGPT]], ours: dict[str, Ours], steps: int
) -> dict[str, Curve]:
    """The best final loss of theirs, and the tokens and time that ours needs to reach it."""
    console = Console()
    console.heading(title)
    curves = {}
    for name, make in theirs.items():
        curves[name] = curve(make(), STEPS, 150)
        console.info(f"{name}: {curves[name][-1][1]:.4f} after {STEPS} steps")
    best = min(theirs, key=lambda name: curves[name][-1][1])
    target, total_seconds = curves[best][-1][1], curves[best][-1][2]
    rows = [(name, f"{STEPS}", f"{curves[name][-1][1]:.4f}", f"{curves[name][-1][2]:.0f} s", "", "") for name in theirs]
    for name, side in ours.items():
        curves[name] = curve(side, steps, steps // 9)
        step, loss, seconds = curves[name][-1]
        first = first_at(curves[name], target)
        ratios = ("no", "no") if first is None else (f"{first[0] / STEPS:.2f}", f"{first[1] / total_seconds:.2f}")
        rows.append((name, f"{step}", f"{loss:.4f}", f"{seconds:.0f} s", *ratios))
    console.table(("", "steps", "val loss", "training", f"tokens to {target:.4f}", "time"), rows)
    console.text()
    return curves


def gpt_quality(made: dict[str, Path], nanogpt: Path) -> dict[str, Curve]:
    """nanoGPT's model and loop at three learning rates, and modern-gpt."""
    size = {"n_layer": 4, "n_head": 4, "n_embd": 256}
    theirs: dict[str, Callable[[], Ours | NanoGPT]] = {
        f"nanoGPT, lr {lr:g}": lambda lr=lr: NanoGPT(nanogpt, made["bins"], PER_STEP // LENGTH, lr, False, **size)  # type: ignore[misc]
        for lr in (1e-3, 2e-3, 4e-3)
    }
    options = {"seq_len": LENGTH, "tokens_per_step": PER_STEP, "max_steps": 90, "optimizer": "muon", "lr": 0.01}
    schedule = {"warmup": 5, "schedule": "linear", "min_lr_ratio": 0.0}
    ours = {"modern-gpt, Muon": Ours(made["own"], MODERN_GPT, **options, **schedule)}
    return quality("GPT: 4 layers of 256, 8,192 tokens per step", theirs, ours, 90)


def bert_quality(made: dict[str, Path]) -> dict[str, Curve]:
    """The BERT of 2018 with AdamW at three learning rates, and modern-bert."""
    common = {"tokens_per_step": PER_STEP, "warmup": 30, "schedule": "linear"}
    theirs: dict[str, Callable[[], Ours | NanoGPT]] = {
        f"post-norm BERT, AdamW, lr {lr:g}": lambda lr=lr: Ours(
            made["plan"], POST_NORM, lr=lr, max_steps=STEPS, **common
        )  # type: ignore[misc]
        for lr in (5e-4, 1e-3, 2e-3)
    }
    options = {"max_steps": 180, "optimizer": "muon", "lr": 0.01, "min_lr_ratio": 0.0, "warmup": 10}
    ours = {"modern-bert, Muon": Ours(made["plan"], MODERN_BERT, **(common | options))}
    return quality("BERT: 4 layers of 256, 8,192 tokens per step", theirs, ours, 180)


def plot(curves: dict[str, Curve], path: Path) -> None:
    """An SVG chart of loss over steps."""
    colors = ("#888", "#aaa", "#ccc", "#d33", "#36c", "#59d", "#8bf", "#c60")
    losses = [loss for points in curves.values() for _, loss, _ in points]
    low, high = min(losses), max(losses)

    def at(step: float, loss: float) -> str:
        return f"{60 + 640 * step / STEPS:.1f},{20 + 380 * (high - loss) / (high - low):.1f}"

    lines = [
        f'<polyline fill="none" stroke="{color}" points="{" ".join(at(s, x) for s, x, _ in points)}"/>'
        f'<text x="440" y="{40 + 18 * i}" fill="{color}">{name}</text>'
        for i, ((name, points), color) in enumerate(zip(curves.items(), colors, strict=False))
    ]
    ticks = [f'<text x="8" y="{at(0, x).split(",")[1]}">{x:.1f}</text>' for x in np.linspace(low, high, 5)]
    ticks += [f'<text x="{at(s, low).split(",")[0]}" y="420">{s}</text>' for s in range(0, STEPS + 1, 50)]
    start = '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="440" font-family="sans-serif" font-size="13">'
    path.write_text("".join([start, *ticks, *lines, "</svg>"]), encoding="utf-8")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["speed", "gpt", "bert"])
    parser.add_argument("--plot", type=Path, help="write an SVG of the loss curves here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = prepare_data(options.data, Path(folder))
        if options.only in (None, "speed"):
            speed(made, options.nanogpt, options.rounds)
        curves: dict[str, Curve] = {}
        if options.only in (None, "gpt"):
            curves |= gpt_quality(made, options.nanogpt)
        if options.only in (None, "bert"):
            curves |= bert_quality(made)
        if options.plot and curves:
            plot(curves, options.plot)
            options.plot.with_suffix(".json").write_text(json.dumps(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
