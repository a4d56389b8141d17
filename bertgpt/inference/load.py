"""Load a model by path or name: a run, its `final/`, a checkpoint, a transformers folder or a model of the hub."""

from hashlib import sha256
from pathlib import Path

import torch

from bertgpt.config.presets import ModelConfig
from bertgpt.data.format import resolve_artifact
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.from_hf import download, is_hf_folder, load_hf
from bertgpt.hub.pretrained import PretrainedModel, build, load, read_weights
from bertgpt.model import Transformer
from bertgpt.training.checkpoints import Checkpoints, read_state
from bertgpt.training.init import init_model
from bertgpt.training.logger import JsonlLogger, validation_scores
from bertgpt.training.run_directory import read_config
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError, did_you_mean
from bertgpt.utils.files import sha256_of


def load_model(name: str | Path) -> tuple[PretrainedModel, Path]:
    """Load a model; returns it and the folder of its weights.

    For an unfinished run this is its best or latest checkpoint. A path that does not exist is looked up on the hub.
    Raises BertGPTError if there is no model, or if it is corrupt or incomplete.
    """
    path = Path(name)
    if not path.exists():
        path = fetch_from_hub(str(name))
    if is_hf_folder(path):
        return load_hf(path), path
    folder = resolve_artifact(path)
    if (folder / "manifest.json").is_file() or not (path / "checkpoints").is_dir():
        return (load_checkpoint(path), path) if is_checkpoint(path) else (load(path), folder)
    checkpoints = Checkpoints(path / "checkpoints")
    scores = validation_scores(JsonlLogger(path / "metrics.jsonl").read())
    checkpoint = checkpoints.best(scores) or checkpoints.latest()
    if checkpoint is None:
        raise BertGPTError("BG211", "this run has no checkpoint yet", path=str(path))
    console.info(f"{path} is not finished: loading checkpoint {checkpoint.name}")
    return load_checkpoint(checkpoint), checkpoint


def fetch_from_hub(name: str) -> Path:
    """Download a model of the hub; a name that looks like a misspelled local path is an error with a suggestion."""
    parent = Path(name).parent
    if "/" in name and parent.is_dir():
        hint = did_you_mean(name, [str(folder) for folder in sorted(parent.iterdir()) if folder.is_dir()])
        raise BertGPTError("BG211", "no model found", path=name, hint=hint)
    return download(name)


def list_runs(folder: Path = Path("runs")) -> list[Path]:
    """The runs in a folder, sorted by name."""
    return sorted(file.parent for file in folder.glob("*/config.yaml")) if folder.is_dir() else []


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint of a run."""
    run = folder.parent.parent
    return folder.parent.name == "checkpoints" and folder.is_dir() and (run / "config.yaml").is_file()


def load_checkpoint(folder: Path) -> PretrainedModel:
    """Load the model of a checkpoint, with the config and tokenizer of its run."""
    if not Checkpoints(folder.parent).is_valid(folder):
        raise BertGPTError("BG304", "checkpoint is corrupt or incomplete", path=str(folder))
    run = folder.parent.parent
    settings = read_config(run)
    read_state(folder)  # checks the format version
    config, weights = ModelConfig(**settings["model"]), read_weights(folder / "model.safetensors")
    return build(config, settings, weights, load_tokenizer(run / "tokenizer"), str(folder))


def check_extends(tokenizer: Tokenizer, other: Tokenizer) -> None:
    """Refuse data whose tokenizer does not begin with the tokens of the model's, `other`."""
    if tokenizer.tokens[: len(other.tokens)] != other.tokens:
        cause = f"model {other.fingerprint[:12]}, data {tokenizer.fingerprint[:12]}"
        hint = "make the data with the model's tokenizer: --tokenizer RUN/final/tokenizer"
        raise BertGPTError("BG308", "model and data use different tokenizers", cause=cause, hint=hint)


def extend_vocabulary(pretrained: PretrainedModel, tokenizer: Tokenizer, dropout: float, seed: int) -> Transformer:
    """A copy of a model for a tokenizer that extends its own; the embeddings of new ids are initialized at random."""
    vocab_size = max(pretrained.model.config.vocab_size, tokenizer.max_id + 1)
    config = pretrained.model.config.model_copy(update={"vocab_size": vocab_size, "dropout": dropout})
    model = init_model(config, seed)
    weights = model.state_dict()
    with torch.no_grad():
        for name, weight in pretrained.model.state_dict().items():
            weights[name][: len(weight)] = weight
    model.load_state_dict(weights)
    return model


def weights_hash(folder: Path) -> str:
    """The SHA-256 of a model's weights, in one file or several; optimizer states do not count."""
    digests = [sha256_of(file) for file in sorted(folder.glob("*.safetensors")) if file.name != "optim.safetensors"]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def missing_model_error(command: str = "generate") -> BertGPTError:
    """The error of a missing --model; its hint lists the runs in `runs/`."""
    commands = [f"bertgpt {command} --model {run}" for run in list_runs()]
    hint = "; or ".join(commands) if commands else "bertgpt pretrain trains one"
    return BertGPTError("BG203", "--model is missing", hint=hint)
