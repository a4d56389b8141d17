"""Export models to folders that `transformers` loads, and check that they compute the same logits."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bertgpt.data.execution.workdir import WorkDirectory
from bertgpt.data.format import build_manifest, manifest_hash, read_manifest, resolve_artifact
from bertgpt.data.tokenizers.tokenizer import SpecialTokensTemplate
from bertgpt.hub.mapping import classifier_hf_config, classifier_to_hf, layout_of, to_hf, to_hf_config
from bertgpt.hub.pretrained import PretrainedModel, load
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of, write_json
from bertgpt.utils.json_files import read_json_object

TOLERANCE = 1e-4  # largest accepted difference between logits of bertgpt and of transformers
AUTO_CLASSES = {
    "gpt2": "AutoModelForCausalLM", "bert": "AutoModelForPreTraining", "modernbert": "AutoModelForMaskedLM",
    "modernbert-decoder": "AutoModelForCausalLM",
}  # fmt: skip


def export_hf(path: Path, out: Path, overwrite: bool) -> dict[str, Any]:
    """Export a model as a transformers folder; returns its architecture, layout, files and largest logit difference.

    Raises BertGPTError if no class of transformers has this architecture, or if its logits differ.
    """
    folder = resolve_artifact(path)
    parent = manifest_hash(folder)
    pretrained = load(path)
    causal = pretrained.objective != "mlm" if pretrained.head is None else pretrained.head.classifier.causal
    if pretrained.objective == "hybrid" and pretrained.head is None:
        console.info("a hybrid is exported as a causal model, without mask filling")
    config = {"parent": parent, "to": "hf"}
    layout = layout_of(pretrained.model.config, causal)
    with WorkDirectory(out, overwrite) as workdir:
        if not workdir.is_up_to_date(config):
            workdir.parents[folder] = parent
            final = workdir.folder(config, "final", empty=True)
            write_hf_folder(pretrained, layout, final, (folder / "card.md").read_text(encoding="utf-8"))
            difference = max_logit_difference(pretrained, layout, final)
            files = [
                {"path": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
                for file in sorted(final.iterdir())
                if not file.name.startswith(".")
            ]
            counts = {"parameters": pretrained.model.num_parameters()}
            manifest = build_manifest("hf", config, pretrained.tokenizer, counts, files)
            manifest |= {"layout": layout, "prefix_token": pretrained.prefix_token}
            metadata = {"model": str(folder.resolve()), "max_logit_difference": difference}
            workdir.publish(final, manifest, None, metadata)
    manifest, metadata = read_manifest(out), read_json_object(out / "run.json", "BG307", "run.json of this export")
    return {
        "path": str(out), "kind": "hf", "architecture": architecture(out), "layout": manifest["layout"],
        "max_logit_difference": metadata.get("max_logit_difference"), "files": manifest["files"],
    }  # fmt: skip


def architecture(folder: Path) -> str:
    """The model class that the config.json of a transformers folder names."""
    return str(read_json_object(folder / "config.json", "BG318", "config.json")["architectures"][0])


def write_hf_folder(pretrained: PretrainedModel, layout: str, folder: Path, card: str) -> None:
    """Write config.json, weights, tokenizer, generation_config.json for a language model, and the card as README.md."""
    model, tokenizer, head = pretrained.model, pretrained.tokenizer, pretrained.head
    bidirectional = layout in ("bert", "modernbert")
    config = model.config.model_copy(update={"max_seq_len": pretrained.max_length})
    state_dict = trained_positions(pretrained.module.state_dict(), pretrained.max_length)
    if head is None:
        hf_config, weights = to_hf_config(config, layout, tokenizer.roles), to_hf(config, layout, state_dict)
    else:
        hf_config = classifier_hf_config(config, layout, tokenizer.roles, head.labels)
        weights = classifier_to_hf(config, layout, state_dict)
    write_json(folder / "config.json", hf_config)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    template: SpecialTokensTemplate | None = "cls_sep" if bidirectional else None if head is None else "bos"
    tokenizer.save(folder, pretrained.max_length, template, token_type_ids=layout == "bert")
    if not bidirectional and head is None:
        generation_config: dict[str, Any] = {name: hf_config[name] for name in ("bos_token_id", "eos_token_id")}
        suppressed = pretrained.suppressed_ids(allowed=[tokenizer.eos_id])
        generation_config |= {"suppress_tokens": suppressed} if suppressed else {}
        write_json(folder / "generation_config.json", generation_config)
    (folder / "README.md").write_text(card, encoding="utf-8")


def trained_positions(state_dict: Mapping[str, Tensor], max_length: int) -> dict[str, Tensor]:
    """The state dict without the positions beyond the sequence length of training, which are as random as at first."""
    name = "position_embedding.weight"
    return {key: tensor[:max_length] if key.endswith(name) else tensor for key, tensor in state_dict.items()}


@torch.no_grad()
def max_logit_difference(pretrained: PretrainedModel, layout: str, folder: Path) -> float | None:
    """Load the export with transformers and compare logits of random ids; None if transformers is not installed."""
    if find_spec("transformers") is None:
        console.info("transformers is not installed: the exported logits were not compared")
        return None
    import transformers

    config, head = pretrained.model.config, pretrained.head
    transformers.utils.logging.disable_progress_bar()
    auto = AUTO_CLASSES[layout] if head is None else "AutoModelForSequenceClassification"
    hf_model = getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    length = min(pretrained.max_length, 300)
    input_ids = torch.randint(0, config.vocab_size, (2, length), generator=generator)
    if head is not None:
        # Padding ids would shift the position that a causal classifier of transformers reads.
        pad = hf_model.config.pad_token_id
        input_ids[input_ids == pad] = (pad + 1) % config.vocab_size
        pool_index = torch.full((2,), length - 1 if head.classifier.causal else 0)
        logits = head.classifier(input_ids, row_index=torch.arange(2), pool_index=pool_index)
        return check_difference(logits, hf_model(input_ids, attention_mask=torch.ones_like(input_ids)).logits)
    output = hf_model(input_ids)
    hidden = pretrained.model(input_ids, causal=pretrained.objective != "mlm")
    return check_difference(
        pretrained.model.logits(hidden), output.prediction_logits if layout == "bert" else output.logits
    )


def check_difference(logits: Tensor, hf_logits: Tensor) -> float:
    """The largest difference of logits; more than TOLERANCE is an error."""
    difference = float((logits - hf_logits).abs().max())
    if not difference < TOLERANCE:
        raise BertGPTError(
            "BG319", "exported logits do not match transformers", cause=f"they differ by {difference:.2g}"
        )
    return difference
