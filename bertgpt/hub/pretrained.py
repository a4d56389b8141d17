"""A finished model as a folder that needs nothing outside it: `final/` of a run.

model.safetensors   weights under our names
config.yaml         shape, objective, how documents stand beside each other
tokenizer/          as `transformers` reads it
card.md             what this is, for people
manifest.json       hashes of all of it, written last
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertgpt.config.presets import ModelConfig
from bertgpt.data.format import build_manifest, read_manifest, resolve_artifact, verify, verify_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.model import SequenceClassifier, Transformer
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import ensure_writable_folder, publish_atomic, sha256_of, write_json

Module = TypeVar("Module", bound=nn.Module)
REFUSED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class ClassificationHead:
    """What a model was fine-tuned for, and its way to say that."""

    task: str  # a name, or the file of the examples
    labels: tuple[str, ...]  # classes; none: it says a number
    classifier: SequenceClassifier

    @property
    def num_labels(self) -> int:
        """How many logits there are."""
        return len(self.labels) or 1


@dataclass(frozen=True)
class PretrainedModel:
    """A model and what belongs to it."""

    model: Transformer
    tokenizer: Tokenizer
    objective: str  # causal, masked or hybrid
    cross_document_attention: bool = False
    length: int | None = None  # of the rows that it was trained on, where that is known
    head: ClassificationHead | None = None  # if it was fine-tuned

    @property
    def module(self) -> nn.Module:
        """All weights there are, those of a classifier among them."""
        return self.model if self.head is None else self.head.classifier

    @property
    def max_length(self) -> int:
        """The longest row that it knows: positions beyond those it was trained on mean nothing to it."""
        return min(self.model.config.max_seq_len, self.length or self.model.config.max_seq_len)

    @property
    def mlm_shift(self) -> int:
        """How far before a hidden id its answer stands: a hybrid has one head for this and for what comes next."""
        return int(self.objective == "hybrid")

    def suppressed_ids(self, but: Sequence[int] = ()) -> list[int]:
        """Ids that are no part of a text: special ones, and those that the embedding has and the tokenizer lacks."""
        known = {i for i, token in enumerate(self.tokenizer.tokens) if token} - self.tokenizer.special_ids
        return sorted(set(range(self.model.config.vocab_size)) - known - set(but))

    def add_cls_sep(self, ids: Sequence[int]) -> list[int]:
        """A text as models see it that look both ways."""
        roles = self.tokenizer.roles
        return [roles["cls"], *ids, roles["sep"]]

    def prepend_end(self, ids: Sequence[int]) -> list[int]:
        """A text as models see it that look back: behind the end of another."""
        return [self.tokenizer.eos_id, *ids]


def save(saved: PretrainedModel, out: Path, card: str) -> None:
    """Write the folder aside, and put it in place whole."""
    aside = out.parent / f".{out.name}.tmp"
    ensure_writable_folder(aside / "tokenizer")
    saved.tokenizer.save(aside / "tokenizer")
    save_file(weights_of(saved.module), aside / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "objective": saved.objective,
        "cross_document_attention": saved.cross_document_attention,
        "length": saved.max_length,
    }
    if saved.head is not None:
        settings |= {"task": saved.head.task, "labels": list(saved.head.labels)}
    settings |= {"model": saved.model.config.model_dump()}
    (aside / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    (aside / "card.md").write_text(card, encoding="utf-8")
    files = [
        {"path": name, "bytes": (aside / name).stat().st_size, "sha256": sha256_of(aside / name)}
        for name in ("card.md", "config.yaml", "model.safetensors")
    ]
    manifest = build_manifest("model", settings, saved.tokenizer, {"parameters": saved.model.num_parameters()}, files)
    write_json(aside / "manifest.json", manifest)
    publish_atomic(aside, out)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Weights under their names, as they are written."""
    return {name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()}


