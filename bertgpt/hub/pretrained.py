"""The pretrained-model folder, `final/` of a run: save and load a model with its tokenizer. It is self-contained.

model.safetensors   weights under bertgpt's names
config.yaml         architecture, objective, cross-document attention
tokenizer/          in the layout of `transformers`
card.md             model card
manifest.json       checksums of all other files, written last
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertgpt.config.presets import ModelConfig
from bertgpt.data.format import (
    KIND_NAMES,
    build_manifest,
    read_manifest,
    resolve_artifact,
    verify,
    verify_tokenizer,
)
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.model import SequenceClassifier, Transformer
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import ensure_writable_folder, publish_atomic, sha256_of, write_json

ModuleT = TypeVar("ModuleT", bound=nn.Module)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class ClassificationHead:
    """The head of a fine-tuned model: its task, labels and classifier."""

    task: str  # name of a task, or file of the labeled examples
    labels: tuple[str, ...]  # class names; empty for regression
    classifier: SequenceClassifier

    @property
    def num_labels(self) -> int:
        """The number of logits."""
        return len(self.labels) or 1


@dataclass(frozen=True)
class PretrainedModel:
    """A model with its tokenizer, objective and, if it was fine-tuned, classification head."""

    model: Transformer
    tokenizer: Tokenizer
    objective: str  # clm, mlm or hybrid
    cross_document_attention: bool = False
    seq_len: int | None = None  # sequence length in training, if known
    head: ClassificationHead | None = None  # of a fine-tuned model
    prefix_token: str = "eos"  # put before a text: eos, as in training here, or none

    @property
    def module(self) -> nn.Module:
        """The module that owns all parameters: the classifier of a fine-tuned model, else the transformer."""
        return self.model if self.head is None else self.head.classifier

    @property
    def max_length(self) -> int:
        """The longest usable sequence: positions beyond those seen in training are untrained."""
        return min(self.model.config.max_seq_len, self.seq_len or self.model.config.max_seq_len)

    @property
    def mlm_shift(self) -> int:
        """How far before a mask its prediction is read: 1 position for a hybrid, whose head predicts the next token."""
        return int(self.objective == "hybrid")

    def suppressed_ids(self, allowed: Sequence[int] = ()) -> list[int]:
        """Ids never to predict: special tokens, and embedding rows that the tokenizer has no token for."""
        known = {i for i, token in enumerate(self.tokenizer.tokens) if token} - self.tokenizer.special_ids
        return sorted(set(range(self.model.config.vocab_size)) - known - set(allowed))

    def add_cls_sep(self, ids: Sequence[int]) -> list[int]:
        """`[CLS] ids [SEP]`: the input of a bidirectional model."""
        roles = self.tokenizer.roles
        return [roles["cls"], *ids, roles["sep"]]

    def prepend_eos(self, ids: Sequence[int]) -> list[int]:
        """`<|end|> ids`: the input of a causal model, which sees a text after the end of another."""
        return [self.tokenizer.eos_id, *ids]

    def prepend_prefix(self, ids: Sequence[int]) -> list[int]:
        """The prompt `ids` after the prefix token; an empty prompt is an end token in any case."""
        return list(ids) if ids and self.prefix_token == "none" else self.prepend_eos(ids)


def save(pretrained: PretrainedModel, out: Path, card: str, parent: str | None = None) -> None:
    """Write a model folder, atomically; `card` is the text of its model card, `parent` the hash of an imported one."""
    aside = out.parent / f".{out.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)  # of a killed process
    ensure_writable_folder(aside / "tokenizer")
    pretrained.tokenizer.save(aside / "tokenizer")
    save_file(weights_of(pretrained.module), aside / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "objective": pretrained.objective,
        "cross_document_attention": pretrained.cross_document_attention,
        "seq_len": pretrained.max_length,
    }
    if pretrained.prefix_token != "eos":
        settings |= {"prefix_token": pretrained.prefix_token}
    if pretrained.head is not None:
        settings |= {"task": pretrained.head.task, "labels": list(pretrained.head.labels)}
    settings |= {"model": pretrained.model.config.model_dump()}
    (aside / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    (aside / "card.md").write_text(card, encoding="utf-8")
    files = [
        {"path": name, "bytes": (aside / name).stat().st_size, "sha256": sha256_of(aside / name)}
        for name in ("card.md", "config.yaml", "model.safetensors")
    ]
    manifest = build_manifest(
        "model", settings, pretrained.tokenizer, {"parameters": pretrained.model.num_parameters()}, files
    )
    write_json(aside / "manifest.json", manifest | ({} if parent is None else {"parent": parent}))
    publish_atomic(aside, out)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A state dict as it is written: detached, on the CPU, contiguous."""
    return {name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()}


