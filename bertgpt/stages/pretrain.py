"""The stage `pretrain`: options to a trainer. A run that was interrupted goes on if the same command is given again."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from bertgpt.callbacks.benchmarks import Watched
from bertgpt.callbacks.samples import Samples
from bertgpt.callbacks.validation import HeldOut, bytes_of
from bertgpt.config.options import PretrainOptions
from bertgpt.config.presets import PRESETS, ModelConfig, Preset
from bertgpt.data.execution.workdir import existing, fingerprint
from bertgpt.data.format import read_manifest
from bertgpt.data.loading import loader
from bertgpt.data.loading.causal import Causal, Windows
from bertgpt.data.loading.loader import Division, Loader, Stream, shared
from bertgpt.data.loading.mlm import MaskedRows, a_piece, open_rows
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import Saved
from bertgpt.inference.load import find, weights_hash, with_ids_of
from bertgpt.model import Transformer
from bertgpt.stages.run_training import carry_out
from bertgpt.trainer import Settings, Trainer
from bertgpt.training.device import (
    compile_for,
    device_of,
    peak_of,
    precision_of,
    recompute_blocks,
    take_exact_algorithms,
)
from bertgpt.training.distributed import Group, join
from bertgpt.training.init import build
from bertgpt.training.logger import Journal
from bertgpt.training.objectives import Hidden, Objective, Onward
from bertgpt.training.optimizers import NO_END, Optimizers, Schedule
from bertgpt.training.ppmi_init import begin_with_counts
from bertgpt.training.run_directory import RunFolder
from bertgpt.utils import console
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError, import_extra
from bertgpt.utils.files import check_space, make_folder, sha256_of
from bertgpt.utils.tables import shown
from bertgpt.utils.version import __version__

# What may change when a run goes on, and changes no more than rounding; and what may, but changes figures or the way
# back from a divergence.
FREE = ("out", "data", "micro_batch", "device", "compile", "deterministic", "recompute",
        "tensorboard", "fresh", "fresh_if_changed", "dry_run")  # fmt: skip
LOOSE = ("log_every", "eval_every", "eval_tokens", "save_every", "sample_every",
         "probe", "probe_every", "probe_data", "eval", "eval_data", "eval_items")  # fmt: skip
CODE = ("callbacks", "config", "data", "hub", "model.py", "ops", "stages", "trainer.py", "training", "utils")
AT_ONCE = 32_768  # ids of a micro-batch, if nothing else is said


class Run:
    """What the options come to, before anything is trained."""

    def __init__(self, options: PretrainOptions) -> None:
        self.options, self.data = options, Path(options.data)
        self.manifest = read_manifest(self.data)
        self.init: Saved | None = None
        self.init_folder: Path | None = None
        if options.init is not None:
            self.init, self.init_folder = find(options.init)
            if options.embeddings == "counts":
                hint = "leave out --embeddings: those of that run are there"
                raise BertGPTError("BG204", "--init and --embeddings counts are two ways to begin", hint=hint)
        self.preset = self.usual()
        self.objective = self.fitting_objective()
        self.masked = self.objective in ("masked", "hybrid")
        self.tokenizer = self.ids()
        rows = 0 if self.init is None else self.init.model.config.vocab
        settings: dict[str, Any] = {"vocab": max(rows, self.tokenizer.max_id + 1), "dropout": options.dropout}
        self.config = ModelConfig(**(self.preset.model.model_dump() | settings))
        self.length = self.manifest["config"]["seq_len"] if self.masked else options.seq_len
        self.config.check_length(self.length)
        self.documents = options.documents or self.preset.documents
        self.rows = max(1, round(options.tokens_per_step / self.length))
        self.device = device_of(options.device)
        self.precision = precision_of(options.precision, self.device)

    def usual(self) -> Preset:
        """The preset, or a model that stands in its place; where both are given they have the same shape."""
        name = self.options.preset
        if self.init is None:
            if name is None:
                raise BertGPTError("BG203", "--preset is missing", hint="or --init, for the shape of another run")
            return PRESETS[name]
        like, free = self.init.model.config, {"vocab", "dropout"}
        if name is not None and like.model_dump(exclude=free) != PRESETS[name].model.model_dump(exclude=free):
            hint = "leave out --preset, or take the one that it was trained with"
            raise BertGPTError("BG221", f"the model of --init has another shape than {name}", hint=hint)
        kind = "causal" if self.manifest["kind"] == "shards" else "masked"
        preset = PRESETS[name] if name is not None else Preset("", like, kind, {}, "apart")  # type: ignore[arg-type]
        return Preset(preset.about, like, preset.objective, preset.training, preset.documents)

    def ids(self) -> Tokenizer:
        """The tokenizer of the data, or the longer one of a plan that was made from them."""
        own = Tokenizer.load(self.data / "tokenizer")
        if self.options.tokenizer is None:
            return own
        longer = Tokenizer.load(Path(self.options.tokenizer) / "tokenizer")
        if longer.tokens[: len(own.tokens)] != own.tokens:
            raise BertGPTError("BG308", "that plan has other ids than the data", path=self.options.tokenizer)
        return longer

    @property
    def base(self) -> Path:
        """The shards that are trained on: a plan is one of others."""
        return self.data if self.manifest["kind"] == "shards" else (self.data / self.manifest["base"]["path"]).resolve()

    def accumulation(self, world: int) -> int:
        """Into how many micro-batches each process divides its part of a step."""
        fits = [n for n in range(1, self.rows // world + 1) if self.rows % (n * world) == 0]
        usual = max((n for n in fits if n * self.length <= AT_ONCE), default=1)
        micro = self.options.micro_batch or usual
        if self.rows % (micro * world):
            several = f" in {world} processes" if world > 1 else ""
            near = sorted(fits, key=lambda n: abs(n - micro))[:2]
            hint = f"--micro-batch {' or '.join(map(str, sorted(near)))} divides them" if near else None
            raise BertGPTError(
                "BG204", f"{self.rows} rows of a step do not divide into micro-batches of {micro}{several}", hint=hint
            )
        return self.rows // (micro * world)

    def fitting_objective(self) -> str:
        """What is trained, if the data are made for it."""
        objective, kind = self.options.objective or self.preset.objective, self.manifest["kind"]
        wanted = "shards" if objective == "causal" else "plan"
        if kind != wanted:
            hint = "bertgpt shard makes shards of token parts"
            if kind != "tokens":
                make = "bertgpt mask makes a plan of shards" if wanted == "plan" else "give the shards it is made of"
                other = "causal" if kind == "shards" else "masked"
                names = [name for name, preset in PRESETS.items() if preset.objective == other]
                near = min(names, key=lambda name: abs(PRESETS[name].model.dim - self.preset.model.dim))
                hint = f"{make}, or take a preset such as {near}"
            raise BertGPTError(
                "BG221", f"the objective {objective} needs {wanted}, and {self.data} is {kind}", hint=hint
            )
        if kind == "plan" and self.manifest["config"]["pair"] != "none" and not self.preset.model.segments:
            hint = "make the plan with --pair none, or take a preset such as bert-base"
            raise BertGPTError("BG221", "this model has no head for pairs, and the plan has pairs", hint=hint)
        return objective

    def samples(self, split: str) -> list[loader.Samples]:
        """The samples of a split, masked ones first."""
        found: list[loader.Samples] = []
        if self.masked:
            found.append(open_rows(self.data, split))
        if self.objective != "masked":
            found.append(Windows(self.base, split, self.length))
        return found

    def held_out(self) -> list[HeldOut]:
        """What looks at the held-out split, if there is one.

        Bits per byte are known where ids keep the text they stand for, and causal rows are scored.
        """
        if "val" not in self.manifest["splits"]:
            return []
        samples, lengths = self.samples("val"), self.tokenizer.token_bytes
        rows = max(1, self.options.eval_tokens // self.length)
        windows = [some for some in samples if isinstance(some, Windows)]
        text = 0 if lengths is None else sum(bytes_of(some, rows, lengths) for some in windows)
        return [HeldOut(samples, self.options.eval_every, self.length, rows, text)]

    def watched(self) -> list[Watched]:
        """The suites that are asked on the way."""
        options, model = self.options, (self.tokenizer, self.objective, self.length)
        asked = (
            (options.probe, options.probe_every, options.probe_data),
            (options.eval, options.eval_every, options.eval_data),
        )
        return [Watched.of(name, every, data, options.eval_items, *model) for name, every, data in asked if name]

    def sampler(self, folder: Path) -> list[Samples]:
        """What writes down what the model says, if that is wanted."""
        if not self.options.sample_every:
            return []
        masked = self.masked and "val" in self.manifest["splits"]
        text = self.tokenizer.decode(a_piece(open_rows(self.data, "val"))) if masked else ""
        usual = (self.tokenizer, self.objective, self.length, text, self.options.seed)
        return [Samples(folder / "samples.txt", self.options.sample_every, *usual)]

    def streams(self) -> list[Stream]:
        """What is trained on, and how many of each are in a step."""
        sizes = shared(self.rows, self.options.ratio) if self.objective == "hybrid" else (self.rows,)
        samples = self.samples("train")
        if 0 in sizes:
            hint = "more --tokens-per-step, or a --ratio nearer to a half"
            raise BertGPTError("BG204", f"a step of {self.rows} rows has none of one kind", hint=hint)
        if not all(map(len, samples)):
            raise BertGPTError("BG310", "there is nothing to train on: the split train is empty", path=str(self.data))
        return [Stream(some, self.options.seed, size) for some, size in zip(samples, sizes, strict=True)]

    def weights(self, streams: list[Stream]) -> dict[str, float]:
        """What terms weigh in a hybrid: their share of samples."""
        if self.objective != "hybrid":
            return {}
        return dict(zip(("masked", "causal"), (stream.size / self.rows for stream in streams), strict=True))

    def steps(self, streams: list[Stream]) -> int:
        """How long it takes; epochs are those of the causal half, where there is one."""
        options = self.options
        if options.max_steps is not None:
            return options.max_steps
        if options.max_tokens is not None:
            return -(-options.max_tokens // (self.rows * self.length))
        if options.max_time is not None:
            return NO_END
        return max(1, round(options.epochs * len(streams[-1].samples) / streams[-1].size))

    def objectives(self) -> dict[type, Objective]:
        """By the kind of rows."""
        end = self.tokenizer.end if self.documents == "apart" else None
        found: dict[type, Objective] = {Causal: Onward(end)}
        if self.masked:
            found[MaskedRows] = Hidden(self.tokenizer.roles["mask"], before=self.objective == "hybrid")
        return found

    def model(self, first: bool = True) -> Transformer:
        """As it is before the first step; a run that goes on need not count again, its checkpoint knows."""
        options = self.options
        if self.init is None:
            model = build(self.config, options.seed)
            if first and options.embeddings == "counts":
                begin_with_counts(model, self.base)
            return model
        return with_ids_of(self.init, self.tokenizer, options.dropout, options.seed)

    def flops_per_step(self, model: Transformer) -> float:
        """By the usual count; of a masked row only hidden positions meet the vocabulary."""
        rate = self.manifest["config"].get("rate", 1.0)
        sizes = shared(self.rows, self.options.ratio) if self.objective == "hybrid" else (self.rows,)
        scored = (rate, 1.0) if self.masked else (1.0,)
        pairs = zip(sizes, scored, strict=False)
        return self.length * sum(size * model.flops_per_token(self.length, share) for size, share in pairs)

    def settings(self, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What must not change while a run goes on, and what may, if it is said."""
        given = self.options.model_dump(mode="json")
        options = {key: value for key, value in given.items() if key not in (*FREE, *LOOSE)}
        options |= {"init": weights_hash(self.init_folder)} if self.init_folder else {}
        data = sha256_of(self.data / "manifest.json")
        fixed = {"options": options, "data_sha256": data, "steps": None if steps == NO_END else steps}
        shape = {"model": self.config.model_dump(), "objective": self.objective, "documents": self.documents,
                 "length": self.length}  # fmt: skip
        return fixed | shape, {key: given[key] for key in LOOSE} | {
            "precision": self.precision,
            "code": fingerprint(CODE),
        }

    def card(self, steps: int) -> str:
        """What this is, for people."""
        config, name = self.config, self.options.preset or "continued"
        with torch.device("meta"):
            count = Transformer(config).parameter_count()
        tokens = steps * self.rows * self.length
        return (
            f"# {name}, {self.objective}\n\n"
            f"d{config.dim} L{config.layers} H{config.heads}, {count:,} weights, vocabulary {config.vocab:,}; trained "
            f"by bertgpt {__version__} for {steps:,} steps of {self.rows} rows of {self.length}, {tokens:,} tokens.\n"
        )


