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
from bertgpt.data.execution.workdir import fingerprint
from bertgpt.data.loading.classification import Examples, Framed, Packed
from bertgpt.data.loading.loader import Division, Loader, Stream
from bertgpt.evals.labels import Labels, answered, frozen, judged, numbers_of, words_only
from bertgpt.evals.metrics import METRICS
from bertgpt.evals.results import Found
from bertgpt.evals.tasks import Part, TaskSet, labelled
from bertgpt.hub import pretrained
from bertgpt.hub.pretrained import Head, Saved
from bertgpt.inference.classify import framed, logits_of
from bertgpt.inference.load import find, weights_hash
from bertgpt.model import Classifier
from bertgpt.stages.evaluate import show_found
from bertgpt.stages.run_training import carry_out
from bertgpt.trainer import Settings, Trainer
from bertgpt.training.checkpoints import read
from bertgpt.training.device import device_of, peak_of, precision_of, take_exact_algorithms
from bertgpt.training.distributed import Group, join
from bertgpt.training.init import STD, build
from bertgpt.training.logger import Journal
from bertgpt.training.objectives import Classify
from bertgpt.training.optimizers import Optimizers, Schedule
from bertgpt.training.run_directory import RunFolder
from bertgpt.utils import console
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import lock, make_folder, write_json
from bertgpt.utils.tables import shown

