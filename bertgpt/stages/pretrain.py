"""The stage `pretrain`: options to a trainer. A run that was interrupted goes on if the same command is given again."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from bertgpt.callbacks.benchmarks import BenchmarkCallback
from bertgpt.callbacks.samples import SampleCallback
from bertgpt.callbacks.validation import ValidationCallback, target_bytes
from bertgpt.config.options import PretrainOptions
from bertgpt.config.presets import PRESETS, ModelConfig, Preset
from bertgpt.data.execution.workdir import code_hash, nearest_existing
from bertgpt.data.format import read_manifest
from bertgpt.data.loading import loader
from bertgpt.data.loading.causal import CausalBatch, CausalDataset
from bertgpt.data.loading.loader import BatchPartition, ShuffledStream, StepLoader, hybrid_split
from bertgpt.data.loading.mlm import MLMBatch, longest_segment, open_mlm_dataset
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.load import extend_vocabulary, load_model, weights_hash
from bertgpt.model import Transformer
from bertgpt.stages.run_training import run_training
from bertgpt.trainer import Trainer, TrainerConfig
from bertgpt.training.device import (
    compile_model,
    enable_activation_checkpointing,
    peak_flops,
    resolve_device,
    resolve_precision,
    use_deterministic_algorithms,
)
from bertgpt.training.distributed import DistContext, init_distributed
from bertgpt.training.init import init_model
from bertgpt.training.logger import RunLogger
from bertgpt.training.objectives import CausalLM, MaskedLM, Objective
from bertgpt.training.optimizers import UNKNOWN_STEPS, LRSchedule, Optimizers
from bertgpt.training.ppmi_init import ppmi_init
from bertgpt.training.run_directory import RunDirectory
from bertgpt.utils import console
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError, require_package
from bertgpt.utils.files import check_space, ensure_writable_folder, sha256_of
from bertgpt.utils.tables import format_number
from bertgpt.utils.version import __version__

# What may change when a run goes on, and changes no more than rounding; and what may, but changes figures or the way
# back from a divergence.
UNRECORDED_OPTIONS = ("out", "data", "micro_batch_size", "device", "compile", "deterministic", "activation_checkpointing",
        "tensorboard", "overwrite", "overwrite_if_changed", "dry_run")  # fmt: skip
MUTABLE_OPTIONS = ("log_every", "eval_every", "eval_tokens", "save_every", "sample_every",
         "probe", "probe_every", "probe_data", "eval", "eval_data", "eval_items")  # fmt: skip
CODE_DEPS = ("callbacks", "config", "data", "hub", "model.py", "ops", "stages", "trainer.py", "training", "utils")
DEFAULT_MICRO_TOKENS = 32_768  # ids of a micro-batch, if nothing else is said


class PretrainSetup:
    """What the options come to, before anything is trained."""

    def __init__(self, options: PretrainOptions) -> None:
        self.options, self.data = options, Path(options.data)
        self.manifest = read_manifest(self.data)
        self.init: PretrainedModel | None = None
        self.init_folder: Path | None = None
        if options.init is not None:
            self.init, self.init_folder = load_model(options.init)
            if options.embedding_init == "ppmi":
                hint = "leave out --embedding-init: those of that run are there"
                raise BertGPTError("BG204", "--init and --embedding-init ppmi are two ways to begin", hint=hint)
        self.preset = self.resolve_preset()
        self.objective = self.resolve_objective()
        self.masked = self.objective in ("mlm", "hybrid")
        self.tokenizer = self.load_tokenizer()
        rows = 0 if self.init is None else self.init.model.config.vocab_size
        settings: dict[str, Any] = {"vocab_size": max(rows, self.tokenizer.max_id + 1), "dropout": options.dropout}
        self.config = ModelConfig(**(self.preset.model.model_dump() | settings))
        self.length = self.manifest["config"]["seq_len"] if self.masked else options.seq_len
        self.config.check_length(self.length)
        given = options.cross_document_attention
        self.cross_document_attention = self.preset.cross_document_attention if given is None else given
        self.rows = max(1, round(options.tokens_per_step / self.length))
        self.device = resolve_device(options.device)
        self.precision = resolve_precision(options.precision, self.device)

    def resolve_preset(self) -> Preset:
        """The preset, or a model that stands in its place; where both are given they have the same shape."""
        name = self.options.preset
        if self.init is None:
            if name is None:
                raise BertGPTError("BG203", "--preset is missing", hint="or --init, for the shape of another run")
            return PRESETS[name]
        like, free = self.init.model.config, {"vocab_size", "dropout"}
        if name is not None and like.model_dump(exclude=free) != PRESETS[name].model.model_dump(exclude=free):
            hint = "leave out --preset, or take the one that it was trained with"
            raise BertGPTError("BG221", f"the model of --init has another shape than {name}", hint=hint)
        kind = "clm" if self.manifest["kind"] == "shards" else "mlm"
        preset = PRESETS[name] if name is not None else Preset("", like, kind, {})  # type: ignore[arg-type]
        return Preset(preset.about, like, preset.objective, preset.training, preset.cross_document_attention)

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of the data, or the longer one of a plan that was made from them."""
        own = load_tokenizer(self.data / "tokenizer")
        if self.options.tokenizer is None:
            return own
        longer = load_tokenizer(Path(self.options.tokenizer) / "tokenizer")
        if longer.tokens[: len(own.tokens)] != own.tokens:
            raise BertGPTError("BG308", "that plan has other ids than the data", path=self.options.tokenizer)
        return longer

    @property
    def shards(self) -> Path:
        """The shards that are trained on: a plan is one of others."""
        return self.data if self.manifest["kind"] == "shards" else (self.data / self.manifest["base"]["path"]).resolve()

    def accumulation(self, world: int) -> int:
        """Into how many micro-batches each process divides its part of a step."""
        fits = [n for n in range(1, self.rows // world + 1) if self.rows % (n * world) == 0]
        usual = max((n for n in fits if n * self.length <= DEFAULT_MICRO_TOKENS), default=1)
        micro = self.options.micro_batch_size or usual
        if self.rows % (micro * world):
            several = f" in {world} processes" if world > 1 else ""
            near = sorted(fits, key=lambda n: abs(n - micro))[:2]
            hint = f"--micro-batch-size {' or '.join(map(str, sorted(near)))} divides them" if near else None
            raise BertGPTError(
                "BG204", f"{self.rows} rows of a step do not divide into micro-batches of {micro}{several}", hint=hint
            )
        return self.rows // (micro * world)

    def resolve_objective(self) -> str:
        """What is trained, if the data are made for it."""
        objective, kind = self.options.objective or self.preset.objective, self.manifest["kind"]
        wanted = "shards" if objective == "clm" else "plan"
        if kind != wanted:
            hint = "bertgpt shard makes shards of token parts"
            if kind != "tokens":
                make = "bertgpt mask makes a plan of shards" if wanted == "plan" else "give the shards it is made of"
                other = "clm" if kind == "shards" else "mlm"
                names = [name for name, preset in PRESETS.items() if preset.objective == other]
                near = min(names, key=lambda name: abs(PRESETS[name].model.dim - self.preset.model.dim))
                hint = f"{make}, or take a preset such as {near}"
            raise BertGPTError(
                "BG221", f"the objective {objective} needs {wanted}, and {self.data} is {kind}", hint=hint
            )
        if kind == "plan" and self.manifest["config"]["sentence_pairs"] != "none" and not self.preset.model.token_types:
            hint = "make the plan with --sentence-pairs none, or take a preset such as bert-base"
            raise BertGPTError("BG221", "this model has no head for pairs, and the plan has pairs", hint=hint)
        return objective

    def samples(self, split: str) -> list[loader.Dataset]:
        """The samples of a split, masked ones first."""
        found: list[loader.Dataset] = []
        if self.masked:
            found.append(open_mlm_dataset(self.data, split))
        if self.objective != "mlm":
            found.append(CausalDataset(self.shards, split, self.length))
        return found

    def validation_callbacks(self) -> list[ValidationCallback]:
        """What looks at the held-out split, if there is one.

        Bits per byte are known where ids keep the text they stand for, and causal rows are scored.
        """
        if "val" not in self.manifest["splits"]:
            return []
        samples, lengths = self.samples("val"), self.tokenizer.token_bytes
        rows = max(1, self.options.eval_tokens // self.length)
        windows = [some for some in samples if isinstance(some, CausalDataset)]
        text = 0 if lengths is None else sum(target_bytes(some, rows, lengths) for some in windows)
        return [ValidationCallback(samples, self.options.eval_every, self.length, rows, text)]

    def benchmark_callbacks(self) -> list[BenchmarkCallback]:
        """The suites that are asked on the way."""
        options, model = self.options, (self.tokenizer, self.objective, self.length)
        asked = (
            (options.probe, options.probe_every, options.probe_data),
            (options.eval, options.eval_every, options.eval_data),
        )
        return [
            BenchmarkCallback.load(name, every, data, options.eval_items, *model) for name, every, data in asked if name
        ]

    def sample_callbacks(self, folder: Path) -> list[SampleCallback]:
        """What writes down what the model says, if that is wanted."""
        if not self.options.sample_every:
            return []
        masked = self.masked and "val" in self.manifest["splits"]
        text = self.tokenizer.decode(longest_segment(open_mlm_dataset(self.data, "val"))) if masked else ""
        usual = (self.tokenizer, self.objective, self.length, text, self.options.seed)
        return [SampleCallback(folder / "samples.txt", self.options.sample_every, *usual)]

    def streams(self) -> list[ShuffledStream]:
        """What is trained on, and how many of each are in a step."""
        sizes = hybrid_split(self.rows, self.options.mlm_ratio) if self.objective == "hybrid" else (self.rows,)
        samples = self.samples("train")
        if 0 in sizes:
            hint = "more --tokens-per-step, or a --mlm-ratio nearer to a half"
            raise BertGPTError("BG204", f"a step of {self.rows} rows has none of one kind", hint=hint)
        if not all(map(len, samples)):
            raise BertGPTError("BG310", "there is nothing to train on: the split train is empty", path=str(self.data))
        return [ShuffledStream(some, self.options.seed, size) for some, size in zip(samples, sizes, strict=True)]

    def term_weights(self, streams: list[ShuffledStream]) -> dict[str, float]:
        """What terms weigh in a hybrid: their share of samples."""
        if self.objective != "hybrid":
            return {}
        return dict(zip(("mlm", "clm"), (stream.size / self.rows for stream in streams), strict=True))

    def steps(self, streams: list[ShuffledStream]) -> int:
        """How long it takes; epochs are those of the causal half, where there is one."""
        options = self.options
        if options.max_steps is not None:
            return options.max_steps
        if options.max_tokens is not None:
            return -(-options.max_tokens // (self.rows * self.length))
        if options.max_time is not None:
            return UNKNOWN_STEPS
        return max(1, round(options.epochs * len(streams[-1].samples) / streams[-1].size))

    def objectives(self) -> dict[type, Objective]:
        """By the kind of rows."""
        end = None if self.cross_document_attention else self.tokenizer.eos_id
        found: dict[type, Objective] = {CausalBatch: CausalLM(end)}
        if self.masked:
            found[MLMBatch] = MaskedLM(self.tokenizer.roles["mask"], shift_targets=self.objective == "hybrid")
        return found

    def model(self, first: bool = True) -> Transformer:
        """As it is before the first step; a run that goes on need not count again, its checkpoint knows."""
        options = self.options
        if self.init is None:
            model = init_model(self.config, options.seed)
            if first and options.embedding_init == "ppmi":
                ppmi_init(model, self.shards)
            return model
        return extend_vocabulary(self.init, self.tokenizer, options.dropout, options.seed)

    def flops_per_step(self, model: Transformer) -> float:
        """By the usual count; of a masked row only hidden positions meet the vocabulary."""
        rate = self.manifest["config"].get("mlm_probability", 1.0)
        sizes = hybrid_split(self.rows, self.options.mlm_ratio) if self.objective == "hybrid" else (self.rows,)
        scored = (rate, 1.0) if self.masked else (1.0,)
        pairs = zip(sizes, scored, strict=False)
        return self.length * sum(size * model.flops_per_token(self.length, share) for size, share in pairs)

    def config_record(self, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What must not change while a run goes on, and what may, if it is said."""
        given = self.options.model_dump(mode="json")
        options = {key: value for key, value in given.items() if key not in (*UNRECORDED_OPTIONS, *MUTABLE_OPTIONS)}
        options |= {"init": weights_hash(self.init_folder)} if self.init_folder else {}
        data = sha256_of(self.data / "manifest.json")
        fixed = {"options": options, "data_sha256": data, "steps": None if steps == UNKNOWN_STEPS else steps}
        shape = {"model": self.config.model_dump(), "objective": self.objective, "cross_document_attention": self.cross_document_attention,
                 "length": self.length}  # fmt: skip
        return fixed | shape, {key: given[key] for key in MUTABLE_OPTIONS} | {
            "precision": self.precision,
            "code": code_hash(CODE_DEPS),
        }

    def model_card(self, steps: int) -> str:
        """What this is, for people."""
        config, name = self.config, self.options.preset or "continued"
        with torch.device("meta"):
            count = Transformer(config).num_parameters()
        tokens = steps * self.rows * self.length
        return (
            f"# {name}, {self.objective}\n\n"
            f"d{config.dim} L{config.layers} H{config.heads}, {count:,} weights, vocabulary {config.vocab_size:,}; trained "
            f"by bertgpt {__version__} for {steps:,} steps of {self.rows} rows of {self.length}, {tokens:,} tokens.\n"
        )


def run(options: PretrainOptions) -> dict[str, Any]:
    """Train a model, or go on with it."""
    if int(os.environ.get("RANK", "0")):  # one of them speaks
        console.silence_non_main()
    run = PretrainSetup(options)
    streams = run.streams()
    steps = run.steps(streams)
    run.accumulation(1)
    if options.warmup > steps:
        console.note(
            f"the learning rate will not reach {options.lr:g}: warm-up takes {options.warmup:,} steps of {steps:,}"
        )
    if options.dry_run:
        return dry_run(run, streams, steps)
    folder, group = RunDirectory(Path(options.out)), init_distributed(run.device)
    run.accumulation(group.world_size)
    if options.tensorboard:
        require_package("tensorboard", "tensorboard")
    facts = {"options": options.model_dump(mode="json"), "device": str(run.device), "precision": run.precision}
    anew = True if options.overwrite else None if options.overwrite_if_changed else False

    def finished(trainer: Trainer) -> None:
        counts = {"steps": trainer.step, "tokens": trainer.step * run.rows * run.length}
        trained = PretrainedModel(
            trainer.model.cpu(), run.tokenizer, run.objective, run.cross_document_attention, run.length
        )
        folder.publish(trained, run.model_card(trainer.step), counts)

    return run_training(
        folder, group, run.device, facts, run.config_record(steps), run.tokenizer, anew,
        lambda: build_trainer(run, streams, steps, folder, group), finished,
    )  # fmt: skip


def build_trainer(
    run: PretrainSetup, streams: list[ShuffledStream], steps: int, folder: RunDirectory, group: DistContext
) -> Trainer:
    """Everything put together."""
    options, device = run.options, run.device
    begun = group.all_reduce_max(bool(group.is_main and folder.checkpoints.all()), device)
    model = run.model(first=not begun).to(device)
    if options.deterministic:
        use_deterministic_algorithms()
    if options.activation_checkpointing:
        enable_activation_checkpointing(model)
    if options.compile or (options.compile is None and device.type == "cuda"):
        compile_model(model, device, options.dropout)
    names = ("seed", "grad_clip", "log_every", "save_every")
    peak = peak_flops(device)
    settings = TrainerConfig(
        tokens_per_step=run.rows * run.length,
        precision=run.precision,
        max_seconds=options.max_time if steps == UNKNOWN_STEPS else None,
        flops_per_step=run.flops_per_step(model),
        peak_flops=peak and peak * group.world_size,
        **{name: getattr(options, name) for name in names},
    )
    if group.is_main and not folder.checkpoints.all():
        ensure_writable_folder(folder.checkpoints.folder)
        check_space(folder.checkpoints.folder, 2 * 12 * model.num_parameters())  # a new checkpoint beside the last one
    return Trainer(
        model,
        run.objectives(),
        run.term_weights(streams),
        StepLoader(*streams, division=BatchPartition(group.world_size, group.rank, run.accumulation(group.world_size))),
        Optimizers(model, options.optimizer, options.weight_decay, options.beta2, options.embedding_lr_scale),
        LRSchedule(options.schedule, steps, options.warmup, options.lr, options.min_lr_ratio),
        settings,
        folder.checkpoints,
        RunLogger(folder.path, group.is_main, options.tensorboard),
        [*run.validation_callbacks(), *run.benchmark_callbacks(), *run.sample_callbacks(folder.path)],
        group,
        device,
    )


def dry_run(run: PretrainSetup, streams: list[ShuffledStream], steps: int) -> dict[str, Any]:
    """What would be done."""
    with torch.device("meta"):
        model = Transformer(run.config)
    parameters, per_step = model.num_parameters(), run.rows * run.length
    said: dict[str, Any] = {
        "path": run.options.out, "objective": run.objective, "device": str(run.device), "precision": run.precision,
        "parameters": parameters, "tokens_per_step": per_step,
    }  # fmt: skip
    if steps != UNKNOWN_STEPS:
        tokens = steps * per_step
        said |= {"steps": steps, "tokens": tokens, "tokens_per_parameter": round(tokens / parameters, 2)}
        for stream, name in zip(streams, ("mlm", "clm") if run.objective == "hybrid" else ("",), strict=True):
            said[f"{name}_epochs".lstrip("_")] = round(steps * stream.size / len(stream.samples), 3)
        said["flops"] = run.flops_per_step(model) * steps
    width = 4 if run.precision == "fp32" else 2
    said |= {
        "memory": model.estimate_training_memory(run.rows // run.accumulation(1), run.length, width),
        "checkpoint_bytes": 12 * parameters, "disk_free": shutil.disk_usage(nearest_existing(Path(run.options.out))).free,
    }  # fmt: skip
    return said


def show(result: dict[str, Any], console: Console) -> None:
    """Print what came of it."""
    if "memory" in result:
        plan = ((name.replace("_", " "), planned(name, value)) for name, value in result.items())
        console.table(("would be done", ""), plan)
        return
    console.heading(f"{result['parameters']:,} weights in {result['path']}, {result['steps']:,} steps")
    figures = {name: value for name, value in result.items() if name.startswith(("train_", "val_"))}
    rows = []
    names = list(dict.fromkeys(name.partition("_")[2] for name in figures))
    terms = [term for term in ("clm", "mlm", "nsp") if f"{term}_loss" in names]
    if len(terms) == 1:  # it is the whole
        names = [name for name in names if name not in (f"{terms[0]}_loss", f"{terms[0]}_acc")]
    for name in names:
        found = [figures.get(f"{split}_{name}") for split in ("train", "val")]
        rows.append([name.replace("_", " "), *("" if value is None else f"{value:.4g}" for value in found)])
    console.table(("", "train", "held out"), rows)


def planned(name: str, value: Any) -> str:
    """A figure of a dry run."""
    if name in ("memory", "checkpoint_bytes", "disk_free"):
        return f"{value / 1e9:,.2f} GB"
    return f"{value:.3g}" if name == "flops" else format_number(value)