def load(path: Path) -> PretrainedModel:
    """Load a model folder, or the `final/` of a run.

    Raises BertGPTError if there is no model, if its files are corrupt or incomplete, or if they are pickles.
    """
    folder = resolve_artifact(path)
    if path.is_file() or not (folder / "manifest.json").is_file():
        raise no_model_error(path)
    manifest = read_manifest(folder)
    if manifest["kind"] != "model":
        held = KIND_NAMES.get(manifest["kind"], manifest["kind"])
        raise BertGPTError("BG211", f"{folder} is {held}, not a model")
    verify(folder, manifest)
    tokenizer = verify_tokenizer(folder, manifest)
    try:
        settings: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        config = ModelConfig(**settings["model"])
    except (ValueError, KeyError, TypeError, ValidationError, yaml.YAMLError) as error:
        cause = str(error).splitlines()[0]
        raise BertGPTError("BG318", "config.yaml is not a valid model config", path=str(folder), cause=cause) from None
    check_vocabulary(config, tokenizer)
    return build(config, settings, read_weights(folder / "model.safetensors"), tokenizer, str(folder))


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise BertGPTError("BG318", "weights cannot be read", path=str(file), cause=str(error)) from None


def build(
    config: ModelConfig, settings: dict[str, Any], weights: dict[str, Tensor], tokenizer: Tokenizer, source: str
) -> PretrainedModel:
    """Build a model from its config.yaml (`settings`) and weights; `source` names them in errors."""
    model, head = allocate(config, weights, source), None
    if "labels" in settings:
        labels = tuple(settings["labels"])
        classifier = SequenceClassifier(model, len(labels) or 1, settings["objective"] == "clm")
        head = ClassificationHead(settings["task"], labels, classifier)
    load_weights(model if head is None else head.classifier, weights, source)
    fields = {name: settings[name] for name in ("objective", "cross_document_attention", "seq_len")}
    return PretrainedModel(model, tokenizer, **fields, head=head, prefix_token=settings.get("prefix_token", "eos"))


def allocate(config: ModelConfig, weights: dict[str, Tensor], source: str) -> Transformer:
    """Allocate a model, unless its config asks for far more parameters than its weights have: it may be untrusted."""
    c = config
    positions = c.max_seq_len if c.positions == "learned" else 0
    min_parameters = (c.vocab_size + positions) * c.dim + c.layers * (4 * c.dim**2 + 2 * c.dim * c.ffn_dim)
    num_weights = sum(weight.numel() for weight in weights.values())
    if min_parameters > 2 * num_weights:
        cause = f"dim {c.dim}, {c.layers} layers and {c.heads} heads need far more than {num_weights:,} parameters"
        raise BertGPTError("BG318", "weights do not match the config", path=source, cause=cause)
    return Transformer(config)


def load_weights(model: ModuleT, weights: dict[str, Tensor], source: str) -> ModuleT:
    """Load a state dict that must have exactly the parameters of the model."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[-1].strip()
        raise BertGPTError("BG318", "weights do not match the config", path=source, cause=cause) from None
    return model.eval()


def check_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with ids beyond the embedding."""
    if tokenizer.max_id >= config.vocab_size:
        cause = f"largest id {tokenizer.max_id:,}, vocab_size {config.vocab_size:,}"
        hint = "use the tokenizer that made the model's training data"
        raise BertGPTError("BG219", "tokenizer has ids beyond the model's vocab_size", cause=cause, hint=hint)


def not_a_language_model(head: ClassificationHead) -> BertGPTError:
    """The error of generating or filling masks with a fine-tuned model: it has no language-modeling head any more."""
    predicts = "labels" if head.labels else "numbers"
    hint = "use the run that it was fine-tuned from, or bertgpt eval predict --model for its predictions"
    return BertGPTError("BG222", f"model was fine-tuned for {head.task}: it predicts {predicts}, not text", hint=hint)


def no_model_error(path: Path) -> BertGPTError:
    """The error of a path without a model; if there is a pickle instead, it says so."""
    candidates = [path, *sorted(path.glob("*"))]
    pickles = [file for file in candidates if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        return BertGPTError(
            "BG220",
            f"{pickles[0].name} is a pickle and is not loaded",
            path=str(path),
            hint="save it as safetensors: model.save_pretrained(folder, safe_serialization=True)",
        )
    return BertGPTError("BG211", "no model found", path=str(path), hint="give a run, its final/, or an export")
