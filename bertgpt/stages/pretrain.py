"""Pretrain a GPT, a BERT or a hybrid from scratch. An interrupted run resumes when the same command is given again."""

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bertgpt.callbacks.validation import ValidationCallback, target_bytes
from bertgpt.config.code_deps import code_hash
from bertgpt.config.presets import PRESETS, ModelConfig, Preset
from bertgpt.config.training_options import PretrainOptions
from bertgpt.data.format import KIND_NAMES, check_unchanged, manifest_hash, read_manifest
from bertgpt.data.loading.causal import CausalBatch, CausalDataset
from bertgpt.data.loading.loader import BatchPartition, Dataset, ShuffledStream, StepLoader, hybrid_split
from bertgpt.data.loading.mlm import MLMBatch, longest_segment, open_mlm_dataset
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.model import Transformer
from bertgpt.trainer import Trainer, TrainerConfig
from bertgpt.training import setup as common
from bertgpt.training.callback import Callback
from bertgpt.training.device import compile_model, enable_activation_checkpointing, resolve_device, resolve_precision
from bertgpt.training.distributed import init_distributed
from bertgpt.training.init import init_model
from bertgpt.training.logger import RunLogger
from bertgpt.training.objectives import CausalLM, MaskedLM, Objective
from bertgpt.training.optimizers import UNKNOWN_STEPS, LRSchedule, Optimizers
from bertgpt.training.ppmi_init import ppmi_init
from bertgpt.training.run_directory import RunDirectory, RunRecord, RunResult
from bertgpt.utils.console import Console
from bertgpt.utils.disk import nearest_existing
from bertgpt.utils.errors import BertGPTError, require_package
from bertgpt.utils.tables import show_dry_run, show_metrics
from bertgpt.utils.version import __version__

# Options that may change on resuming: those that change no more than rounding, and those that change what is logged, or
# which checkpoint a divergence rolls back to.
UNRECORDED_OPTIONS = (
    "out", "data", "micro_batch_size", "device", "compile", "deterministic", "activation_checkpointing", "tensorboard",
    "overwrite", "overwrite_if_changed", "dry_run",
)  # fmt: skip
MUTABLE_OPTIONS = (
    "log_every", "eval_every", "eval_tokens", "save_every", "sample_every", "probe", "probe_every", "probe_data",
    "eval", "eval_data", "eval_items",
)  # fmt: skip
DEFAULT_MICRO_TOKENS = 32_768  # of a micro-batch, if --micro-batch-size is not given


def run(options: PretrainOptions) -> dict[str, Any]:
    """Train a model, or resume the run in --out. Returns the metrics of the finished run."""
    common.silence_other_ranks()
    setup = PretrainSetup(options)
    if options.dry_run:
        return setup.dry_run()
    dist = init_distributed(setup.device)
    setup.accumulation(dist.world_size)  # refuses a batch that the ranks cannot share before anything is written
    with RunDirectory.open(Path(options.out), setup.record(), dist, setup.device) as run:
        if not run.is_finished:
            trainer = setup.build_trainer(run)
            trainer.train()
            if dist.is_main:
                run.publish(setup.result(trainer))
    return run.metrics()


