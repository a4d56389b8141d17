"""The stage `pretrain`: options to a trainer, and a run folder around it.

    run.json  config.yaml  metrics.jsonl  metrics.json  plots/  checkpoints/  final/

A run that was interrupted goes on when the same command is given again; one that was begun otherwise is refused.
"""

import json
import os
import platform
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml

from bertgpt import __version__, console, saved
from bertgpt.config import PretrainOptions
from bertgpt.errors import BertGPTError
from bertgpt.files import lock, make_folder, sha256_of, void, write_aside, write_json
from bertgpt.initial import build
from bertgpt.model import Transformer
from bertgpt.objectives import Hidden, Objective, Onward
from bertgpt.optim import Schedule, adamw
from bertgpt.presets import PRESETS, ModelConfig, Preset
from bertgpt.runtime import Group, join
from bertgpt.saved import Saved
from bertgpt.shards.format import read_manifest
from bertgpt.shards.loader import Division, Loader, Samples, Stream, shared
from bertgpt.shards.masked_rows import MaskedRows, open_rows
from bertgpt.shards.windows import Causal, Windows
from bertgpt.shards.work import differences
from bertgpt.tokens.tokenizer import Tokenizer
from bertgpt.trainer import Settings, Trainer

# What may change when a run goes on.
FREE = ("micro_batch", "device", "log_every", "save_every", "fresh", "fresh_if_changed", "dry_run")


