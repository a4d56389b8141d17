"""Any model that somebody names: a run, its `final/`, or a checkpoint of a run that is not finished."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from bertgpt import console
from bertgpt.checkpoint import Checkpoints, state_of
from bertgpt.errors import BertGPTError
from bertgpt.initial import build
from bertgpt.journal import Lines, scores
from bertgpt.model import Transformer
from bertgpt.presets import ModelConfig
from bertgpt.run_folder import settings_of
from bertgpt.saved import Saved, filled, load
from bertgpt.shards.format import finished
from bertgpt.tokens.tokenizer import Tokenizer


def find(path: Path) -> tuple[Saved, Path]:
    """A model and the folder that its weights are in: of a run that is not finished, its best or newest checkpoint."""
    folder = finished(path)
    if (folder / "manifest.json").is_file() or not (path / "checkpoints").is_dir():
        return (load_checkpoint(path), path) if is_checkpoint(path) else (load(path), folder)
    kept = Checkpoints(path / "checkpoints")
    found = kept.best(scores(Lines(path / "metrics.jsonl").read())) or kept.newest()
    if found is None:
        raise BertGPTError("BG211", "this run has no checkpoint yet", path=str(path))
    console.note(f"{path} is not finished: this is {found.name}")
    return load_checkpoint(found), found


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of a run's checkpoints."""
    run = folder.parent.parent
    return folder.parent.name == "checkpoints" and folder.is_dir() and (run / "config.yaml").is_file()


def load_checkpoint(folder: Path) -> Saved:
    """The model of a checkpoint; its shape and its tokenizer are those of the run."""
    if not Checkpoints(folder.parent).is_sound(folder):
        raise BertGPTError("BG304", "this checkpoint is not whole", path=str(folder))
    run = folder.parent.parent
    settings = settings_of(run)
    state_of(folder)  # is of a version that we know
    model = filled(ModelConfig(**settings["model"]), load_file(folder / "model.safetensors"), str(folder))
    return Saved(model, Tokenizer.load(run / "tokenizer"), settings["objective"], settings["documents"])


def with_ids_of(kept: Saved, tokenizer: Tokenizer, dropout: float, seed: int) -> Transformer:
    """The weights of a model for a tokenizer that has all of its ids, and perhaps more, which begin at random."""
    known = len(kept.tokenizer.tokens)
    if tokenizer.tokens[:known] != kept.tokenizer.tokens:
        cause = f"{kept.tokenizer.identity[:12]} there, {tokenizer.identity[:12]} here"
        hint = "make the data with the tokenizer of that model: --tokenizer RUN/final/tokenizer"
        raise BertGPTError("BG308", "the model was trained with another tokenizer", cause=cause, hint=hint)
    vocab = max(kept.model.config.vocab, tokenizer.max_id + 1)
    model = build(kept.model.config.model_copy(update={"vocab": vocab, "dropout": dropout}), seed)
    weights = model.state_dict()
    for name, given in kept.model.state_dict().items():
        with torch.no_grad():
            weights[name][: len(given)] = given
    model.load_state_dict(weights)
    return model
