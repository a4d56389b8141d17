"""Fine-tune a pretrained model for a task, with one or several seeds.

OUT/seed-1337/    the run of each seed, which resumes if it is interrupted
OUT/random-1337/  the same from random init, as a baseline
OUT/final/        the model of the seed with the best validation score
OUT/TASK.json     scores on the test split, which no choice has looked at
"""

import re
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertgpt.config.code_deps import code_hash
from bertgpt.config.training_options import FinetuneOptions
from bertgpt.data.loading.classification import ClassificationDataset, EncodedExample, PackedBatch
from bertgpt.data.loading.loader import BatchPartition, ShuffledStream, StepLoader
from bertgpt.evals.labels import (
    Labels,
    linear_probe_baseline,
    predictions,
    score_classifiers,
    text_baselines,
)
from bertgpt.evals.metrics import compute_metric
from bertgpt.evals.results import EvalResult
from bertgpt.evals.splits import train_val_split
from bertgpt.evals.tasks import LabeledSplit, load_task
from bertgpt.hub import pretrained
from bertgpt.hub.pretrained import ClassificationHead, PretrainedModel
from bertgpt.inference.classify import encode_examples, predict_logits
from bertgpt.inference.load import load_model, weights_hash
from bertgpt.model import SequenceClassifier
from bertgpt.trainer import Trainer, TrainerConfig
from bertgpt.training import setup as common
from bertgpt.training.callback import TrainerView
from bertgpt.training.checkpoints import load_checkpoint
from bertgpt.training.device import resolve_device, resolve_precision
from bertgpt.training.distributed import DistContext, init_distributed
from bertgpt.training.init import INIT_STD, init_model
from bertgpt.training.logger import RunLogger
from bertgpt.training.objectives import SequenceClassification
from bertgpt.training.optimizers import LRSchedule, Optimizers
from bertgpt.training.run_directory import RunDirectory, RunRecord, RunResult
from bertgpt.utils import console
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import ensure_writable_folder, lock, write_json
from bertgpt.utils.tables import show_dry_run, show_scores

# Options that may change on resuming, or that say which runs there are.
UNRECORDED_OPTIONS = (
    "out", "data", "test_data", "micro_batch_size", "device", "deterministic", "overwrite", "overwrite_if_changed",
    "dry_run", "seeds", "seed", "random_baseline",
)  # fmt: skip
EVALS_PER_EPOCH = 4


def run(options: FinetuneOptions) -> dict[str, Any]:
    """Fine-tune one run per seed, evaluate them on the test split, publish the best. Returns the scores."""
    common.silence_other_ranks()
    setup = FinetuneSetup(options)
    for line in setup.summary_lines():
        console.info(line)
    if options.dry_run:
        return setup.dry_run()
    dist, out, started = init_distributed(setup.device), Path(options.out), time.time()
    setup.accumulation(dist.world_size)  # refuses a batch that the ranks cannot share before anything is written
    ensure_writable_folder(out)
    with lock(out / "run.lock", str(out)) if dist.is_main else nullcontext():
        for seed in setup.runs():
            train_seed(seed, dist)
        if not dist.is_main:
            return {"path": options.out}
        scores = evaluate_test_split(setup, out)
        scores.save(out, started)
        publish_best_seed(setup, out, scores.as_json())
    return {"path": options.out, "parameters": setup.pretrained.model.num_parameters()} | scores.as_json()


def train_seed(run_setup: "SeedRun", dist: DistContext) -> None:
    """Train one run to its end, or resume it."""
    console.info(f"{'random init' if run_setup.random_init else 'pretrained'}, seed {run_setup.seed}")
    with RunDirectory.open(run_setup.path, run_setup.record(), dist, run_setup.setup.device) as run:
        if not run.is_finished:
            trainer = run_setup.build_trainer(run)
            trainer.train()
            if dist.is_main:
                run.publish(run_setup.result(trainer))


@dataclass(frozen=True)
class ClassificationValidationCallback:
    """Loss and score of the validation split; the score selects the checkpoint that is published."""

    examples: list[EncodedExample]
    labels: Labels
    metric: str
    every: int
    name: str = "val"

    def __call__(self, view: TrainerView) -> dict[str, Any] | None:
        """Evaluate on the main rank; the others wait."""
        if not view.dist.is_main:
            return None
        logits = predict_logits(view.model, self.examples, view.device)
        score = compute_metric(self.metric, self.labels, predictions(logits))
        regression = logits.shape[1] == 1
        loss = torch.nn.functional.mse_loss if regression else torch.nn.functional.cross_entropy
        inputs = torch.from_numpy(logits[:, 0] if regression else logits)
        return {"loss": float(loss(inputs, torch.from_numpy(self.labels))), self.metric: score, "error": 1 - score}


