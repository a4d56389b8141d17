"""Any model that somebody names: a run, its `final/`, or a checkpoint of a run that is not finished."""

from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file

from bertgpt.config.presets import ModelConfig
from bertgpt.data.format import resolve_artifact
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.from_hf import download, is_hf_folder, load_hf
from bertgpt.hub.pretrained import PretrainedModel, build, load
from bertgpt.model import Transformer
from bertgpt.training.checkpoints import Checkpoints, state_of
from bertgpt.training.init import init_model
from bertgpt.training.logger import JsonlLogger, validation_scores
from bertgpt.training.run_directory import read_config
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError, did_you_mean
from bertgpt.utils.files import sha256_of


def load_model(name: str | Path) -> tuple[PretrainedModel, Path]:
    """A model and the folder that its weights are in.

    Of a run that is not finished, its best or newest checkpoint; what is no folder here may be a model of the hub.
    """
    path = Path(name)
    if not path.exists():
        path = fetch_from_hub(str(name))
    if is_hf_folder(path):
        return load_hf(path)[0], path
    folder = resolve_artifact(path)
    if (folder / "manifest.json").is_file() or not (path / "checkpoints").is_dir():
        return (load_checkpoint(path), path) if is_checkpoint(path) else (load(path), folder)
    kept = Checkpoints(path / "checkpoints")
    found = kept.best(validation_scores(JsonlLogger(path / "metrics.jsonl").read())) or kept.latest()
    if found is None:
        raise BertGPTError("BG211", "this run has no checkpoint yet", path=str(path))
    console.note(f"{path} is not finished: this is {found.name}")
    return load_checkpoint(found), found


def fetch_from_hub(name: str) -> Path:
    """A model of the hub, unless the name is that of a folder which somebody has misspelled."""
    parent = Path(name).parent
    if "/" in name and parent.is_dir():
        beside = [str(run) for run in sorted(parent.iterdir()) if run.is_dir()]
        hint = did_you_mean(name, beside)
        raise BertGPTError("BG211", "no model found", path=name, hint=hint)
    return download(name)


def list_runs(folder: Path = Path("runs")) -> list[Path]:
    """The runs in a folder."""
    return sorted(file.parent for file in folder.glob("*/config.yaml")) if folder.is_dir() else []


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of a run's checkpoints."""
    run = folder.parent.parent
    return folder.parent.name == "checkpoints" and folder.is_dir() and (run / "config.yaml").is_file()


def load_checkpoint(folder: Path) -> PretrainedModel:
    """The model of a checkpoint; its shape and its tokenizer are those of the run."""
    if not Checkpoints(folder.parent).is_valid(folder):
        raise BertGPTError("BG304", "this checkpoint is not whole", path=str(folder))
    run = folder.parent.parent
    settings = read_config(run)
    state_of(folder)  # is of a version that we know
    config, weights = ModelConfig(**settings["model"]), load_file(folder / "model.safetensors")
    return build(config, settings, weights, load_tokenizer(run / "tokenizer"), str(folder))


def extend_vocabulary(kept: PretrainedModel, tokenizer: Tokenizer, dropout: float, seed: int) -> Transformer:
    """The weights of a model for a tokenizer that has all of its ids, and perhaps more, which begin at random."""
    known = len(kept.tokenizer.tokens)
    if tokenizer.tokens[:known] != kept.tokenizer.tokens:
        cause = f"{kept.tokenizer.fingerprint[:12]} there, {tokenizer.fingerprint[:12]} here"
        hint = "make the data with the tokenizer of that model: --tokenizer RUN/final/tokenizer"
        raise BertGPTError("BG308", "the model was trained with another tokenizer", cause=cause, hint=hint)
    vocab = max(kept.model.config.vocab_size, tokenizer.max_id + 1)
    model = init_model(kept.model.config.model_copy(update={"vocab_size": vocab, "dropout": dropout}), seed)
    weights = model.state_dict()
    for name, given in kept.model.state_dict().items():
        with torch.no_grad():
            weights[name][: len(given)] = given
    model.load_state_dict(weights)
    return model


def weights_hash(folder: Path) -> str:
    """By which weights are known, be they in one file or in several."""
    digests = [sha256_of(file) for file in sorted(folder.glob("*.safetensors")) if file.name != "optim.safetensors"]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()
