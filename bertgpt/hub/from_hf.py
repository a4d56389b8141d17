"""Models of `transformers`: read from a folder, or from the hub, as ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.mapping import from_hf, from_hf_config
from bertgpt.hub.pretrained import PretrainedModel, allocate, check_vocabulary, load_weights, no_model_error
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError


def is_hf_folder(folder: Path) -> bool:
    """Whether a folder is one that `save_pretrained` makes."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def load_hf(folder: Path) -> tuple[PretrainedModel, dict[str, Any]]:
    """A model with its tokenizer, and what their config.json says of it."""
    if not is_hf_folder(folder):
        raise no_model_error(folder)
    weights: dict[str, Tensor] = {}
    try:
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config, layout = from_hf_config(settings)
        for file in sorted(folder.glob("*.safetensors")):
            weights |= load_file(file)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BertGPTError("BG318", "this model cannot be read", path=str(folder), cause=cause) from None
    tokenizer = Tokenizer.load(folder)
    check_vocabulary(config, tokenizer)
    model = allocate(config, weights, str(folder))
    load_weights(
        model, add_missing_heads(config, from_hf(config, layout, normalize_names(layout, weights))), str(folder)
    )
    objective = "clm" if layout in ("gpt2", "modernbert-decoder") else "mlm"
    cross_document_attention = layout == "gpt2"
    return PretrainedModel(model, tokenizer, objective, cross_document_attention, model_max_length(folder)), settings


def model_max_length(folder: Path) -> int | None:
    """The longest row that a tokenizer says its model takes; some say a number that means none."""
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text(encoding="utf-8")).get("model_max_length") if file.is_file() else None
    return said if isinstance(said, int) and 0 < said < 1 << 30 else None


def normalize_names(layout: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Older names as the newer ones."""
    prefix = "transformer." if layout == "gpt2" and "wte.weight" in weights else ""
    renamed = {f"{prefix}{name}": tensor.float() for name, tensor in weights.items()}
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        renamed = {name.removesuffix(old) + new if name.endswith(old) else name: t for name, t in renamed.items()}
    return renamed


def add_missing_heads(config: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A pooler and a pair head that never were trained, as zeros."""
    if not config.token_types or "nsp_head.weight" in weights:
        return weights
    console.note("this model has no pooler or no head for pairs: they are zero")
    shapes = {"pooler": (config.dim, config.dim), "nsp_head": (2, config.dim)}
    zeros = {f"{name}.weight": torch.zeros(size) for name, size in shapes.items()}
    zeros |= {f"{name}.bias": torch.zeros(size[0]) for name, size in shapes.items()}
    return zeros | weights


def download(name: str) -> Path:
    """A model of the hub: its configuration, tokenizer and safetensors, nothing that could run."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = ["config.json", "*.safetensors", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json"]
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        cause = str(error).splitlines()[0][:200]
        hint = "give a folder, or the name of a model on the hub"
        said = f"{name} is no folder here, and no model of the hub"
        raise BertGPTError("BG211", said, cause=cause, hint=hint) from None