def run(options: PretrainOptions) -> dict[str, Any]:
    """Train a model, or go on with it."""
    if int(os.environ.get("RANK", "0")):  # one of them speaks
        console.hush()
    run = Run(options)
    streams = run.streams()
    steps = run.steps(streams)
    run.accumulation(1)
    if options.warmup > steps:
        console.note(
            f"the learning rate will not reach {options.lr:g}: warm-up takes {options.warmup:,} steps of {steps:,}"
        )
    if options.dry_run:
        return dry(run, streams, steps)
    folder, group = RunFolder(Path(options.out)), join(run.device)
    run.accumulation(group.world)
    if options.tensorboard:
        import_extra("tensorboard", "tensorboard")
    facts = {"options": options.model_dump(mode="json"), "device": str(run.device), "precision": run.precision}
    anew = True if options.fresh else None if options.fresh_if_changed else False

    def finished(trainer: Trainer) -> None:
        counts = {"steps": trainer.step, "tokens": trainer.step * run.rows * run.length}
        trained = Saved(trainer.model.cpu(), run.tokenizer, run.objective, run.documents, run.length)
        folder.finish(trained, run.card(trainer.step), counts)

    return carry_out(
        folder, group, run.device, facts, run.settings(steps), run.tokenizer, anew,
        lambda: trainer_of(run, streams, steps, folder, group), finished,
    )  # fmt: skip