class FinetuneSetup:
    """What the options resolve to: model, task, splits, device. Raises for what does not fit together."""

    def __init__(self, options: FinetuneOptions) -> None:
        self.options = options
        check_output_folder(Path(options.out))
        self.pretrained, self.pretrained_path = load_model(str(options.model))
        columns = (options.text_column, options.pair_column, options.label_column)
        self.task = load_task(
            options.task,
            options.data,
            options.test_data,
            columns,
            options.problem_type,
            options.limit,
            options.revision,
        )
        self.length = min(self.pretrained.max_length, options.seq_len or self.pretrained.max_length)
        self.train, self.val, self.left_out = train_val_split(self.task, options.val_fraction)
        self.device = resolve_device(options.device)
        self.precision = resolve_precision(options.precision, self.device)
        self.causal = self.pretrained.objective == "clm"
        layers = self.pretrained.model.config.layers
        if options.freeze_layers > layers:
            cause = f"{options.freeze_layers} of {layers}"
            raise BertGPTError("BG204", "--freeze-layers exceeds the number of layers", cause=cause)
        self.accumulation(world_size=1)

    def runs(self) -> list["SeedRun"]:
        """Each seed from the pretrained parameters, and from random init if that baseline is wanted."""
        starts = (False, True) if self.options.random_baseline else (False,)
        return [SeedRun(self, seed, random_init) for seed in self.seeds for random_init in starts]

    @property
    def seeds(self) -> list[int]:
        """The seeds to train with."""
        return [self.options.seed + number for number in range(self.options.seeds)]

    @cached_property
    def examples(self) -> ClassificationDataset:
        """The training split, encoded."""
        return ClassificationDataset(self.encode(self.train), self.train.label_ids(self.task.classes), self.causal)

    @cached_property
    def mean_tokens(self) -> float:
        """Tokens per training example."""
        return sum(len(example.input_ids) for example in self.examples.examples) / len(self.examples)

    def encode(self, split: LabeledSplit) -> list[EncodedExample]:
        """Texts to token ids, truncated to the model's length."""
        return encode_examples(self.pretrained, split.texts, split.second_texts, self.length)

    @property
    def steps(self) -> int:
        """Length of each run."""
        return self.options.max_steps or max(1, round(self.options.epochs * len(self.train) / self.batch_size))

    @property
    def batch_size(self) -> int:
        """Examples per step."""
        return min(self.options.batch_size, len(self.train))

    @property
    def eval_every(self) -> int:
        """Steps between validations, and between checkpoints."""
        per_epoch = min(self.steps, len(self.train) // self.batch_size)
        return self.options.eval_every or max(1, per_epoch // EVALS_PER_EPOCH)

    def accumulation(self, world_size: int) -> int:
        """Micro-batches per step and rank; one by default."""
        default = max(1, self.batch_size // world_size)
        return common.accumulation_steps(self.batch_size, self.options.micro_batch_size or default, world_size)

    @cached_property
    def weights_sha256(self) -> str:
        """The hash of the pretrained parameters."""
        return weights_hash(self.pretrained_path)

    def summary_lines(self) -> list[str]:
        """The task and the sizes of its splits, for the user to check before training."""
        classes = self.task.classes
        shown = f"{', '.join(classes[:6])}{', ...' * (len(classes) > 6)}"
        kind = f"{len(classes)} classes ({shown})" if classes else "regression"
        sizes = f"{len(self.train):,} training, {len(self.val):,} validation, {len(self.task.test):,} test texts"
        lines = [f"{self.task.name}: {kind}; {sizes}"]
        if self.left_out:
            lines.append(f"{self.left_out:,} training texts are in the test split too, and left out of training")
        return lines

    def dry_run(self) -> dict[str, Any]:
        """What the runs would do."""
        return {
            "path": self.options.out, "task": self.task.name, "classes": list(self.task.classes),
            "train": len(self.train), "val": len(self.val), "test": len(self.task.test), "left_out": self.left_out,
            "runs": len(self.runs()), "steps": self.steps, "batch_size": self.batch_size,
            "tokens": sum(len(example.input_ids) for example in self.examples.examples),
            "device": str(self.device), "precision": self.precision,
        }  # fmt: skip

    def model_card(self, seed: str) -> str:
        """A short description in Markdown."""
        config = self.pretrained.model.config
        return (
            f"# {self.task.name}\n\nd{config.dim} L{config.layers} H{config.heads}, fine-tuned by bertgpt for "
            f"{self.steps:,} steps of {self.batch_size} of {len(self.train):,} texts; {seed}.\n"
        )


def check_output_folder(out: Path) -> None:
    """The output must not hold a run of `pretrain`, and must not be a file."""
    if (out / "config.yaml").exists():
        raise BertGPTError("BG213", "output contains a pretraining run", path=str(out), hint="give another --out")
    if out.exists() and not out.is_dir():
        raise BertGPTError("BG404", "output is a file, not a folder", path=str(out), hint="give another --out")


# ------------------------------------------------------------------------------------------------- one seed


@dataclass(frozen=True)
class SeedRun:
    """The run of one seed."""

    setup: FinetuneSetup
    seed: int
    random_init: bool

    @property
    def path(self) -> Path:
        """Its run directory."""
        return Path(self.setup.options.out) / f"{'random' if self.random_init else 'seed'}-{self.seed}"

    def record(self) -> RunRecord:
        """What the run directory records. Everything that decides the result is in `fixed`."""
        setup, options = self.setup, self.setup.options
        model = setup.pretrained
        fixed = {
            "options": common.recorded(options, (*UNRECORDED_OPTIONS, "log_every", "model", "task")),
            "task": setup.task.name, "labels": list(setup.task.classes), "steps": setup.steps,
            "texts_sha256": setup.task.texts_sha256, "seed": self.seed,
            "weights": "random" if self.random_init else setup.weights_sha256,
            "model": model.model.config.model_dump() | {"dropout": options.dropout}, "objective": model.objective,
            "cross_document_attention": model.cross_document_attention, "seq_len": setup.length,
        }  # fmt: skip
        mutable = {"log_every": options.log_every, "precision": setup.precision, "code_hash": code_hash("finetune")}
        given = options.model_dump(mode="json")
        metadata = {"options": given, "device": str(setup.device), "precision": setup.precision}
        return RunRecord(fixed, mutable, metadata, model.tokenizer, common.overwrite_mode(options))

    def build_trainer(self, run: RunDirectory) -> Trainer:
        """Model, data, optimizer and validation, put together."""
        setup, options, dist = self.setup, self.setup.options, run.dist
        common.prepare_device(options, setup.device)
        classifier = self.classifier().to(setup.device)
        tokens_per_step = round(setup.mean_tokens * setup.batch_size)
        flops_per_token = classifier.transformer.flops_per_token(round(setup.mean_tokens), 0.0)
        config = TrainerConfig(
            tokens_per_step=tokens_per_step,
            seed=self.seed,
            grad_clip=options.grad_clip,
            log_every=options.log_every,
            save_every=setup.eval_every,
            precision=setup.precision,
            flops_per_step=flops_per_token * tokens_per_step,
            peak_flops=common.total_peak_flops(setup.device, dist.world_size),
        )
        run.update_metadata({"flops_per_step": config.flops_per_step})
        common.check_checkpoint_space(run, classifier.transformer.num_parameters())
        partition = BatchPartition(dist.world_size, dist.rank, setup.accumulation(dist.world_size))
        warmup = round(options.warmup_ratio * setup.steps)
        labels = setup.val.label_ids(setup.task.classes)
        validation = ClassificationValidationCallback(
            setup.encode(setup.val), labels, setup.task.metrics[0], setup.eval_every
        )
        return Trainer(
            model=classifier,
            objectives={PackedBatch: SequenceClassification()},
            term_weights={},
            loader=StepLoader(ShuffledStream(setup.examples, self.seed, setup.batch_size), partition=partition),
            optimizers=Optimizers(
                classifier, options.optimizer, options.weight_decay, options.beta2, lr_scale=self.lr_scale
            ),
            schedule=LRSchedule(options.schedule, setup.steps, warmup, options.lr, options.min_lr_ratio),
            config=config,
            checkpoints=run.checkpoints,
            logger=RunLogger(run.path, dist.is_main),
            callbacks=[validation],
            dist=dist,
            device=setup.device,
        )

    def classifier(self) -> SequenceClassifier:
        """The model before the first step: pretrained or random parameters, a new head, frozen layers."""
        setup, options = self.setup, self.setup.options
        config = setup.pretrained.model.config.model_copy(update={"dropout": options.dropout})
        model = init_model(config, self.seed)
        if not self.random_init:
            model.load_state_dict(setup.pretrained.model.state_dict())
        classifier = SequenceClassifier(model, len(setup.task.classes) or 1, setup.causal)
        head, generator = classifier.classifier, torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            head.weight.normal_(std=INIT_STD, generator=generator)
            if head.bias is not None:
                head.bias.zero_()
                if not setup.task.classes:  # regression starts at the mean
                    head.bias.fill_(float(np.mean(setup.examples.labels)))
        layers = [model.token_embedding, *model.blocks[: options.freeze_layers]] if options.freeze_layers else []
        frozen = [*classifier.unused_head_parameters(), *(p for layer in layers for p in layer.parameters())]
        for parameter in frozen:
            parameter.requires_grad_(False)
        return classifier

    def lr_scale(self, name: str) -> float:
        """Layer-wise learning-rate decay: the share of the learning rate that a parameter gets, by its depth."""
        layers, block = self.setup.pretrained.model.config.layers, re.search(r"blocks\.(\d+)\.", name)
        embeddings = ("token_embedding", "position_embedding", "token_type_embedding", "embed_norm")
        below_head = layers - int(block[1]) if block else layers + 1 if name.split(".")[1] in embeddings else 0
        return float(self.setup.options.layerwise_lr_decay**below_head)

    def result(self, trainer: Trainer) -> RunResult:
        """The model of the checkpoint with the best validation score."""
        best = trainer.checkpoints.best(trainer.logger.validation_scores())
        assert best is not None, "the last step is validated"
        load_checkpoint(best, trainer.model, trainer.optimizers)
        setup, model = self.setup, self.setup.pretrained
        head = ClassificationHead(setup.task.name, setup.task.classes, trainer.model.cpu())
        result = PretrainedModel(
            head.classifier.transformer, model.tokenizer, model.objective, model.cross_document_attention, setup.length,
            head,
        )  # fmt: skip
        samples, chosen = trainer.step * setup.batch_size, int(best.name.removeprefix("step-"))
        counts = {"steps": trainer.step, "samples": samples, "best_step": chosen}
        return RunResult(result, setup.model_card(f"seed {self.seed}"), counts, trainer.timer.summary())


# ------------------------------------------------------------------------------------------------ all seeds


def evaluate_test_split(setup: FinetuneSetup, out: Path) -> EvalResult:
    """Scores on the test split, with the baselines beside them."""
    options, task = setup.options, setup.task
    models = [pretrained.load(out / f"seed-{seed}") for seed in setup.seeds]
    random = [pretrained.load(out / f"random-{seed}") for seed in setup.seeds] if options.random_baseline else []
    for model in (*models, *random, setup.pretrained):
        model.module.to(setup.device)
    baselines = text_baselines(task) | {"linear probe": linear_probe_baseline(task, setup.pretrained)}
    if random:
        baselines["random init"] = score_classifiers(task, random, {}, {}).scores[task.metrics[0]]
    weights = [weights_hash(out / f"seed-{seed}" / "final") for seed in setup.seeds]
    result = score_classifiers(task, models, baselines, {"weights": weights, "pretrained": setup.weights_sha256})
    result.partial = options.limit is not None
    result.notes += setup.summary_lines()[1:]
    score, tf_idf = result.scores[task.metrics[0]].value, baselines["TF-IDF baseline"].value
    if score < tf_idf:
        result.notes.insert(0, f"the TF-IDF baseline is better: {tf_idf:.3f}, this model {score:.3f}")
    return result


def publish_best_seed(setup: FinetuneSetup, out: Path, scores: dict[str, Any]) -> None:
    """Publish the seed with the best validation score as final/, and all scores as metrics.json."""
    metrics = {seed: RunDirectory(out / f"seed-{seed}").metrics() for seed in setup.seeds}
    best = min(metrics, key=lambda seed: (metrics[seed]["val_error"], seed))
    card = setup.model_card(f"seed {best}, the best of {len(metrics)} on the validation split")
    pretrained.save(pretrained.load(out / f"seed-{best}"), out / "final", card)
    flat = {name.replace(", ", "_").replace(" ", "_"): score["value"] for name, score in scores["scores"].items()}
    names = {name: name.removesuffix(" baseline").lower().replace(" ", "_") for name in scores["baselines"]}
    baselines = {f"baseline_{names[name]}": score["value"] for name, score in scores["baselines"].items()}
    write_json(out / "metrics.json", flat | baselines)


def show(result: dict[str, Any], console: Console) -> None:
    """Print the scores, or what a dry run found."""
    if "runs" in result:
        show_dry_run(result | {"classes": ", ".join(result["classes"]) or "regression"}, console)
    elif "scores" in result:
        show_scores(result, console)
        console.text()
        console.text(f"model with {result['parameters']:,} parameters in {result['path']}")