class Run:
    """What the options come to, before anything is trained."""

    def __init__(self, options: PretrainOptions) -> None:
        self.options, self.data = options, Path(options.data)
        self.preset: Preset = PRESETS[options.preset]
        self.manifest = read_manifest(self.data)
        self.objective = self.fitting_objective()
        self.masked = self.objective in ("masked", "hybrid")
        self.tokenizer = Tokenizer.load(self.data / "tokenizer")
        settings: dict[str, Any] = {"vocab": self.tokenizer.max_id + 1, "dropout": options.dropout}
        self.config = ModelConfig(**(self.preset.model.model_dump() | settings))
        self.length = self.manifest["config"]["seq_len"] if self.masked else options.seq_len
        self.config.check_length(self.length)
        self.documents = options.documents or self.preset.documents
        self.rows = max(1, round(options.tokens_per_step / self.length))

    def accumulation(self, world: int) -> int:
        """Into how many micro-batches each process divides its part of a step."""
        micro = self.options.micro_batch or max(1, self.rows // world)
        if self.rows % (micro * world):
            several = f" in {world} processes" if world > 1 else ""
            raise BertGPTError(
                "BG204", f"{self.rows} rows of a step do not divide into micro-batches of {micro}{several}"
            )
        return self.rows // (micro * world)

    def fitting_objective(self) -> str:
        """What is trained, if the data are made for it."""
        objective, kind = self.options.objective or self.preset.objective, self.manifest["kind"]
        wanted = "shards" if objective == "causal" else "plan"
        if kind != wanted:
            command = (
                "bertgpt mask makes a plan of shards" if wanted == "plan" else "give the shards that it is made of"
            )
            other = "causal" if kind == "shards" else "masked"
            names = [name for name, preset in PRESETS.items() if preset.objective == other]
            hint = f"{command}, or take a preset such as {names[0]}"
            raise BertGPTError(
                "BG221", f"the objective {objective} needs {wanted}, and {self.data} is {kind}", hint=hint
            )
        if kind == "plan" and self.manifest["config"]["pair"] != "none" and not self.preset.model.segments:
            hint = "make the plan with --pair none, or take a preset such as bert-base"
            raise BertGPTError(
                "BG221", f"{self.options.preset} has no head for pairs, and the plan has pairs", hint=hint
            )
        return objective

    def samples(self, split: str) -> list[Samples]:
        """The samples of a split, masked ones first."""
        found: list[Samples] = []
        base = self.data
        if self.masked:
            found.append(open_rows(self.data, split))
            base = (self.data / self.manifest["base"]["path"]).resolve()
        if self.objective != "masked":
            found.append(Windows(base, split, self.length))
        return found

    def held_out_bytes(self) -> int:
        """The text of the held-out split, where it is scored as a whole."""
        if self.objective == "masked":
            return 0
        base = self.manifest if self.objective == "causal" else read_manifest(self.data / self.manifest["base"]["path"])
        return int(base["splits"].get("val", {}).get("bytes", 0))

    def streams(self, samples: list[Samples]) -> list[Stream]:
        """How many of each are in a step."""
        sizes = shared(self.rows, self.options.ratio) if self.objective == "hybrid" else (self.rows,)
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
        return max(1, round(options.epochs * len(streams[-1].samples) / streams[-1].size))

    def objectives(self) -> dict[type, Objective]:
        """By the kind of rows."""
        end = self.tokenizer.end if self.documents == "apart" else None
        found: dict[type, Objective] = {Causal: Onward(end)}
        if self.masked:
            found[MaskedRows] = Hidden(self.tokenizer.roles["mask"], before=self.objective == "hybrid")
        return found

    def identity(self, steps: int) -> dict[str, Any]:
        """What must not change while a run goes on."""
        options = {key: value for key, value in self.options.model_dump(mode="json").items() if key not in FREE}
        del options["data"], options["out"]
        data = sha256_of(self.data / "manifest.json")
        return {"options": options, "data_sha256": data, "steps": steps, "model": self.config.model_dump()}


def pretrain(options: PretrainOptions) -> dict[str, Any]:
    """Train a model, or go on with it."""
    run = Run(options)
    streams = run.streams(run.samples("train"))
    steps = run.steps(streams)
    run.accumulation(1)
    if options.dry_run:
        return dry(run, streams, steps)
    out = Path(options.out)
    make_folder(out)
    group, device = join(options.device)
    if not group.leads:  # one of them speaks
        console.hush()
    with lock(out / "run.lock", str(out)) if group.leads else nullcontext():
        if begun(run, out, steps, group, device):
            console.note(f"nothing to do: {out} is finished")
            return result(out)
        trainer = trainer_of(run, streams, steps, group, device)
        if trainer.resume():
            console.note(f"goes on after step {trainer.step} of {steps}")
        measured = trainer.run()
        if group.leads:
            finish(run, trainer.model, out, steps)
        group.wait()
        return result(out) | {"seconds": measured["seconds"]}


def begun(run: Run, out: Path, steps: int, group: Group, device: torch.device) -> bool:
    """Whether a run is finished; the first process looks, and has the folder ready for all."""
    finished = False
    if group.leads:
        finished = known(out, run.identity(steps), run.options)
        write_json(out / "run.json", facts_of(run.options))
    return group.most(finished, device) > 0


def trainer_of(run: Run, streams: list[Stream], steps: int, group: Group, device: torch.device) -> Trainer:
    """Everything put together."""
    options = run.options
    model = build(run.config, options.seed).to(device)
    names = ("seed", "clip", "log_every", "eval_every", "save_every", "precision")
    return Trainer(
        model,
        run.objectives(),
        run.weights(streams),
        Loader(*streams, division=Division(group.world, group.rank, run.accumulation(group.world))),
        adamw(model, options.weight_decay, options.beta2),
        Schedule(options.schedule, steps, options.warmup, options.lr, options.lr_floor),
        Settings(
            run.rows * run.length,
            held_out_bytes=run.held_out_bytes(),
            **{name: getattr(options, name) for name in names},
        ),
        Path(options.out),
        run.samples("val") if "val" in run.manifest["splits"] else [],
        group,
        device,
    )


def known(out: Path, identity: dict[str, Any], options: PretrainOptions) -> bool:
    """Whether this run is finished; an error if another one is here."""
    kept = out / "config.yaml"
    before = yaml.safe_load(kept.read_text(encoding="utf-8")) if kept.exists() else identity
    if options.fresh or before != identity:
        cause = "; ".join(differences(before, identity))
        if not (options.fresh or options.fresh_if_changed):
            hint = "give another --out, or --fresh to begin anew"
            raise BertGPTError("BG213", "a run that was begun otherwise is here", path=str(out), cause=cause, hint=hint)
        console.note(f"begins anew{f': {cause}' if cause else ''}")
        for name in ("checkpoints", "final", "plots"):
            shutil.rmtree(out / name, ignore_errors=True)
        (out / "metrics.jsonl").unlink(missing_ok=True)
    text = yaml.safe_dump(identity, sort_keys=False)
    write_aside(kept, lambda aside: void(aside.write_text(text, encoding="utf-8")))
    return all((out / name).exists() for name in ("final/manifest.json", "metrics.json", "plots"))


def facts_of(options: PretrainOptions) -> dict[str, Any]:
    """Where and with what: nothing that a result depends on."""
    return {
        "bertgpt": __version__, "torch": torch.__version__, "python": platform.python_version(),
        "host": platform.node(), "threads": torch.get_num_threads(), "pid": os.getpid(), "argv": sys.argv,
        "begun": time.strftime("%FT%TZ", time.gmtime()), "options": options.model_dump(mode="json"),
    }  # fmt: skip


def finish(run: Run, model: Transformer, out: Path, steps: int) -> None:
    """The model as a folder of its own, and the figures: the same bytes from the same run, whenever it was made."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last: dict[str, dict[str, Any]] = {"train": {}, "val": {}}
    for line in lines:
        last[line["split"]] = line
    hidden = ("step", "tokens", "samples", "split", "seconds", "tokens_per_s")
    figures = {
        f"{split}_{key}": value for split, line in last.items() for key, value in line.items() if key not in hidden
    }
    figures |= {"steps": steps, "tokens": last["train"]["tokens"], "parameters": model.parameter_count()}
    make_folder(out / "plots")
    for split in ("train", "val"):
        rows = "".join(f"{line['step']}\t{line['loss']}\n" for line in lines if line["split"] == split)
        text = f"step\tloss\n{rows}"
        write_aside(out / "plots" / f"{split}.tsv", lambda aside, text=text: void(aside.write_text(text)))  # type: ignore[misc]
    saved.save(Saved(model.cpu(), run.tokenizer, run.objective, run.documents), out / "final", card_of(run, figures))
    write_json(out / "metrics.json", figures)


def card_of(run: Run, figures: dict[str, Any]) -> str:
    """What this is, for people."""
    config, options = run.config, run.options
    shape = f"d{config.dim} L{config.layers} H{config.heads}"
    loss = figures.get("val_loss", figures["train_loss"])
    return (
        f"# {options.preset}, {run.objective}\n\n"
        f"{shape}, {figures['parameters']:,} weights, vocabulary {config.vocab:,}; trained by bertgpt {__version__} "
        f"for {figures['steps']:,} steps of {run.rows} rows of {run.length}, {figures['tokens']:,} tokens.\n\n"
        f"{'Held-out' if 'val_loss' in figures else 'Training'} loss {loss:.4f} nats a target.\n"
    )


def result(out: Path) -> dict[str, Any]:
    """What a run came to."""
    figures: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return {"path": str(out)} | figures


def dry(run: Run, streams: list[Stream], steps: int) -> dict[str, Any]:
    """What would be done."""
    with torch.device("meta"):
        model = Transformer(run.config)
    scored = 0.15 if run.objective == "masked" else 1.0
    tokens = steps * run.rows * run.length
    parameters = model.parameter_count()
    return {
        "path": run.options.out,
        "objective": run.objective,
        "parameters": parameters,
        "tokens_per_step": run.rows * run.length,
        "steps": steps,
        "epochs": round(steps * streams[-1].size / len(streams[-1].samples), 3),
        "tokens": tokens,
        "tokens_per_parameter": round(tokens / parameters, 2),
        "flops": model.flops_per_token(run.length, scored) * tokens,
        "memory": model.training_bytes(run.rows // run.accumulation(1), run.length),
        "checkpoint_bytes": 12 * parameters,
        "disk_free": shutil.disk_usage(Path.cwd()).free,
    }
