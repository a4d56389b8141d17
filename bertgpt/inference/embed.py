"""Text embeddings: one vector per text, pooled from the hidden states."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertgpt.data.tokenizers.detokenize import encode_checked
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.batching import batches_by_length, pad, padding_document_ids
from bertgpt.inference.scoring import check_nan
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError, short_repr

Pooling = Literal["mean", "pooled", "first", "last"]


def embed(pretrained: PretrainedModel, texts: Sequence[str], pooling: Pooling = "mean") -> NDArray[np.float32]:
    """Embed texts as (texts, D), from the hidden states of the last layer.

    `pooling` is "mean" over the text's own tokens, the "first" or "last" token of its row, or "pooled", the output of
    BERT's pooler. A bidirectional model reads `[CLS] text [SEP]`, a causal one `<|end|> text`. Texts longer than the
    context are truncated, with a note. Raises BertGPTError for an unknown pooling, or for "pooled" without a pooler.
    """
    if pooling not in get_args(Pooling):
        raise BertGPTError("BG204", f"no such pooling: {short_repr(pooling)}", hint=", ".join(get_args(Pooling)))
    model = pretrained.model
    has_pooler = model.config.token_types and pretrained.objective == "mlm" and bool(model.pooler.weight.any())
    if pooling == "pooled" and not has_pooler:
        hint = "use mean, or last for a causal model"
        raise BertGPTError("BG222", "this model has no pooler: it was not trained with one", hint=hint)
    vectors = np.zeros((len(texts), model.config.dim), np.float32)
    for indices, hidden, lengths in hidden_states(pretrained, texts):
        vectors[indices] = pool(pretrained, hidden, lengths, pooling).float().cpu().numpy()
    return vectors


def embed_all_layers(pretrained: PretrainedModel, texts: Sequence[str]) -> NDArray[np.float32]:
    """Mean-pooled embeddings after every layer, (L + 1, texts, D); the token embeddings come first."""
    config = pretrained.model.config
    vectors = np.zeros((config.layers + 1, len(texts), config.dim), np.float32)
    for indices, states, lengths in hidden_states(pretrained, texts, all_layers=True):
        for layer, hidden in enumerate(states):
            vectors[layer, indices] = pool(pretrained, hidden, lengths, "mean").float().cpu().numpy()
    return vectors


def hidden_states(
    pretrained: PretrainedModel, texts: Sequence[str], all_layers: bool = False
) -> Iterator[tuple[list[int], Any, Tensor]]:
    """Yield batches of similar length: indices of texts, hidden states (B, T, D), and lengths with specials (B,)."""
    model, causal = pretrained.model.eval(), pretrained.objective == "clm"
    longest = pretrained.max_length - (1 if causal else 2)
    encoded = [encode_checked(pretrained.tokenizer, text) for text in texts]
    if num_truncated := sum(len(ids) > longest for ids in encoded):
        console.info(f"{num_truncated:,} of {len(texts):,} texts truncated to {longest:,} tokens")
    rows = [(pretrained.prepend_eos if causal else pretrained.add_cls_sep)(ids[:longest]) for ids in encoded]
    for indices in batches_by_length(list(map(len, rows)), "encoding"):
        with torch.inference_mode():
            input_ids, lengths = pad([rows[index] for index in indices], model.device)
            document_ids = None if causal else padding_document_ids(input_ids, lengths)
            hidden = model(input_ids, causal=causal, document_ids=document_ids, output_hidden_states=all_layers)
        check_nan(hidden[-1] if all_layers else hidden)
        yield indices, hidden, lengths


@torch.inference_mode()
def pool(pretrained: PretrainedModel, hidden: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """Pool hidden states (B, T, D) to one vector per row, (B, D)."""
    causal = pretrained.objective == "clm"
    if pooling == "pooled":
        return pretrained.model.pool(hidden[:, 0])
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    position = torch.arange(hidden.size(1), device=hidden.device)
    num_end_tokens = int(not causal)  # [SEP]
    is_text = (position > 0) & (position < (lengths - num_end_tokens)[:, None])  # (B, T): no specials, no padding
    return (hidden * is_text[..., None]).sum(dim=1) / is_text.sum(dim=1, keepdim=True).clamp(min=1)