FREE = ("out", "data", "test_data", "micro_batch", "device", "deterministic", "fresh", "fresh_if_changed", "dry_run",
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
LOOKS = 4  # at the held-out part, in an epoch


@dataclass(frozen=True)
class HeldOutLabels:
    """A hook: how many labels of the held-out part are told right; by this the best checkpoint is chosen."""

    texts: list[Framed]
    right: Labels
    metric: str
    every: int
    name: str = "val"

    def __call__(self, trainer: Trainer) -> dict[str, Any] | None:
        """The first process asks, the others wait."""
        if not trainer.group.leads:
            return None
        logits = logits_of(trainer.model, self.texts, trainer.device)
        score = METRICS[self.metric](self.right, answered(logits))
        loss = torch.nn.functional.mse_loss if logits.shape[1] == 1 else torch.nn.functional.cross_entropy
        given = torch.from_numpy(logits[:, 0] if logits.shape[1] == 1 else logits)
        return {"loss": float(loss(given, torch.from_numpy(self.right))), self.metric: score, "error": 1 - score}


class Tuning:
    """What the options come to, before anything is trained."""

    def __init__(self, options: FinetuneOptions) -> None:
        self.options = options
        check_place(Path(options.out))
        self.kept, self.folder = find(str(options.model))
        columns = (options.text_column, options.pair_column, options.label_column)
        self.task = labelled(options.task, options.data, options.test_data, columns, options.kind, options.limit,
                             options.revision)  # fmt: skip
        self.length = min(self.kept.window, options.seq_len or self.kept.window)
        self.learned, self.held, self.left_out = parted(self.task, options.held_out)
        self.device = device_of(options.device)
        self.precision = precision_of(options.precision, self.device)
        self.causal = self.kept.objective == "causal"
        if options.freeze > self.kept.model.config.layers:
            cause = f"{options.freeze} of {self.kept.model.config.layers}"
            raise BertGPTError("BG204", "there are not so many blocks to freeze", cause=cause)

    @cached_property
    def examples(self) -> Examples:
        """What is learned from."""
        return Examples(self.read(self.learned), numbers_of(self.learned, self.task.classes), self.causal)

    def read(self, part: Part) -> list[Framed]:
        """Texts in ids."""
        return framed(self.kept, part.texts, part.others, self.length)

    @property
    def steps(self) -> int:
        """How many there are."""
        return self.options.max_steps or max(1, round(self.options.epochs * len(self.learned) / self.batch))

    @property
    def batch(self) -> int:
        """Texts of a step: all, where there are fewer."""
        return min(self.options.batch_size, len(self.learned))

    @property
    def every(self) -> int:
        """Steps between looks at the held-out part, and between checkpoints."""
        return self.options.eval_every or max(1, min(self.steps, len(self.learned) // self.batch) // LOOKS)

    def accumulation(self, world: int) -> int:
        """Into how many micro-batches each process divides its part of a step."""
        micro = self.options.micro_batch or self.batch // world
        if not micro or self.batch % (micro * world):
            several = f" in {world} processes" if world > 1 else ""
            raise BertGPTError("BG204", f"{self.batch} texts of a step do not divide into {micro}{several}")
        return self.batch // (micro * world)

    def said(self) -> list[str]:
        """What a person wants to know of the labels before anything is trained."""
        name, classes = self.task.name, self.task.classes
        some = f"{', '.join(classes[:6])}{', ...' * (len(classes) > 6)}"
        what = f"{len(classes)} classes ({some})" if classes else "numbers"
        sizes = (len(self.learned), len(self.held), len(self.task.dev))
        template = "{}: {}; {:,} texts to learn from, {:,} held out to choose by, {:,} reported"
        found = [template.format(name, what, *sizes)]
        if self.left_out:
            found.append(f"{self.left_out:,} texts of the training part are reported too, and left out of it")
        return found

    def classifier(self, seed: int, random: bool) -> Classifier:
        """Before the first step: the pretrained weights or random ones, and a head that a seed decides."""
        options, config = self.options, self.kept.model.config.model_copy(update={"dropout": self.options.dropout})
        model = build(config, seed)
        if not random:
            model.load_state_dict(self.kept.model.state_dict())
        classifier = Classifier(model, len(self.task.classes) or 1, self.causal)
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            classifier.out.weight.normal_(std=STD, generator=draws)
            if classifier.out.bias is not None:
                classifier.out.bias.zero_()
                if not self.task.classes:  # begin with the mean, not far from all numbers
                    classifier.out.bias.fill_(float(np.mean(self.examples.labels)))
        frozen = [model.tokens, *model.blocks[: options.freeze]] if options.freeze else []
        still = [*classifier.unused(), *(weight for module in frozen for weight in module.parameters())]
        for weight in still:
            weight.requires_grad_(False)
        return classifier

    def share(self, name: str) -> float:
        """The part of the rate that a weight has: less, the further it is from the head."""
        layers, found = self.kept.model.config.layers, re.search(r"blocks\.(\d+)\.", name)
        outer = ("tokens", "positions", "segments", "embed_norm")
        depth = layers - int(found[1]) if found else layers + 1 if name.split(".")[1] in outer else 0
        return float(self.options.layer_decay**depth)

    def settings(self, seed: int, random: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """What must not change while a run goes on, and what may, if it is said."""
        given = self.options.model_dump(mode="json")
        fixed = {key: value for key, value in given.items() if key not in (*FREE, "log_every", "model", "task")}
        facts = {
            "options": fixed, "task": self.task.name, "labels": list(self.task.classes), "steps": self.steps,
            "texts_sha256": self.task.identity, "seed": seed, "weights": "random" if random else self.weights,
            "model": self.kept.model.config.model_dump() | {"dropout": self.options.dropout},
            "objective": self.kept.objective, "documents": self.kept.documents, "length": self.length,
        }  # fmt: skip
        loose = {"log_every": given["log_every"], "precision": self.precision, "code": fingerprint(CODE)}
        return facts, loose

    @cached_property
    def weights(self) -> str:
        """The pretrained ones, by hash."""
        return weights_hash(self.folder)


def check_place(out: Path) -> None:
    """What is there must be of `finetune`, whose runs, a seed each, stand in the folder."""
    if (out / "config.yaml").exists():
        raise BertGPTError("BG213", "there is a run of pretrain here", path=str(out), hint="give another --out")
    if out.exists() and not out.is_dir():
        raise BertGPTError("BG404", "this is a file, not a folder for a run", path=str(out), hint="give another --out")


def parted(task: TaskSet, share: float) -> tuple[Part, Part, int]:
    """What is learned from and what choices are made by, dealt by a hash of each text, so that twins stay together.

    Texts that are reported too are in neither; how many those were comes third.
    """
    reported = set(map(plain, task.dev.joined()))
    learned, held, left_out = list[int](), list[int](), 0
    for number, text in enumerate(map(plain, task.train.joined())):
        if text in reported:
            left_out += 1
            continue
        drawn = int.from_bytes(sha256(text.encode(errors="surrogatepass")).digest()[:8], "little") / 2**64
        (held if drawn < share else learned).append(number)
    if not learned or not held:
        cause = f"{len(learned)} to learn from, {len(held)} held out of {len(task.train)}"
        hint = f"hold out more: --held-out {min(0.5, 2 * share):g}"
        raise BertGPTError("BG310", "there are too few texts to hold some of them out", cause=cause, hint=hint)
    return task.train.only(learned), task.train.only(held), left_out


def plain(text: str) -> str:
    """A text without what makes no other text of it."""
    return " ".join(text.lower().split())


# ------------------------------------------------------------------------------------------------- one seed


def tuned(tuning: Tuning, seed: int, random: bool, group: Group) -> None:
    """A run of the trainer, to its end."""
    options = tuning.options
    console.note(f"{'random weights' if random else 'pretrained weights'}, seed {seed}")
    folder = RunFolder(Path(options.out) / f"{'random' if random else 'seed'}-{seed}")
    facts = {"options": options.model_dump(mode="json"), "device": str(tuning.device), "precision": tuning.precision}

    def finished(trainer: Trainer) -> None:
        chosen = trainer.checkpoints.best(trainer.journal.scores())
        assert chosen is not None, "there was a look at the last step"
        read(chosen, trainer.model, trainer.optimizers)
        head = Head(tuning.task.name, tuning.task.classes, trainer.model.cpu())
        kept = tuning.kept
        made = Saved(head.classifier.transformer, kept.tokenizer, kept.objective, kept.documents, tuning.length, head)
        counts = {"steps": trainer.step, "samples": trainer.step * tuning.batch, "chosen_step": int(chosen.name[5:])}
        folder.finish(made, card(tuning, f"seed {seed}"), counts)

    carry_out(
        folder, group, tuning.device, facts, tuning.settings(seed, random), tuning.kept.tokenizer, anew(options),
        lambda: trainer_of(tuning, seed, random, folder, group), finished,
    )  # fmt: skip


def anew(options: FinetuneOptions) -> bool | None:
    """Whether to begin again: always, never, or if anything has changed."""
    return True if options.fresh else None if options.fresh_if_changed else False


def trainer_of(tuning: Tuning, seed: int, random: bool, folder: RunFolder, group: Group) -> Trainer:
    """Everything put together."""
    options, examples = tuning.options, tuning.examples
    if options.deterministic:
        take_exact_algorithms()
    classifier = tuning.classifier(seed, random).to(tuning.device)
    tokens = sum(len(text.ids) for text in examples.texts) / len(examples)
    peak = peak_of(tuning.device)
    per_step = round(tokens * tuning.batch)
    settings = Settings(
        tokens_per_step=per_step,
        seed=seed,
        clip=options.clip,
        log_every=options.log_every,
        save_every=tuning.every,
        precision=tuning.precision,
        flops_per_step=classifier.transformer.flops_per_token(round(tokens), 0.0) * per_step,
        peak=peak and peak * group.world,
    )
    if group.leads and not folder.checkpoints.all():
        make_folder(folder.checkpoints.folder)
    held = HeldOutLabels(tuning.read(tuning.held), numbers_of(tuning.held, tuning.task.classes),
                         tuning.task.metrics[0], tuning.every)  # fmt: skip
    division = Division(group.world, group.rank, tuning.accumulation(group.world))
    return Trainer(
        classifier,
        {Packed: Classify()},
        {},
        Loader(Stream(examples, seed, tuning.batch), division=division),
        Optimizers(classifier, options.optimizer, options.weight_decay, options.beta2, share=tuning.share),
        Schedule(options.schedule, tuning.steps, round(options.warmup * tuning.steps), options.lr, options.lr_floor),
        settings,
        folder.checkpoints,
        Journal(folder.path, group.leads),
        [held],
        group,
        tuning.device,
    )


# ------------------------------------------------------------------------------------------------- all of them


def run(options: FinetuneOptions) -> dict[str, Any]:
    """Fine-tune a model, with as many seeds as are wanted, and say what it is worth."""
    if int(os.environ.get("RANK", "0")):  # one of them speaks
        console.hush()
    tuning = Tuning(options)
    for line in tuning.said():
        console.note(line)
    tuning.accumulation(1)
    out = Path(options.out)
    if options.dry_run:
        return dry(tuning)
    group = join(tuning.device)
    tuning.accumulation(group.world)
    began = time.time()
    make_folder(out)
    with lock(out / "run.lock", str(out)) if group.leads else nullcontext():
        for seed in seeds_of(options):
            tuned(tuning, seed, False, group)
            if options.random_baseline:
                tuned(tuning, seed, True, group)
        if not group.leads:
            return {"path": options.out}
        found = reported(tuning, out)
        found.write(out, began)
        publish(tuning, out, found.as_json())
    return {"path": options.out, "parameters": tuning.kept.model.parameter_count()} | found.as_json()


def seeds_of(options: FinetuneOptions) -> list[int]:
    """One after the other."""
    return [options.seed + number for number in range(options.seeds)]


def reported(tuning: Tuning, out: Path) -> Found:
    """Scores of the reported part, with all that belongs beside them."""
    options, task = tuning.options, tuning.task
    models = [pretrained.load(out / f"seed-{seed}") for seed in seeds_of(options)]
    random = [pretrained.load(out / f"random-{seed}") for seed in seeds_of(options)] if options.random_baseline else []
    for kept in (*models, *random):
        kept.whole.to(tuning.device)
    baselines = words_only(task) | {"frozen probe": frozen(task, tuning.kept)}
    if random:
        baselines["random weights"] = judged(task, random, {}, {}).scores[task.metrics[0]]
    weights = [weights_hash(out / f"seed-{seed}" / "final") for seed in seeds_of(options)]
    found = judged(task, models, baselines, {"weights": weights, "pretrained": tuning.weights})
    found.partial = options.limit is not None
    found.notes += tuning.said()[1:]
    mine, theirs = found.scores[task.metrics[0]].value, baselines["tf-idf"].value
    if mine < theirs:
        found.notes.insert(0, f"counting words is better: tf-idf {theirs:.3f}, this model {mine:.3f}")
    return found


def publish(tuning: Tuning, out: Path, told: dict[str, Any]) -> None:
    """The seed that was best on the held-out part as the model of the whole, and the figures."""
    figures = {seed: RunFolder(out / f"seed-{seed}").figures() for seed in seeds_of(tuning.options)}
    chosen = min(figures, key=lambda seed: (figures[seed]["val_error"], seed))
    kept = pretrained.load(out / f"seed-{chosen}")
    pretrained.save(
        kept, out / "final", card(tuning, f"seed {chosen} of {len(figures)}, the best on what was held out")
    )
    flat = {name.replace(", ", "_").replace(" ", "_"): score["value"] for name, score in told["scores"].items()}
    beside = {f"baseline_{name.replace(' ', '_')}": score["value"] for name, score in told["baselines"].items()}
    write_json(out / "metrics.json", flat | beside)


def card(tuning: Tuning, which: str) -> str:
    """What this is, for people."""
    config = tuning.kept.model.config
    return (
        f"# {tuning.task.name}\n\nd{config.dim} L{config.layers} H{config.heads}, fine-tuned by bertgpt for "
        f"{tuning.steps:,} steps of {tuning.batch} of {len(tuning.learned):,} texts; {which}.\n"
    )


def dry(tuning: Tuning) -> dict[str, Any]:
    """What would be done."""
    return {
        "path": tuning.options.out, "task": tuning.task.name, "classes": list(tuning.task.classes),
        "learned_from": len(tuning.learned), "held_out": len(tuning.held), "reported": len(tuning.task.dev),
        "left_out": tuning.left_out, "runs": tuning.options.seeds * (1 + tuning.options.random_baseline),
        "steps": tuning.steps, "batch": tuning.batch, "tokens": sum(len(text.ids) for text in tuning.examples.texts),
        "device": str(tuning.device), "precision": tuning.precision,
    }  # fmt: skip


def show(result: dict[str, Any], console: Console) -> None:
    """Print what came of it."""
    if "runs" in result:
        told = result | {"classes": ", ".join(result["classes"]) or "numbers"}
        console.table(("would be done", ""), ((name.replace("_", " "), shown(v)) for name, v in told.items()))
    elif "scores" in result:
        show_found(result, console)
        console.text()
        console.text(f"a model of {result['parameters']:,} weights in {result['path']}")