class PretrainSetup:
    """What the options resolve to: preset, data, objective, model, device. Raises for what does not fit together."""

    def __init__(self, options: PretrainOptions) -> None:
        self.options, self.data = options, Path(options.data)
        self.data_sha256 = manifest_hash(self.data)
        self.manifest = read_manifest(self.data)
        self.init, self.init_path = self.load_init()
        self.preset = self.resolve_preset()
        self.objective = self.resolve_objective()
        self.masked = self.objective in ("mlm", "hybrid")
        self.tokenizer = self.load_tokenizer()
        vocab_size = 0 if self.init is None else self.init.model.config.vocab_size
        changes = {"vocab_size": max(vocab_size, self.tokenizer.max_id + 1), "dropout": options.dropout}
        self.config = ModelConfig(**(self.preset.model.model_dump() | changes))
        self.length = self.manifest["config"]["seq_len"] if self.masked else options.seq_len
        self.config.check_length(self.length)
        given = options.cross_document_attention
        self.cross_document_attention = self.preset.cross_document_attention if given is None else given
        self.rows = max(1, round(options.tokens_per_step / self.length))
        self.device = resolve_device(options.device)
        self.precision = resolve_precision(options.precision, self.device)
        if options.tensorboard and not options.dry_run:
            require_package("tensorboard", "tensorboard")
        self.accumulation(world_size=1)
        schedule = LRSchedule(options.schedule, self.steps, options.warmup, options.lr, options.min_lr_ratio)
        self.schedule = schedule.with_fitting_warmup()
        common.note_changed_options(options)

    # ------------------------------------------------------------------------------------ what to train, on what

    def load_init(self) -> tuple[PretrainedModel | None, Path | None]:
        """The model of --init, and where it is."""
        if self.options.init is None:
            return None, None
        if self.options.embedding_init == "ppmi":
            raise BertGPTError("BG204", "--init cannot be combined with --embedding-init", hint="drop one of them")
        from bertgpt.inference.load import load_model

        return load_model(self.options.init)

    def resolve_preset(self) -> Preset:
        """The preset, with the shape of --init if that is given; both together must agree."""
        name = self.options.preset
        if self.init is None:
            if name is None:
                raise BertGPTError("BG203", "--preset is missing", hint="or --init, for the shape of another run")
            return PRESETS[name]
        config, free = self.init.model.config, {"vocab_size", "dropout"}
        if name is None:
            return Preset("", config, "clm" if self.manifest["kind"] == "shards" else "mlm", {})
        preset = PRESETS[name]
        if config.model_dump(exclude=free) != preset.model.model_dump(exclude=free):
            raise BertGPTError("BG221", f"--init architecture does not match preset {name}", hint="drop --preset")
        return Preset(preset.about, config, preset.objective, preset.training, preset.cross_document_attention)

    def resolve_objective(self) -> str:
        """The objective, if the data are made for it: shards for CLM, a mask plan for MLM and hybrid."""
        objective, kind = self.options.objective or self.preset.objective, self.manifest["kind"]
        wanted = "shards" if objective == "clm" else "mask_plan"
        if kind != wanted:
            hint = "bertgpt shard turns tokenized files into shards"
            if kind != "tokens":
                make = "bertgpt mask makes a mask plan of shards" if wanted == "mask_plan" else "give the plan's shards"
                other = "clm" if kind == "shards" else "mlm"
                names = [name for name, preset in PRESETS.items() if preset.objective == other]
                nearest = min(names, key=lambda name: abs(PRESETS[name].model.dim - self.preset.model.dim))
                hint = f"{make}, or use a preset such as {nearest}"
            needs, held = (KIND_NAMES.get(name, name) for name in (wanted, kind))
            raise BertGPTError("BG221", f"objective {objective} needs {needs}; {self.data} is {held}", hint=hint)
        has_pairs = kind == "mask_plan" and self.manifest["config"]["sentence_pairs"] != "none"
        if has_pairs and not self.preset.model.token_types:
            hint = "make the plan with --sentence-pairs none, or use a preset such as bert-base"
            raise BertGPTError("BG221", "mask plan has sentence pairs but the model has no NSP head", hint=hint)
        return objective

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of the data, or the one of --tokenizer, which extends it."""
        tokenizer = own = load_tokenizer(self.data / "tokenizer")
        if self.options.tokenizer is not None:
            tokenizer = load_tokenizer(Path(self.options.tokenizer) / "tokenizer")
            if tokenizer.tokens[: len(own.tokens)] != own.tokens:
                raise BertGPTError("BG308", "mask plan and data use different tokenizers", path=self.options.tokenizer)
        if self.init is not None:
            from bertgpt.inference.load import check_extends

            check_extends(tokenizer, self.init.tokenizer)
        return tokenizer

    @property
    def shards(self) -> Path:
        """The shards behind the data: a mask plan refers to those that it was made for."""
        return self.data if self.manifest["kind"] == "shards" else (self.data / self.manifest["base"]["path"]).resolve()

    def datasets(self, split: str) -> list[Dataset]:
        """The datasets of a split: MLM rows, then causal windows."""
        datasets: list[Dataset] = []
        if self.masked:
            datasets.append(open_mlm_dataset(self.data, split))
        if self.objective != "mlm":
            datasets.append(CausalDataset(self.shards, split, self.length))
        return datasets

    @property
    def stream_sizes(self) -> tuple[int, ...]:
        """Rows of each dataset in a step."""
        return hybrid_split(self.rows, self.options.mlm_ratio) if self.objective == "hybrid" else (self.rows,)

    @cached_property
    def streams(self) -> list[ShuffledStream]:
        """The training datasets in shuffled order, each with its rows per step."""
        sizes, datasets = self.stream_sizes, self.datasets("train")
        check_unchanged(self.data, self.data_sha256)
        if 0 in sizes:
            hint = "use more --tokens-per-step, or a --mlm-ratio nearer to 0.5"
            message = f"hybrid batch of {self.rows} rows leaves no rows for one objective"
            raise BertGPTError("BG204", message, hint=hint)
        if not all(map(len, datasets)):
            raise BertGPTError("BG310", "nothing to train on: the train split is empty", path=str(self.data))
        return [ShuffledStream(data, self.options.seed, size) for data, size in zip(datasets, sizes, strict=True)]

    @cached_property
    def steps(self) -> int:
        """The length of the run; UNKNOWN_STEPS for a time budget. Epochs are those of the causal data in a hybrid."""
        options, stream = self.options, self.streams[-1]
        if options.max_steps is not None:
            return options.max_steps
        if options.max_tokens is not None:
            return -(-options.max_tokens // (self.rows * self.length))
        if options.max_time is not None:
            return UNKNOWN_STEPS
        return max(1, round(options.epochs * len(stream.dataset) / stream.batch_size))

    def accumulation(self, world_size: int) -> int:
        """Micro-batches per step and rank; by default the largest that stay within DEFAULT_MICRO_TOKENS."""
        sizes = [n for n in range(1, self.rows // world_size + 1) if self.rows % (n * world_size) == 0]
        default = max((n for n in sizes if n * self.length <= DEFAULT_MICRO_TOKENS), default=1)
        return common.accumulation_steps(self.rows, self.options.micro_batch_size or default, world_size)

    # ---------------------------------------------------------------------------------------------- the trainer

    def build_trainer(self, run: RunDirectory) -> Trainer:
        """Model, objectives, data, optimizers and callbacks, put together."""
        options, dist, device = self.options, run.dist, self.device
        common.prepare_device(options, device)
        resuming = bool(dist.all_reduce_max(bool(dist.is_main and run.checkpoints.all()), device))
        model = self.model(skip_ppmi=resuming or not dist.is_main).to(device)
        if options.activation_checkpointing:
            enable_activation_checkpointing(model)
        if options.compile or (options.compile is None and device.type == "cuda"):
            compile_model(model, device, options.dropout)
        config = TrainerConfig(
            tokens_per_step=self.rows * self.length,
            seed=options.seed,
            grad_clip=options.grad_clip,
            log_every=options.log_every,
            save_every=options.save_every,
            precision=self.precision,
            max_seconds=options.max_time if self.steps == UNKNOWN_STEPS else None,
            flops_per_step=self.flops_per_step(model),
            peak_flops=common.total_peak_flops(device, dist.world_size),
        )
        run.update_metadata({"flops_per_step": config.flops_per_step})
        common.check_checkpoint_space(run, model.num_parameters())
        partition = BatchPartition(dist.world_size, dist.rank, self.accumulation(dist.world_size))
        return Trainer(
            model=model,
            objectives=self.objectives(),
            term_weights=self.term_weights(),
            loader=StepLoader(*self.streams, partition=partition),
            optimizers=Optimizers(
                model, options.optimizer, options.weight_decay, options.beta2, options.embedding_lr_scale
            ),
            schedule=self.schedule,
            config=config,
            checkpoints=run.checkpoints,
            logger=RunLogger(run.path, dist.is_main, options.tensorboard),
            callbacks=self.callbacks(run.path),
            dist=dist,
            device=device,
        )

    def model(self, skip_ppmi: bool = False) -> Transformer:
        """The model before the first step. PPMI is skipped where parameters come from a checkpoint or the main rank."""
        options = self.options
        if self.init is not None:
            from bertgpt.inference.load import extend_vocabulary

            return extend_vocabulary(self.init, self.tokenizer, options.dropout, options.seed)
        model = init_model(self.config, options.seed)
        if options.embedding_init == "ppmi" and not skip_ppmi:
            ppmi_init(model, self.shards)
        return model

    def objectives(self) -> dict[type, Objective]:
        """The objective of each type of batch."""
        eos_id = None if self.cross_document_attention else self.tokenizer.eos_id
        objectives: dict[type, Objective] = {CausalBatch: CausalLM(eos_id)}
        if self.masked:
            # A hybrid predicts the token after each position in both objectives, so that one head serves both.
            objectives[MLMBatch] = MaskedLM(self.tokenizer.roles["mask"], shift_targets=self.objective == "hybrid")
        return objectives

    def term_weights(self) -> dict[str, float]:
        """The loss terms of a hybrid are weighted by their share of rows."""
        if self.objective != "hybrid":
            return {}
        return {term: size / self.rows for term, size in zip(("mlm", "clm"), self.stream_sizes, strict=True)}

    def flops_per_step(self, model: Transformer) -> float:
        """Model FLOPs of a step. In MLM rows only masked positions need logits."""
        scored = (self.manifest["config"].get("mlm_probability", 1.0), 1.0) if self.masked else (1.0,)
        sizes = zip(self.stream_sizes, scored, strict=False)
        return self.length * sum(size * model.flops_per_token(self.length, share) for size, share in sizes)

    def callbacks(self, folder: Path) -> list[Callback]:
        """Validation, benchmarks and samples, as far as options and data ask for them."""
        return [*self.validation_callbacks(), *self.benchmark_callbacks(), *self.sample_callbacks(folder)]

    def validation_callbacks(self) -> list[Callback]:
        """Validation loss, if there is a val split; bits per byte of CLM where the tokenizer is lossless."""
        if "val" not in self.manifest["splits"]:
            return []
        datasets, token_bytes = self.datasets("val"), self.tokenizer.token_bytes
        rows = max(1, self.options.eval_tokens // self.length)
        windows = [data for data in datasets if isinstance(data, CausalDataset)]
        text_bytes = 0 if token_bytes is None else sum(target_bytes(data, rows, token_bytes) for data in windows)
        return [ValidationCallback(datasets, self.options.eval_every, self.length, rows, text_bytes)]

    def benchmark_callbacks(self) -> list[Callback]:
        """The benchmarks of --probe and --eval."""
        options = self.options
        if not (options.probe or options.eval):
            return []
        from bertgpt.callbacks.benchmarks import BenchmarkCallback

        model = (self.tokenizer, self.objective, self.length)
        probe = (options.probe, options.probe_every, options.probe_data)
        suite = (options.eval, options.eval_every, options.eval_data)
        return [
            BenchmarkCallback.load(name, every, data, options.eval_items, *model)
            for name, every, data in (probe, suite)
            if name
        ]

    def sample_callbacks(self, folder: Path) -> list[Callback]:
        """Samples to samples.txt, with --sample-every."""
        if not self.options.sample_every:
            return []
        from bertgpt.callbacks.samples import SampleCallback

        has_text = self.masked and "val" in self.manifest["splits"]
        text = self.tokenizer.decode(longest_segment(open_mlm_dataset(self.data, "val"))) if has_text else ""
        model = (self.tokenizer, self.objective, self.length)
        return [SampleCallback(folder / "samples.txt", self.options.sample_every, *model, text, self.options.seed)]

    # ------------------------------------------------------------------------- what is recorded and published

    def record(self) -> RunRecord:
        """What the run directory records. Everything that decides the result is in `fixed`."""
        options = common.recorded(self.options, (*UNRECORDED_OPTIONS, *MUTABLE_OPTIONS))
        if self.init_path is not None:
            from bertgpt.inference.load import weights_hash

            options |= {"init": weights_hash(self.init_path)}
        given = self.options.model_dump(mode="json")
        fixed = {
            "options": options, "data_sha256": self.data_sha256,
            "steps": None if self.steps == UNKNOWN_STEPS else self.steps, "model": self.config.model_dump(),
            "objective": self.objective, "cross_document_attention": self.cross_document_attention,
            "seq_len": self.length,
        }  # fmt: skip
        mutable = {name: given[name] for name in MUTABLE_OPTIONS}
        mutable |= {"precision": self.precision, "code_hash": code_hash("pretrain")}
        metadata = {"options": given, "device": str(self.device), "precision": self.precision}
        return RunRecord(fixed, mutable, metadata, self.tokenizer, common.overwrite_mode(self.options))

    def result(self, trainer: Trainer) -> RunResult:
        """The trained model and its card."""
        model = PretrainedModel(
            trainer.model.cpu(), self.tokenizer, self.objective, self.cross_document_attention, self.length
        )
        counts = {"steps": trainer.step, "tokens": trainer.step * self.rows * self.length}
        return RunResult(model, self.model_card(trainer.step), counts, trainer.timer.summary())

    def model_card(self, steps: int) -> str:
        """A short description in Markdown."""
        config, name = self.config, self.options.preset or "continued"
        parameters, tokens = on_meta(config).num_parameters(), steps * self.rows * self.length
        return (
            f"# {name}, {self.objective}\n\n"
            f"d{config.dim} L{config.layers} H{config.heads}, {parameters:,} parameters, vocabulary "
            f"{config.vocab_size:,}; trained by bertgpt {__version__} for {steps:,} steps of {self.rows} rows of "
            f"{self.length}, {tokens:,} tokens.\n"
        )

    def dry_run(self) -> dict[str, Any]:
        """What the run would cost: parameters, tokens, FLOPs, memory, disk."""
        model = on_meta(self.config)
        parameters, tokens_per_step = model.num_parameters(), self.rows * self.length
        plan: dict[str, Any] = {
            "path": self.options.out, "objective": self.objective, "device": str(self.device),
            "precision": self.precision, "parameters": parameters, "tokens_per_step": tokens_per_step,
        }  # fmt: skip
        if self.steps != UNKNOWN_STEPS:
            tokens = self.steps * tokens_per_step
            plan |= {"steps": self.steps, "tokens": tokens, "tokens_per_parameter": round(tokens / parameters, 2)}
            names = ("mlm_epochs", "clm_epochs") if self.objective == "hybrid" else ("epochs",)
            for stream, name in zip(self.streams, names, strict=True):
                plan[name] = round(self.steps * stream.batch_size / len(stream.dataset), 3)
            plan["flops"] = self.flops_per_step(model) * self.steps
        width = 4 if self.precision == "fp32" else 2
        micro = self.rows // self.accumulation(world_size=1)
        free = shutil.disk_usage(nearest_existing(Path(self.options.out))).free
        memory = model.estimate_training_memory(micro, self.length, width)
        return plan | {"memory": memory, "checkpoint_bytes": common.CHECKPOINT_BYTES * parameters, "disk_free": free}


def on_meta(config: ModelConfig) -> Transformer:
    """A model without memory, to count with."""
    with torch.device("meta"):
        return Transformer(config)


def show(result: dict[str, Any], console: Console) -> None:
    """Print the metrics of the run, or what a dry run found."""
    if "memory" in result:
        show_dry_run(result, console)
        return
    console.heading(f"{result['parameters']:,} parameters in {result['path']}, {result['steps']:,} steps")
    show_metrics(result, console)
