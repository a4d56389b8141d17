"""Import models of `transformers`: from a folder that `save_pretrained` wrote, or from the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bertgpt.data.format import read_manifest, verify
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.hub.mapping import CLASSIFIER_CLASSES, classifier_from_hf, from_hf, from_hf_config
from bertgpt.hub.pretrained import (
    ClassificationHead,
    PretrainedModel,
    allocate,
    check_vocabulary,
    load_weights,
    no_model_error,
    save,
)
from bertgpt.model import SequenceClassifier
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import lock, sha256_of, sha256_of_json
from bertgpt.utils.json_files import read_json_object

# Configuration, tokenizer and safetensors: nothing that could run code.
DOWNLOADED_FILES = [
    "config.json", "*.safetensors", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json",
]  # fmt: skip
OPTIONAL_HEADS = ("pooler.", "nsp_head.", "mlm_dense.", "mlm_norm.", "lm_bias")


def import_hf(source: str, out: Path, overwrite: bool) -> dict[str, Any]:
    """Import a transformers folder, or a model of the hub, as the run `out`; returns its layout and parameter count."""
    folder = Path(source) if Path(source).exists() else download(source)
    hf_config, parent = read_hf_config(folder), hash_of_source(folder)
    if not overwrite and is_imported(out, parent):
        console.info(f"nothing to do: {out} is finished")
    else:
        model, name = load_hf(folder), Path(source).name
        card = f"# {name}\n\nImported from the {hf_config['architectures'][0]} weights of `{name}`.\n"
        with lock(out / "run.lock", str(out)):
            if overwrite or not is_imported(out, parent):  # by another process, meanwhile
                save(model, out / "final", card, parent)
    manifest = read_manifest(out / "final")
    layout, objective = from_hf_config(hf_config)[1], manifest["config"]["objective"]
    return {"path": str(out), "layout": layout, "objective": objective, **manifest["counts"]}


def is_imported(out: Path, parent: str) -> bool:
    """Whether `out` holds the same model; an error if it holds another."""
    final = out / "final"
    if not final.exists():
        return False
    manifest = read_manifest(final)
    if manifest.get("parent") != parent:
        hint = "choose another --out, or --overwrite"
        raise BertGPTError("BG213", "output already exists", path=str(final), hint=hint)
    verify(final, manifest)
    return True


def hash_of_source(folder: Path) -> str:
    """The hash of the files that an import reads."""
    files = sorted({file for pattern in DOWNLOADED_FILES for file in folder.glob(pattern) if file.is_file()})
    return sha256_of_json({file.name: sha256_of(file) for file in files})


def read_hf_config(folder: Path) -> dict[str, Any]:
    """config.json of a transformers folder; an error if the folder has no safetensors beside it."""
    if not is_hf_folder(folder):
        raise no_model_error(folder)
    return read_json_object(folder / "config.json", "BG318", "config.json of this model")


def unreadable_model(folder: Path, error: Exception) -> BertGPTError:
    """The error for a model whose config or weights cannot be read."""
    cause = f"{type(error).__name__}: {error}".splitlines()[0]
    return BertGPTError("BG318", "model cannot be read", path=str(folder), cause=cause)


def is_hf_folder(folder: Path) -> bool:
    """Whether a folder has the files of `save_pretrained`: config.json and safetensors."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def load_hf(folder: Path) -> PretrainedModel:
    """Load a transformers folder: a language model or a classifier, with its tokenizer.

    Raises BertGPTError if it has no safetensors, cannot be read, or is of an architecture that bertgpt lacks.
    """
    hf_config, hf_weights = read_hf_config(folder), dict[str, Tensor]()
    try:
        config, layout = from_hf_config(hf_config)
        for file in sorted(folder.glob("*.safetensors")):
            hf_weights |= load_file(file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise unreadable_model(folder, error) from None
    tokenizer = load_tokenizer(folder)
    check_vocabulary(config, tokenizer)
    model, head = allocate(config, hf_weights, str(folder)), None
    hf_weights = normalize_names(layout, hf_weights)
    causal = layout in ("gpt2", "modernbert-decoder")
    if is_classifier(hf_config):
        labels = labels_of(hf_config)
        head = ClassificationHead(folder.name, labels, SequenceClassifier(model, len(labels) or 1, causal))
        weights = add_missing(head.classifier, classifier_from_hf(config, layout, hf_weights))
    else:
        weights = add_missing(model, from_hf(config, layout, hf_weights))
    load_weights(model if head is None else head.classifier, weights, str(folder))
    fields = ("clm" if causal else "mlm", layout == "gpt2", model_max_length(folder))
    return PretrainedModel(model, tokenizer, *fields, head=head, prefix_token=prefix_token_of(folder, causal))


def prefix_token_of(folder: Path, causal: bool) -> str:
    """The token before a prompt: none for a causal model of others, that of the original for an export of bertgpt."""
    if (folder / "manifest.json").is_file():
        return str(read_manifest(folder).get("prefix_token", "eos"))
    return "none" if causal else "eos"


def is_classifier(hf_config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a model with a classification head."""
    return hf_config.get("architectures", [""])[0] in CLASSIFIER_CLASSES.values()


def labels_of(hf_config: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names of a classifier; none for regression."""
    labels = {int(i): str(name) for i, name in hf_config.get("id2label", {}).items()}
    is_regression = hf_config.get("problem_type") == "regression" or len(labels) == 1
    return () if is_regression else tuple(labels[i] for i in sorted(labels))


def model_max_length(folder: Path) -> int | None:
    """The `model_max_length` of a tokenizer, if it is a real limit: some store a huge number for none."""
    file = folder / "tokenizer_config.json"
    config = read_json_object(file, "BG318", "tokenizer config of this model") if file.is_file() else {}
    length = config.get("model_max_length")
    return length if isinstance(length, int) and 0 < length < 1 << 30 else None


def normalize_names(layout: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in fp32 under the current names of transformers; old checkpoints have older ones."""
    prefix = "transformer." if layout == "gpt2" and "wte.weight" in weights else ""
    renamed = {f"{prefix}{name}": tensor.float() for name, tensor in weights.items()}
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        renamed = {name.removesuffix(old) + new if name.endswith(old) else name: t for name, t in renamed.items()}
    return renamed


def add_missing(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add heads that a checkpoint lacks, set to zero: the pooler and NSP head of BERT, those of a classifier's MLM."""
    missing = {name: torch.zeros_like(weight) for name, weight in model.state_dict().items() if name not in weights}
    missing = {name: weight for name, weight in missing.items() if any(head in name for head in OPTIONAL_HEADS)}
    heads = sorted({name.removeprefix("transformer.").partition(".")[0] for name in missing})
    if heads and not isinstance(model, SequenceClassifier):
        console.info(f"this model has no {' and no '.join(heads)}: set to zero")
    return missing | weights


def download(name: str) -> Path:
    """Download a model from the hub; returns its folder in the cache. Raises BertGPTError if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=DOWNLOADED_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        cause = str(error).splitlines()[0][:200]
        hint = "give a local folder, or the name of a model on the hub"
        raise BertGPTError("BG211", f"no such folder or hub model: {name}", cause=cause, hint=hint) from None
