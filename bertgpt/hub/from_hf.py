"""Import models of `transformers`: from a folder that `save_pretrained` wrote, or from the hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bertgpt.config.presets import ModelConfig
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.hub.mapping import from_hf, from_hf_config
from bertgpt.hub.pretrained import PretrainedModel, allocate, check_vocabulary, load_weights, no_model_error, save
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError

# Configuration, tokenizer and safetensors: nothing that could run code.
DOWNLOADED_FILES = [
    "config.json", "*.safetensors", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json",
]  # fmt: skip


def import_hf(source: str, out: Path, overwrite: bool) -> dict[str, Any]:
    """Import a transformers folder, or a model of the hub, as the run `out`; returns its layout and parameter count."""
    final = out / "final"
    if final.exists() and not overwrite:
        raise BertGPTError(
            "BG213", "output already exists", path=str(final), hint="choose another --out, or --overwrite"
        )
    model, hf_config = load_hf(Path(source) if Path(source).exists() else download(source))
    out.mkdir(parents=True, exist_ok=True)
    name = Path(source).name
    save(model, final, f"# {name}\n\nImported from the {hf_config['architectures'][0]} weights of `{name}`.\n")
    layout, num_parameters = from_hf_config(hf_config)[1], model.model.num_parameters()
    return {"path": str(out), "layout": layout, "objective": model.objective, "parameters": num_parameters}


def is_hf_folder(folder: Path) -> bool:
    """Whether a folder has the files of `save_pretrained`: config.json and safetensors."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def load_hf(folder: Path) -> tuple[PretrainedModel, dict[str, Any]]:
    """Load a transformers folder: the model with its tokenizer, and its config.json.

    Raises BertGPTError if it has no safetensors, cannot be read, or is of an architecture that bertgpt lacks.
    """
    if not is_hf_folder(folder):
        raise no_model_error(folder)
    hf_weights: dict[str, Tensor] = {}
    try:
        hf_config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config, layout = from_hf_config(hf_config)
        for file in sorted(folder.glob("*.safetensors")):
            hf_weights |= load_file(file)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BertGPTError("BG318", "model cannot be read", path=str(folder), cause=cause) from None
    tokenizer = load_tokenizer(folder)
    check_vocabulary(config, tokenizer)
    model = allocate(config, hf_weights, str(folder))
    weights = from_hf(config, layout, normalize_names(layout, hf_weights))
    load_weights(model, add_missing_heads(config, weights), str(folder))
    objective = "clm" if layout in ("gpt2", "modernbert-decoder") else "mlm"
    cross_document_attention = layout == "gpt2"
    return PretrainedModel(model, tokenizer, objective, cross_document_attention, model_max_length(folder)), hf_config


def model_max_length(folder: Path) -> int | None:
    """The `model_max_length` of a tokenizer, if it is a real limit: some store a huge number for none."""
    file = folder / "tokenizer_config.json"
    length = json.loads(file.read_text(encoding="utf-8")).get("model_max_length") if file.is_file() else None
    return length if isinstance(length, int) and 0 < length < 1 << 30 else None


def normalize_names(layout: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in fp32 under the current names of transformers; old checkpoints have older ones."""
    prefix = "transformer." if layout == "gpt2" and "wte.weight" in weights else ""
    renamed = {f"{prefix}{name}": tensor.float() for name, tensor in weights.items()}
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        renamed = {name.removesuffix(old) + new if name.endswith(old) else name: t for name, t in renamed.items()}
    return renamed


def add_missing_heads(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add a zero pooler and NSP head to a BERT that has none, since MLM-only checkpoints lack them."""
    if not config.token_types or "nsp_head.weight" in weights:
        return weights
    console.info("this model has no pooler or no NSP head: they are set to zero")
    shapes = {"pooler": (config.dim, config.dim), "nsp_head": (2, config.dim)}
    zeros = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    zeros |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    return zeros | weights


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
