"""The stage `finetune`: a pretrained model, a task, and one or several seeds of the way from one to the other.

RUN2/seed-1337/    a run of the trainer for each seed, which can be interrupted and goes on
RUN2/random-1337/  the same from random weights: what pretraining is worth
RUN2/final/        the seed that was best on a held-out part of the training texts
RUN2/TASK.json     scores of the reported texts, which no choice has looked at
"""

import os
import re
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertgpt.config.options import FinetuneOptions
from bertgpt.data.execution.workdir import code_hash
from bertgpt.data.loading.classification import ClassificationDataset, EncodedExample, PackedBatch
from bertgpt.data.loading.loader import BatchPartition, ShuffledStream, StepLoader
from bertgpt.evals.labels import (
    Labels,
    label_ids,
    linear_probe_baseline,
    predictions,
    score_classifiers,
    text_baselines,
)
from bertgpt.evals.metrics import METRICS
from bertgpt.evals.results import EvalResult
from bertgpt.evals.tasks import LabelledDataset, LabelledSplit, load_task
from bertgpt.hub import pretrained
from bertgpt.hub.pretrained import ClassificationHead, PretrainedModel
from bertgpt.inference.classify import encode_examples, predict_logits
from bertgpt.inference.load import load_model, weights_hash
from bertgpt.model import SequenceClassifier
from bertgpt.stages.evaluate import show_found
from bertgpt.stages.run_training import run_training
from bertgpt.trainer import Trainer, TrainerConfig
from bertgpt.training.checkpoints import load_checkpoint
from bertgpt.training.device import peak_flops, resolve_device, resolve_precision, use_deterministic_algorithms
from bertgpt.training.distributed import DistContext, init_distributed
from bertgpt.training.init import INIT_STD, init_model
from bertgpt.training.logger import RunLogger
from bertgpt.training.objectives import SequenceClassification
from bertgpt.training.optimizers import LRSchedule, Optimizers
from bertgpt.training.run_directory import RunDirectory
from bertgpt.utils import console
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import ensure_writable_folder, lock, write_json
from bertgpt.utils.tables import format_number

FREE = ("out", "data", "test_data", "micro_batch_size", "device", "deterministic", "overwrite", "overwrite_if_changed", "dry_run",
        "seeds", "seed", "random_baseline")  # fmt: skip
CODE = (
    "config",
    "data",
    "evals",
    "hub",
    "inference",
    "model.py",
    "ops",
    "stages",
    "tinyworld",
    "trainer.py",
    "training",
    "utils",
)
EVALS_PER_EPOCH = 4  # at the held-out part, in an epoch


@dataclass(frozen=True)
class ClassificationValidationCallback:
    """A hook: how many labels of the held-out part are told right; by this the best checkpoint is chosen."""

    texts: list[EncodedExample]
    right: Labels
    metric: str
    every: int
    name: str = "val"

    def __call__(self, trainer: Trainer) -> dict[str, Any] | None:
        """The first process asks, the others wait."""
        if not trainer.dist.is_main:
            return None
        logits = predict_logits(trainer.model, self.texts, trainer.device)
        score = METRICS[self.metric](self.right, predictions(logits))
        loss = torch.nn.functional.mse_loss if logits.shape[1] == 1 else torch.nn.functional.cross_entropy
        given = torch.from_numpy(logits[:, 0] if logits.shape[1] == 1 else logits)
        return {"loss": float(loss(given, torch.from_numpy(self.right))), self.metric: score, "error": 1 - score}


