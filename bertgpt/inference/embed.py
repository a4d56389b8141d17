"""What a model makes of texts, as numbers: a vector for each."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertgpt.data.tokenizers.detokenize import encode_checked
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.batching import batches_by_length, pad, padding_document_ids
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError, short_repr

Pooling = Literal["mean", "pooled", "first", "last"]


def embed(kept: PretrainedModel, texts: Sequence[str], pooling: Pooling = "mean") -> NDArray[np.float32]:
    """A vector for each text, (texts, D): the mean of its own ids, or the state of the first or last one of its row, or
    what BERT's pooler makes of the first.

    A model that looks both ways sees a text framed, one that looks back sees it behind an end; texts that are longer
    than its rows are cut, and counted in a note.
    """
    if pooling not in get_args(Pooling):
        raise BertGPTError(
            "BG204", f"there is no pooling {short_repr(pooling)}", hint=f"{', '.join(get_args(Pooling))}"
        )
    has_pooler = kept.model.config.token_types and kept.objective == "mlm" and bool(kept.model.pooler.weight.any())
    if pooling == "pooled" and not has_pooler:
        hint = "mean, or last for a model that looks back"
        raise BertGPTError("BG222", "this model has no pooler: it was not trained with one", hint=hint)
    found = np.zeros((len(texts), kept.model.config.dim), np.float32)
    for numbers, hidden, lengths in hidden_states(kept, texts):
        found[numbers] = pool(kept, hidden, lengths, pooling).float().cpu().numpy()
    return found


def embed_all_layers(kept: PretrainedModel, texts: Sequence[str]) -> NDArray[np.float32]:
    """The mean of each text's own ids after every layer, (L + 1, texts, D): the embeddings first."""
    found = np.zeros((kept.model.config.layers + 1, len(texts), kept.model.config.dim), np.float32)
    for numbers, states, lengths in hidden_states(kept, texts, every_layer=True):
        for layer, hidden in enumerate(states):
            found[layer, numbers] = pool(kept, hidden, lengths, "mean").float().cpu().numpy()
    return found


def hidden_states(
    kept: PretrainedModel, texts: Sequence[str], every_layer: bool = False
) -> Iterator[tuple[list[int], Any, Tensor]]:
    """Batches of texts of like length: their numbers, hidden states (B, T, D), and lengths (B,) in their frames."""
    causal = kept.objective == "clm"
    frame = 1 if causal else 2
    longest = kept.max_length - frame
    ids = [encode_checked(kept.tokenizer, text) for text in texts]
    cut = sum(len(row) > longest for row in ids)
    if cut:
        console.note(f"{cut:,} of {len(texts):,} texts are longer than {longest:,} tokens, and are cut")
    rows = [(kept.prepend_end if causal else kept.add_cls_sep)(row[:longest]) for row in ids]
    model = kept.model.eval()
    progress = console.Progress("reading texts", sum(map(len, rows)), of_bytes=False)
    done = 0
    for numbers in batches_by_length(list(map(len, rows))):
        with torch.inference_mode():
            inside, lengths = pad([rows[number] for number in numbers], model.token_embedding.weight.device)
            fill = None if causal else padding_document_ids(inside, lengths)
            hidden = model(inside, causal=causal, document_ids=fill, output_hidden_states=every_layer)
        yield numbers, hidden, lengths
        done += int(lengths.sum())
        progress.update(done)
    progress.end()


@torch.inference_mode()
def pool(kept: PretrainedModel, hidden: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """One vector for each row, (B, D)."""
    rows, causal = torch.arange(len(hidden), device=hidden.device), kept.objective == "clm"
    if pooling == "pooled":
        return kept.model.pool(hidden[:, 0])
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[rows, lengths - 1]
    place = torch.arange(hidden.size(1), device=hidden.device)
    own = (place > 0) & (place < (lengths - int(not causal))[:, None])  # (B, T): neither the frame nor what fills up
    return (hidden * own[..., None]).sum(dim=1) / own.sum(dim=1, keepdim=True).clamp(min=1)
