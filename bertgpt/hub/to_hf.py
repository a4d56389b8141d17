"""Models to and from folders that `transformers` reads."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bertgpt.data.execution.workdir import WorkDirectory
from bertgpt.data.format import build_manifest, read_manifest, resolve_artifact
from bertgpt.data.tokenizers.tokenizer import SpecialTokensTemplate
from bertgpt.hub.from_hf import download, load_hf
from bertgpt.hub.mapping import classifier_hf_config, classifier_to_hf, from_hf_config, layout_of, to_hf, to_hf_config
from bertgpt.hub.pretrained import PretrainedModel, load, save
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of, write_json

TOLERANCE = 1e-4  # between logits of the same weights here and there
AUTO = {
    "gpt2": "AutoModelForCausalLM", "bert": "AutoModelForPreTraining", "modernbert": "AutoModelForMaskedLM",
    "modernbert-decoder": "AutoModelForCausalLM",
}  # fmt: skip


def export_hf(path: Path, out: Path, fresh: bool) -> dict[str, Any]:
    """Write a folder for the class of theirs that computes the same, and see that it does."""
    saved = load(path)
    folder = resolve_artifact(path)
    causal = saved.objective != "mlm" if saved.head is None else saved.head.classifier.causal
    if saved.objective == "hybrid" and saved.head is None:
        console.note("a hybrid is written as a causal model: its masked head looks from the position before")
    config = {"parent": sha256_of(folder / "manifest.json"), "to": "hf"}
    layout = layout_of(saved.model.config, causal)
    with WorkDirectory(out, fresh) as work:
        if not work.finished(config):
            final = work.folder(config, "final", empty=True)
            write_hf_folder(saved, layout, final, (folder / "card.md").read_text(encoding="utf-8"))
            difference = max_logit_difference(saved, layout, final)
            files = [
                {"path": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
                for file in sorted(final.iterdir())
                if not file.name.startswith(".")
            ]
            counts = {"parameters": saved.model.num_parameters()}
            manifest = build_manifest("hf", config, saved.tokenizer, counts, files)
            facts = {"model": str(folder.resolve()), "difference": difference}
            work.publish(final, manifest | {"layout": layout}, None, facts)
    done, run = read_manifest(out), json.loads((out / "run.json").read_text(encoding="utf-8"))
    said = {"path": str(out), "kind": "hf", "architecture": architecture(out), "layout": done["layout"]}
    return said | {"difference": run["difference"], "files": done["files"]}


def architecture(folder: Path) -> str:
    """The class in a folder of theirs."""
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0])


def write_hf_folder(saved: PretrainedModel, layout: str, folder: Path, card: str) -> None:
    """The files."""
    model, tokenizer = saved.model, saved.tokenizer
    around = layout in ("bert", "modernbert")
    if saved.head is None:
        settings = to_hf_config(model.config, layout, tokenizer.roles)
        weights = to_hf(model.config, layout, model.state_dict())
    else:
        settings = classifier_hf_config(model.config, layout, tokenizer.roles, saved.head.labels)
        weights = classifier_to_hf(model.config, layout, saved.head.classifier.state_dict())
    write_json(folder / "config.json", settings)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    frame: SpecialTokensTemplate | None = "around" if around else None if saved.head is None else "before"
    tokenizer.save(folder, saved.max_length, frame, segments=layout == "bert")
    if not around and saved.head is None:
        generation: dict[str, Any] = {name: settings[name] for name in ("bos_token_id", "eos_token_id")}
        unsaid = saved.suppressed_ids(but=[tokenizer.eos_id])
        generation |= {"suppress_tokens": unsaid} if unsaid else {}
        write_json(folder / "generation_config.json", generation)
    (folder / "README.md").write_text(card, encoding="utf-8")


@torch.no_grad()
def max_logit_difference(saved: PretrainedModel, layout: str, folder: Path) -> float | None:
    """The largest difference of logits, after they were read again by `transformers`, if that is there."""
    if find_spec("transformers") is None:
        console.note("transformers is not installed, so the folder was not read again and compared")
        return None
    import transformers

    config = saved.model.config
    transformers.utils.logging.disable_progress_bar()
    auto = AUTO[layout] if saved.head is None else "AutoModelForSequenceClassification"
    other = getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32).eval()
    draws = torch.Generator().manual_seed(0)
    length = min(config.max_seq_len, 300)
    ids = torch.randint(0, config.vocab_size, (2, length), generator=draws)
    if saved.head is not None:
        classifier = saved.head.classifier
        ids[ids == other.config.pad_token_id] = (other.config.pad_token_id + 1) % config.vocab_size
        places = torch.full((2,), length - 1 if classifier.causal else 0)
        ours = classifier(ids, rows=torch.arange(2), places=places)
        return check_difference(ours, other(ids, attention_mask=torch.ones_like(ids)).logits)
    found = other(ids)
    theirs = found.prediction_logits if layout == "bert" else found.logits
    hidden = saved.model(ids, causal=saved.objective != "mlm")
    return check_difference(saved.model.logits(hidden), theirs)


def check_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of logits, which must be small."""
    difference = float((ours - theirs).abs().max())
    if not difference < TOLERANCE:
        cause = f"logits differ by {difference:.2g}"
        raise BertGPTError("BG319", "transformers computes something else from these weights", cause=cause)
    return difference


def import_hf(source: str, out: Path, fresh: bool) -> dict[str, Any]:
    """Read a folder of theirs, or a model of the hub, into one of ours."""
    final = out / "final"
    if final.exists() and not fresh:
        raise BertGPTError("BG213", "this exists", path=str(final), hint="give another --out, or --overwrite")
    kept, settings = load_hf(Path(source) if Path(source).exists() else download(source))
    out.mkdir(parents=True, exist_ok=True)
    card = f"# {Path(source).name}\n\nRead from {settings['architectures'][0]} weights of `{Path(source).name}`.\n"
    save(kept, final, card)
    layout, count = from_hf_config(settings)[1], kept.model.num_parameters()
    return {"path": str(out), "layout": layout, "objective": kept.objective, "parameters": count}