def trainer_of(run: Run, streams: list[Stream], steps: int, folder: RunFolder, group: Group) -> Trainer:
    """Everything put together."""
    options, device = run.options, run.device
    begun = group.most(bool(group.leads and folder.checkpoints.all()), device)
    model = run.model(first=not begun).to(device)
    if options.deterministic:
        take_exact_algorithms()
    if options.recompute:
        recompute_blocks(model)
    if options.compile or (options.compile is None and device.type == "cuda"):
        compile_for(model, device, options.dropout)
    names = ("seed", "clip", "log_every", "save_every")
    peak = peak_of(device)
    settings = Settings(
        tokens_per_step=run.rows * run.length,
        precision=run.precision,
        max_seconds=options.max_time if steps == NO_END else None,
        flops_per_step=run.flops_per_step(model),
        peak=peak and peak * group.world,
        **{name: getattr(options, name) for name in names},
    )
    if group.leads and not folder.checkpoints.all():
        make_folder(folder.checkpoints.folder)
        check_space(folder.checkpoints.folder, 2 * 12 * model.parameter_count())  # a new checkpoint beside the last one
    return Trainer(
        model,
        run.objectives(),
        run.weights(streams),
        Loader(*streams, division=Division(group.world, group.rank, run.accumulation(group.world))),
        Optimizers(model, options.optimizer, options.weight_decay, options.beta2, options.around),
        Schedule(options.schedule, steps, options.warmup, options.lr, options.lr_floor),
        settings,
        folder.checkpoints,
        Journal(folder.path, group.leads, options.tensorboard),
        [*run.held_out(), *run.watched(), *run.sampler(folder.path)],
        group,
        device,
    )