def load(path: Path) -> PretrainedModel:
    """Read such a folder, or the `final/` of a run; what is not whole, or not safe to read, is refused."""
    folder = resolve_artifact(path)
    if path.is_file() or not (folder / "manifest.json").is_file():
        raise no_model_error(path)
    manifest = read_manifest(folder)
    if manifest["kind"] != "model":
        raise BertGPTError("BG211", f"{folder} holds {manifest['kind']}, not a model")
    verify(folder, manifest)
    tokenizer = verify_tokenizer(folder, manifest)
    try:
        settings: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        config = ModelConfig(**settings["model"])
    except (ValueError, KeyError, TypeError, ValidationError, yaml.YAMLError) as error:
        cause = str(error).splitlines()[0]
        raise BertGPTError("BG318", "config.yaml describes no model", path=str(folder), cause=cause) from None
    check_vocabulary(config, tokenizer)
    return build(config, settings, load_file(folder / "model.safetensors"), tokenizer, str(folder))


def build(config: ModelConfig, settings: dict[str, Any], weights: dict[str, Tensor], tokenizer: Tokenizer,
             where: str) -> PretrainedModel:  # fmt: skip
    """A model from what was written down of it."""
    model, head = allocate(config, weights, where), None
    if "labels" in settings:
        labels = tuple(settings["labels"])
        classifier = SequenceClassifier(model, len(labels) or 1, settings["objective"] == "clm")
        head = ClassificationHead(settings["task"], labels, classifier)
    load_weights(model if head is None else head.classifier, weights, where)
    facts = {name: settings[name] for name in ("objective", "cross_document_attention", "length")}
    return PretrainedModel(model, tokenizer, **facts, head=head)


def allocate(config: ModelConfig, weights: dict[str, Tensor], where: str) -> Transformer:
    """A model of a shape, unless that is far larger than its weights: strangers may claim any, and it is allocated."""
    c = config
    places = c.max_seq_len if c.positions == "learned" else 0
    least = (c.vocab_size + places) * c.dim + c.layers * (4 * c.dim**2 + 2 * c.dim * c.ffn_dim)
    if least > 2 * (there := sum(weight.numel() for weight in weights.values())):
        cause = f"d{c.dim} L{c.layers} H{c.heads} is far more than the {there:,} numbers here"
        raise BertGPTError("BG318", "these are not the weights of this shape", path=where, cause=cause)
    return Transformer(config)


def load_weights(model: Module, weights: dict[str, Tensor], where: str) -> Module:
    """A model with these weights, all of them and no others."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[-1].strip()
        raise BertGPTError("BG318", "these are not the weights of this shape", path=where, cause=cause) from None
    return model.eval()


def check_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """A model has a row for every id."""
    if tokenizer.max_id >= config.vocab_size:
        cause = f"ids to {tokenizer.max_id:,}, a vocabulary of {config.vocab_size:,}"
        hint = "give the vocabulary of the tokenizer that made the data"
        raise BertGPTError("BG219", "the model has no rows for some ids of this tokenizer", cause=cause, hint=hint)


def not_a_language_model(head: ClassificationHead) -> BertGPTError:
    """What was fine-tuned has lost how to go on with text, and how to fill gaps."""
    said = "labels" if head.labels else "numbers"
    hint = "take the run that it was fine-tuned from; eval predict --model says its labels of new texts"
    return BertGPTError("BG222", f"this model was fine-tuned for {head.task}: it says {said}, not text", hint=hint)


def no_model_error(path: Path) -> BertGPTError:
    """What stands there instead."""
    pickled = [path] if path.suffix in REFUSED else sorted(p for p in path.glob("*") if p.suffix in REFUSED)
    if pickled:
        return BertGPTError(
            "BG220",
            f"{pickled[0].name} may run code when it is read, and is not read",
            path=str(path),
            hint="save it as safetensors: model.save_pretrained(folder, safe_serialization=True)",
        )
    return BertGPTError("BG211", "there is no model here", path=str(path), hint="give a run, its final/, or an export")