class FinetuneSetup:
    """What the options come to, before anything is trained."""

    def __init__(self, options: FinetuneOptions) -> None:
        self.options = options
        check_output_folder(Path(options.out))
        self.kept, self.folder = load_model(str(options.model))
        columns = (options.text_column, options.pair_column, options.label_column)
        self.task = load_task(options.task, options.data, options.test_data, columns, options.problem_type, options.limit,
                             options.revision)  # fmt: skip
        self.length = min(self.kept.max_length, options.seq_len or self.kept.max_length)
        self.train, self.val, self.left_out = train_val_split(self.task, options.val_fraction)
        self.device = resolve_device(options.device)
        self.precision = resolve_precision(options.precision, self.device)
        self.causal = self.kept.objective == "clm"
        if options.freeze_layers > self.kept.model.config.layers:
            cause = f"{options.freeze_layers} of {self.kept.model.config.layers}"
            raise BertGPTError("BG204", "there are not so many blocks to freeze", cause=cause)

    @cached_property
    def examples(self) -> ClassificationDataset:
        """What is learned from."""
        return ClassificationDataset(self.encode(self.train), label_ids(self.train, self.task.classes), self.causal)

    def encode(self, part: LabelledSplit) -> list[EncodedExample]:
        """Texts in ids."""
        return encode_examples(self.kept, part.texts, part.others, self.length)

    @property
    def steps(self) -> int:
        """How many there are."""
        return self.options.max_steps or max(1, round(self.options.epochs * len(self.train) / self.batch))

    @property
    def batch(self) -> int:
        """Texts of a step: all, where there are fewer."""
        return min(self.options.batch_size, len(self.train))

    @property
    def eval_every(self) -> int:
        """Steps between looks at the held-out part, and between checkpoints."""
        return self.options.eval_every or max(1, min(self.steps, len(self.train) // self.batch) // EVALS_PER_EPOCH)

    def accumulation(self, world: int) -> int:
        """Into how many micro-batches each process divides its part of a step."""
        micro = self.options.micro_batch_size or self.batch // world
        if not micro or self.batch % (micro * world):
            several = f" in {world} processes" if world > 1 else ""
            raise BertGPTError("BG204", f"{self.batch} texts of a step do not divide into {micro}{several}")
        return self.batch // (micro * world)

    def summary_lines(self) -> list[str]:
        """What a person wants to know of the labels before anything is trained."""
        name, classes = self.task.name, self.task.classes
        some = f"{', '.join(classes[:6])}{', ...' * (len(classes) > 6)}"
        what = f"{len(classes)} classes ({some})" if classes else "numbers"
        sizes = (len(self.train), len(self.val), len(self.task.dev))
        template = "{}: {}; {:,} texts to learn from, {:,} held out to choose by, {:,} reported"
        found = [template.format(name, what, *sizes)]
        if self.left_out:
            found.append(f"{self.left_out:,} texts of the training part are reported too, and left out of it")
        return found

    def classifier(self, seed: int, random: bool) -> SequenceClassifier:
        """Before the first step: the pretrained weights or random ones, and a head that a seed decides."""
        options, config = self.options, self.kept.model.config.model_copy(update={"dropout": self.options.dropout})
        model = init_model(config, seed)
        if not random:
            model.load_state_dict(self.kept.model.state_dict())
        classifier = SequenceClassifier(model, len(self.task.classes) or 1, self.causal)
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            classifier.classifier.weight.normal_(std=INIT_STD, generator=draws)
            if classifier.classifier.bias is not None:
                classifier.classifier.bias.zero_()
                if not self.task.classes:  # begin with the mean, not far from all numbers
                    classifier.classifier.bias.fill_(float(np.mean(self.examples.labels)))
        frozen = [model.token_embedding, *model.blocks[: options.freeze_layers]] if options.freeze_layers else []
        still = [*classifier.unused_head_parameters(), *(weight for module in frozen for weight in module.parameters())]
        for weight in still:
            weight.requires_grad_(False)
        return classifier

    def lr_scale(self, name: str) -> float:
        """The part of the rate that a weight has: less, the further it is from the head."""
        layers, found = self.kept.model.config.layers, re.search(r"blocks\.(\d+)\.", name)
        outer = ("token_embedding", "position_embedding", "token_type_embedding", "embed_norm")
        depth = layers - int(found[1]) if found else layers + 1 if name.split(".")[1] in outer else 0
        return float(self.options.layerwise_lr_decay**depth)

    def settings(self, seed: int, random: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """What must not change while a run goes on, and what may, if it is said."""
        given = self.options.model_dump(mode="json")
        fixed = {key: value for key, value in given.items() if key not in (*FREE, "log_every", "model", "task")}
        facts = {
            "options": fixed, "task": self.task.name, "labels": list(self.task.classes), "steps": self.steps,
            "texts_sha256": self.task.identity, "seed": seed, "weights": "random" if random else self.weights,
            "model": self.kept.model.config.model_dump() | {"dropout": self.options.dropout},
            "objective": self.kept.objective, "cross_document_attention": self.kept.cross_document_attention, "length": self.length,
        }  # fmt: skip
        loose = {"log_every": given["log_every"], "precision": self.precision, "code": code_hash(CODE)}
        return facts, loose

    @cached_property
    def weights(self) -> str:
        """The pretrained ones, by hash."""
        return weights_hash(self.folder)


def check_output_folder(out: Path) -> None:
    """What is there must be of `finetune`, whose runs, a seed each, stand in the folder."""
    if (out / "config.yaml").exists():
        raise BertGPTError("BG213", "there is a run of pretrain here", path=str(out), hint="give another --out")
    if out.exists() and not out.is_dir():
        raise BertGPTError("BG404", "this is a file, not a folder for a run", path=str(out), hint="give another --out")


def train_val_split(task: LabelledDataset, share: float) -> tuple[LabelledSplit, LabelledSplit, int]:
    """What is learned from and what choices are made by, dealt by a hash of each text, so that twins stay together.

    Texts that are reported too are in neither; how many those were comes third.
    """
    reported = set(map(normalize_text, task.dev.joined()))
    learned, held, left_out = list[int](), list[int](), 0
    for number, text in enumerate(map(normalize_text, task.train.joined())):
        if text in reported:
            left_out += 1
            continue
        drawn = int.from_bytes(sha256(text.encode(errors="surrogatepass")).digest()[:8], "little") / 2**64
        (held if drawn < share else learned).append(number)
    if not learned or not held:
        cause = f"{len(learned)} to learn from, {len(held)} held out of {len(task.train)}"
        hint = f"hold out more: --val-fraction {min(0.5, 2 * share):g}"
        raise BertGPTError("BG310", "there are too few texts to hold some of them out", cause=cause, hint=hint)
    return task.train.only(learned), task.train.only(held), left_out


def normalize_text(text: str) -> str:
    """A text without what makes no other text of it."""
    return " ".join(text.lower().split())


# ------------------------------------------------------------------------------------------------- one seed


def train_seed(tuning: FinetuneSetup, seed: int, random: bool, group: DistContext) -> None:
    """A run of the trainer, to its end."""
    options = tuning.options
    console.note(f"{'random weights' if random else 'pretrained weights'}, seed {seed}")
    folder = RunDirectory(Path(options.out) / f"{'random' if random else 'seed'}-{seed}")
    facts = {"options": options.model_dump(mode="json"), "device": str(tuning.device), "precision": tuning.precision}

    def finished(trainer: Trainer) -> None:
        chosen = trainer.checkpoints.best(trainer.logger.validation_scores())
        assert chosen is not None, "there was a look at the last step"
        load_checkpoint(chosen, trainer.model, trainer.optimizers)
        head = ClassificationHead(tuning.task.name, tuning.task.classes, trainer.model.cpu())
        kept = tuning.kept
        made = PretrainedModel(
            head.classifier.transformer,
            kept.tokenizer,
            kept.objective,
            kept.cross_document_attention,
            tuning.length,
            head,
        )
        counts = {"steps": trainer.step, "samples": trainer.step * tuning.batch, "chosen_step": int(chosen.name[5:])}
        folder.publish(made, card(tuning, f"seed {seed}"), counts)

    run_training(
        folder, group, tuning.device, facts, tuning.settings(seed, random), tuning.kept.tokenizer, overwrite_mode(options),
        lambda: build_trainer(tuning, seed, random, folder, group), finished,
    )  # fmt: skip


def overwrite_mode(options: FinetuneOptions) -> bool | None:
    """Whether to begin again: always, never, or if anything has changed."""
    return True if options.fresh else None if options.overwrite_if_changed else False


def build_trainer(tuning: FinetuneSetup, seed: int, random: bool, folder: RunDirectory, group: DistContext) -> Trainer:
    """Everything put together."""
    options, examples = tuning.options, tuning.examples
    if options.deterministic:
        use_deterministic_algorithms()
    classifier = tuning.classifier(seed, random).to(tuning.device)
    tokens = sum(len(text.ids) for text in examples.texts) / len(examples)
    peak = peak_flops(tuning.device)
    per_step = round(tokens * tuning.batch)
    settings = TrainerConfig(
        tokens_per_step=per_step,
        seed=seed,
        grad_clip=options.clip,
        log_every=options.log_every,
        save_every=tuning.eval_every,
        precision=tuning.precision,
        flops_per_step=classifier.transformer.flops_per_token(round(tokens), 0.0) * per_step,
        peak_flops=peak and peak * group.world,
    )
    if group.is_main and not folder.checkpoints.all():
        ensure_writable_folder(folder.checkpoints.folder)
    held = ClassificationValidationCallback(tuning.encode(tuning.val), label_ids(tuning.val, tuning.task.classes),
                         tuning.task.metrics[0], tuning.eval_every)  # fmt: skip
    division = BatchPartition(group.world, group.rank, tuning.accumulation(group.world))
    return Trainer(
        classifier,
        {PackedBatch: SequenceClassification()},
        {},
        StepLoader(ShuffledStream(examples, seed, tuning.batch), division=division),
        Optimizers(classifier, options.optimizer, options.weight_decay, options.beta2, share=tuning.lr_scale),
        LRSchedule(
            options.schedule, tuning.steps, round(options.warmup * tuning.steps), options.lr, options.min_lr_ratio
        ),
        settings,
        folder.checkpoints,
        RunLogger(folder.path, group.is_main),
        [held],
        group,
        tuning.device,
    )


# ------------------------------------------------------------------------------------------------- all of them


def run(options: FinetuneOptions) -> dict[str, Any]:
    """Fine-tune a model, with as many seeds as are wanted, and say what it is worth."""
    if int(os.environ.get("RANK", "0")):  # one of them speaks
        console.silence_non_main()
    tuning = FinetuneSetup(options)
    for line in tuning.summary_lines():
        console.note(line)
    tuning.accumulation(1)
    out = Path(options.out)
    if options.dry_run:
        return dry_run(tuning)
    group = init_distributed(tuning.device)
    tuning.accumulation(group.world)
    began = time.time()
    ensure_writable_folder(out)
    with lock(out / "run.lock", str(out)) if group.is_main else nullcontext():
        for seed in seeds_of(options):
            train_seed(tuning, seed, False, group)
            if options.random_baseline:
                train_seed(tuning, seed, True, group)
        if not group.is_main:
            return {"path": options.out}
        found = evaluate_test_split(tuning, out)
        found.save(out, began)
        publish_best_seed(tuning, out, found.as_json())
    return {"path": options.out, "parameters": tuning.kept.model.num_parameters()} | found.as_json()


def seeds_of(options: FinetuneOptions) -> list[int]:
    """One after the other."""
    return [options.seed + number for number in range(options.seeds)]


def evaluate_test_split(tuning: FinetuneSetup, out: Path) -> EvalResult:
    """Scores of the reported part, with all that belongs beside them."""
    options, task = tuning.options, tuning.task
    models = [pretrained.load(out / f"seed-{seed}") for seed in seeds_of(options)]
    random = [pretrained.load(out / f"random-{seed}") for seed in seeds_of(options)] if options.random_baseline else []
    for kept in (*models, *random):
        kept.module.to(tuning.device)
    baselines = text_baselines(task) | {"frozen probe": linear_probe_baseline(task, tuning.kept)}
    if random:
        baselines["random weights"] = score_classifiers(task, random, {}, {}).scores[task.metrics[0]]
    weights = [weights_hash(out / f"seed-{seed}" / "final") for seed in seeds_of(options)]
    found = score_classifiers(task, models, baselines, {"weights": weights, "pretrained": tuning.weights})
    found.partial = options.limit is not None
    found.notes += tuning.summary_lines()[1:]
    mine, theirs = found.scores[task.metrics[0]].value, baselines["tf-idf"].value
    if mine < theirs:
        found.notes.insert(0, f"counting words is better: tf-idf {theirs:.3f}, this model {mine:.3f}")
    return found


def publish_best_seed(tuning: FinetuneSetup, out: Path, told: dict[str, Any]) -> None:
    """The seed that was best on the held-out part as the model of the whole, and the figures."""
    figures = {seed: RunDirectory(out / f"seed-{seed}").metrics() for seed in seeds_of(tuning.options)}
    chosen = min(figures, key=lambda seed: (figures[seed]["val_error"], seed))
    kept = pretrained.load(out / f"seed-{chosen}")
    pretrained.save(
        kept, out / "final", card(tuning, f"seed {chosen} of {len(figures)}, the best on what was held out")
    )
    flat = {name.replace(", ", "_").replace(" ", "_"): score["value"] for name, score in told["scores"].items()}
    beside = {f"baseline_{name.replace(' ', '_')}": score["value"] for name, score in told["baselines"].items()}
    write_json(out / "metrics.json", flat | beside)


def card(tuning: FinetuneSetup, which: str) -> str:
    """What this is, for people."""
    config = tuning.kept.model.config
    return (
        f"# {tuning.task.name}\n\nd{config.dim} L{config.layers} H{config.heads}, fine-tuned by bertgpt for "
        f"{tuning.steps:,} steps of {tuning.batch} of {len(tuning.train):,} texts; {which}.\n"
    )


def dry_run(tuning: FinetuneSetup) -> dict[str, Any]:
    """What would be done."""
    return {
        "path": tuning.options.out, "task": tuning.task.name, "classes": list(tuning.task.classes),
        "learned_from": len(tuning.train), "held_out": len(tuning.val), "reported": len(tuning.task.dev),
        "left_out": tuning.left_out, "runs": tuning.options.seeds * (1 + tuning.options.random_baseline),
        "steps": tuning.steps, "batch": tuning.batch, "tokens": sum(len(text.ids) for text in tuning.examples.texts),
        "device": str(tuning.device), "precision": tuning.precision,
    }  # fmt: skip


def show(result: dict[str, Any], console: Console) -> None:
    """Print what came of it."""
    if "runs" in result:
        told = result | {"classes": ", ".join(result["classes"]) or "numbers"}
        console.table(("would be done", ""), ((name.replace("_", " "), format_number(v)) for name, v in told.items()))
    elif "scores" in result:
        show_found(result, console)
        console.text()
        console.text(f"a model of {result['parameters']:,} weights in {result['path']}")