def dry(run: Run, streams: list[Stream], steps: int) -> dict[str, Any]:
    """What would be done."""
    with torch.device("meta"):
        model = Transformer(run.config)
    parameters, per_step = model.parameter_count(), run.rows * run.length
    said: dict[str, Any] = {
        "path": run.options.out, "objective": run.objective, "device": str(run.device), "precision": run.precision,
        "parameters": parameters, "tokens_per_step": per_step,
    }  # fmt: skip
    if steps != NO_END:
        tokens = steps * per_step
        said |= {"steps": steps, "tokens": tokens, "tokens_per_parameter": round(tokens / parameters, 2)}
        for stream, name in zip(streams, ("masked", "causal") if run.objective == "hybrid" else ("",), strict=True):
            said[f"{name}_epochs".lstrip("_")] = round(steps * stream.size / len(stream.samples), 3)
        said["flops"] = run.flops_per_step(model) * steps
    width = 4 if run.precision == "fp32" else 2
    said |= {
        "memory": model.training_bytes(run.rows // run.accumulation(1), run.length, width),
        "checkpoint_bytes": 12 * parameters, "disk_free": shutil.disk_usage(existing(Path(run.options.out))).free,
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
    terms = [term for term in ("causal", "masked", "pairs") if f"{term}_loss" in names]
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
    return f"{value:.3g}" if name == "flops" else shown(value)
