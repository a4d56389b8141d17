"""The transformer: GPT-2 and BERT as one class, and both in their modern form.

    ids -> embeddings -> N blocks of (attention, feed-forward) -> hidden states -> logits, where they are asked for

Which way it looks is an argument of `forward`: the same weights can be trained and scored as a BERT, which sees both
sides of a gap, as a GPT, which sees what came before, or as both. What tells the papers apart are the switches of
`ModelConfig`: where norms stand, how positions enter, which activation, whether there are biases.

Shapes: B rows, T positions, D width, H heads, V vocabulary, K scored positions of a row, P pieces of a row.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from bertgpt.config.presets import ModelConfig
from bertgpt.ops.kernels import attention, block_mask, linear, prepack

VOCAB_MULTIPLE = 64  # rows of the embedding in memory: what tensor cores like; those beyond V are zero and stay inside
GLOBAL_THETA, LOCAL_THETA = 160_000.0, 10_000.0  # the slowest turn of rotary positions: ModernBERT's


# ------------------------------------------------------------------------------------------- who sees whom


@dataclass
class AttentionContext:
    """Whom each position sees in the two kinds of layers. Built once for a batch and shared by all layers.

    causal       both ways     two documents    window of 1
    x . . .      x x x x       x x . .          x x . .
    x x . .      x x x x       x x . .          x x x .
    x x x .      x x x x       . . x x          . x x x
    x x x x      x x x x       . . x x          . . x x
    """

    causal: bool
    masks: tuple[Any, Any]  # global and local, (1 or B, 1, T, keys) or what flex wants; None: see `causal`
    rope: tuple[Tensor, Tensor] | None  # the rotations of positions in global and local layers, (1 or B, 1, T, D / H)


class KVCache:
    """Keys and values of positions that were seen before, in room for `size` of them."""

    def __init__(self, config: ModelConfig, rows: int, size: int, like: Tensor) -> None:
        shape = (2, config.layers, rows, config.heads, size, config.dim // config.heads)
        dtype = torch.float32 if like.device.type == "cpu" else like.dtype  # it is faster there, and no less exact
        self.kv = torch.zeros(shape, dtype=dtype, device=like.device)
        self.document_ids = torch.zeros((rows, size), dtype=torch.long, device=like.device)
        self.capacity, self.length = size, 0  # room, and how much of it is used

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, with those of the positions that are being computed."""
        stop = self.length + k.size(2)
        self.kv[0, layer, :, :, self.length : stop], self.kv[1, layer, :, :, self.length : stop] = k, v
        return self.kv[0, layer, :, :, :stop], self.kv[1, layer, :, :, :stop]

    def select_rows(self, row_index: Tensor) -> None:
        """Forget all rows but these."""
        self.kv, self.document_ids = self.kv[:, :, row_index], self.document_ids[row_index]


def attention_context(config: ModelConfig, input_ids: Tensor, causal: bool, document_ids: Tensor | None, position_ids: Tensor,
          cache: KVCache | None, kernel: str) -> AttentionContext:  # fmt: skip
    """Build it. Rows of one document without padding need no mask where all layers see everything."""
    turns = None
    if config.positions == "rope":
        turns = (rope_cos_sin(config, position_ids, GLOBAL_THETA), rope_cos_sin(config, position_ids, LOCAL_THETA))
    if kernel == "flex" and cache is None:
        blocks = [
            block_mask(causal, document_ids, window, input_ids.size(1), input_ids.device)
            for window in (0, config.local_window)
        ]
        return AttentionContext(causal, (blocks[0], blocks[1]), turns)
    start, new = cache.length if cache else 0, input_ids.size(1)
    key = torch.arange(start + new, device=input_ids.device)
    far = key[start:, None] - key[None, :]  # (T, keys): how far back a key is
    seen = torch.ones_like(far, dtype=torch.bool)
    if causal:
        seen = far >= 0
    if document_ids is not None:
        others = document_ids
        if cache is not None:
            cache.document_ids[:, start : start + new] = document_ids
            others = cache.document_ids[:, : start + new]
        seen = seen & (document_ids[:, None, :, None] == others[:, None, None, :])  # (B, 1, T, keys)
    plain = document_ids is None and (start == 0 or new == 1)
    local = (
        seen & (far.abs() <= config.local_window)
        if config.local_window and start + new > config.local_window + 1
        else seen
    )
    unmasked = plain and local is seen
    return AttentionContext(causal and new > 1, (None if plain else seen, None if unmasked else local), turns)


def rope_cos_sin(config: ModelConfig, positions: Tensor, theta: float) -> Tensor:
    """Cosines and sines of the angles by which pairs of a head's features are turned (Su et al., 2021)."""
    size = config.dim // config.heads
    speeds = theta ** -(torch.arange(0, size, 2, device=positions.device) / size)
    angles = positions[..., None].float() * speeds  # (1 or B, T, size / 2)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(-3)
    return torch.stack((angles.cos(), angles.sin()))


def apply_rotary_emb(x: Tensor, turns: Tensor) -> Tensor:
    """Features i and i + size / 2 of each head as a point in the plane, turned."""
    first, second = x.chunk(2, dim=-1)
    return (x * turns[0] + torch.cat((-second, first), dim=-1) * turns[1]).to(x.dtype)


# ---------------------------------------------------------------------------------------------- the blocks


class Block(nn.Module):
    """Attention, then a feed-forward part, each added to what came in.

    GPT-2, modern:  x + f(norm(x))        BERT:  norm(x + f(x))
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer, self.is_local = config, layer, config.is_local(layer)
        normed = config.embed_norm and not config.post_norm and layer == 0  # embeddings come normed to the first block
        self.attention_norm = nn.Identity() if normed else make_norm(config)
        self.qkv_proj = make_linear(config, config.dim, 3 * config.dim)
        self.out_proj = make_linear(config, config.dim, config.dim)
        self.mlp_norm = make_norm(config)
        self.up_proj = make_linear(config, config.dim, config.ffn_dim * (2 if config.activation == "geglu" else 1))
        self.down_proj = make_linear(config, config.ffn_dim, config.dim)

    def forward(self, x: Tensor, context: AttentionContext, cache: KVCache | None) -> Tensor:
        if self.config.post_norm:
            x = self.attention_norm(x + self.attention(x, context, cache))
            x = self.mlp_norm(x + self.mlp(x))
        else:
            x = x + self.attention(self.attention_norm(x), context, cache)
            x = x + self.mlp(self.mlp_norm(x))
        return x

    def attention(self, x: Tensor, context: AttentionContext, cache: KVCache | None) -> Tensor:
        """Every position asks (q) all that it sees (k), and takes from those that answer (v)."""
        rows, length, _ = x.shape
        q, k, v = (
            self.qkv_proj(x).view(rows, length, 3, self.config.heads, -1).permute(2, 0, 3, 1, 4)
        )  # each (B, H, T, D / H)
        if context.rope is not None:
            turns = context.rope[self.is_local]
            q, k = apply_rotary_emb(q, turns), apply_rotary_emb(k, turns)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        mask = context.masks[self.is_local]
        rate = self.config.dropout if self.training else 0.0
        y = attention(q, k, v, mask, context.causal, rate)
        return dropout(self, self.out_proj(y.transpose(1, 2).flatten(2)))

    def mlp(self, x: Tensor) -> Tensor:
        """What a position makes of what it has."""
        if self.config.activation == "geglu":
            value, gate = self.up_proj(x).chunk(2, dim=-1)
            return dropout(self, self.down_proj(F.gelu(value) * gate))
        tanh = "tanh" if self.config.activation == "gelu_tanh" else "none"
        return dropout(self, self.down_proj(F.gelu(self.up_proj(x), approximate=tanh)))


def make_norm(config: ModelConfig) -> nn.LayerNorm:
    """The one norm of all of them."""
    return nn.LayerNorm(config.dim, eps=config.norm_eps, bias=config.bias)


class Linear(nn.Linear):
    """A projection, of whatever was in memory: `initial` or a file of weights says what it begins with."""

    prepacked: Tensor | None = None

    def reset_parameters(self) -> None:
        """Not torch's way, in vain and slowly."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.prepacked)


def make_linear(config: ModelConfig, inside: int, outside: int) -> Linear:
    """A projection of the blocks and heads."""
    return Linear(inside, outside, bias=config.bias)


def dropout(module: nn.Module, x: Tensor) -> Tensor:
    """Dropout where residuals, and embeddings, are added."""
    return F.dropout(x, module.config.dropout, module.training)  # type: ignore[arg-type, union-attr]


class Transformer(nn.Module):
    """All weights of a model, its heads among them."""

    kernel = "sdpa"  # or flex, on CUDA

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = PaddedEmbedding(config.vocab_size, config.dim)
        if config.positions == "learned":
            self.position_embedding = UninitializedEmbedding(config.max_seq_len, config.dim)
        if config.token_types:
            self.token_type_embedding = UninitializedEmbedding(config.token_types, config.dim)
        if config.embed_norm:
            self.embed_norm = make_norm(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        if not config.post_norm:
            self.final_norm = make_norm(config)
        if config.mlm_transform:
            self.mlm_dense, self.mlm_norm = make_linear(config, config.dim, config.dim), make_norm(config)
        if config.lm_bias:
            self.lm_bias = nn.Parameter(torch.empty(config.vocab_size))
        if config.token_types:
            self.pooler, self.nsp_head = Linear(config.dim, config.dim), Linear(config.dim, 2)

    def forward(
        self,
        input_ids: Tensor,  # (B, T)
        *,
        causal: bool,
        document_ids: Tensor | None = None,  # (B, T): positions see their own document only; padding is one of its own
        position_ids: Tensor | None = None,  # (B, T): counted from the row's beginning, if they are not given
        token_type_ids: Tensor | None = None,  # (B, T): BERT's sentences A and B
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
    ) -> Tensor | list[Tensor]:
        """Hidden states, (B, T, D): of the last layer, or of all with the embeddings first."""
        start, new = cache.length if cache else 0, input_ids.size(1)
        self.config.check_length(start + new)
        if position_ids is None:
            position_ids = torch.arange(start, start + new, device=input_ids.device)[None]
        x = self.token_embedding(input_ids)
        if self.config.token_types:
            x = x + self.token_type_embedding(torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids)
        if self.config.positions == "learned":
            x = x + self.position_embedding(position_ids)
        if self.config.embed_norm:
            x = self.embed_norm(x)
        x = dropout(self, x)
        seen = attention_context(self.config, input_ids, causal, document_ids, position_ids, cache, self.kernel)
        states = [x]
        for block in self.blocks:
            x = block(x, seen, cache)
            states.append(x)
        if cache is not None:
            cache.length += new
        if not self.config.post_norm:
            states[-1] = x = self.final_norm(x)
        return states if output_hidden_states else x

    def lm_transform(self, hidden: Tensor) -> Tensor:
        """Hidden states of any shape (..., D) as the projection to the vocabulary wants them."""
        return self.mlm_norm(F.gelu(self.mlm_dense(hidden))) if self.config.mlm_transform else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., V): the same matrix that reads ids writes them (Press and Wolf, 2017)."""
        logits = linear(self.lm_transform(hidden), self.token_embedding.weight, None, self.token_embedding.prepacked)
        logits = logits[..., : self.config.vocab_size]
        return logits + self.lm_bias if self.config.lm_bias else logits

    def pool(self, first: Tensor) -> Tensor:
        """BERT's summary of a piece, from the hidden state of its [CLS]."""
        return torch.tanh(self.pooler(first))

    def nsp_logits(self, first: Tensor) -> Tensor:
        """Two logits for each [CLS]: B comes next, or not."""
        logits: Tensor = self.nsp_head(self.pool(first))
        return logits

    def prepack_weights(self) -> None:
        """Get ready to be asked often: from here on, what changes the weights is not seen."""
        for module in self.modules():
            if isinstance(module, Linear | PaddedEmbedding):
                module.prepacked = prepack(module.weight)

    def num_parameters(self) -> int:
        """All weights; the rows that only fill up the embedding do not count."""
        filling = (self.token_embedding.num_embeddings - self.config.vocab_size) * self.config.dim
        return sum(weight.numel() for weight in self.parameters()) - filling

    def flops_per_token(self, length: int, scored: float = 1.0) -> float:
        """Of a training step: 6 for each weight that a token meets in a product, 12 for each feature it looks at.

        Only the `scored` share of tokens meets the vocabulary.
        """
        c = self.config
        blocks = sum(weight.numel() for weight in self.blocks.parameters() if weight.ndim == 2)
        head = c.dim * (c.vocab_size + (c.dim if c.mlm_transform else 0))
        seen = [min(length, 2 * c.local_window + 1) if c.is_local(layer) else length for layer in range(c.layers)]
        return 6.0 * (blocks + scored * head) + 12.0 * c.dim * sum(seen)

    def estimate_training_memory(self, rows: int, length: int, width: int = 4) -> int:
        """What a step holds, about: weights, gradients and two moments, and what the way back needs of each block."""
        c = self.config
        inner = c.ffn_dim * (3 if c.activation == "geglu" else 2)
        return 16 * self.num_parameters() + rows * length * c.layers * (8 * c.dim + inner) * width


class SequenceClassifier(nn.Module):
    """Labels for texts: from [CLS] of a model that looks both ways, from the last id of one that looks back.

    Between is what the model has there: BERT's pooler, ModernBERT's transform, nothing in GPT-2. Several texts may
    stand in a row, each a document of its own.
    """

    def __init__(self, transformer: Transformer, num_labels: int, causal: bool) -> None:
        super().__init__()
        self.transformer, self.config, self.causal = transformer, transformer.config, causal
        # those of transformers have a bias, but for decoders
        self.classifier = Linear(self.config.dim, num_labels, bias=not causal)

    def forward(
        self,
        input_ids: Tensor,  # (B, T)
        *,
        document_ids: Tensor | None = None,  # (B, T): the text of each position, as the transformer takes them
        position_ids: Tensor | None = None,  # (B, T)
        token_type_ids: Tensor | None = None,  # (B, T)
        row_index: Tensor,  # (N,): where each text is read out: its row,
        pool_index: Tensor,  # (N,): and its [CLS], or its last id
    ) -> Tensor:
        """Logits, (N, labels)."""
        model = self.transformer
        hidden = model(
            input_ids,
            causal=self.causal,
            document_ids=document_ids,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
        )
        summary = hidden[row_index, pool_index]  # (N, D)
        summary = model.pool(summary) if self.config.token_types else model.lm_transform(summary)
        logits: Tensor = self.classifier(dropout(self, summary))
        return logits

    def unused_head_parameters(self) -> list[nn.Parameter]:
        """Weights that only other heads use."""
        model = self.transformer
        heads: list[nn.Parameter] = [model.lm_bias] if self.config.lm_bias else []
        if self.config.token_types:
            others = [model.nsp_head] + ([model.mlm_dense, model.mlm_norm] if self.config.mlm_transform else [])
            heads += [weight for module in others for weight in module.parameters()]
        return heads


class UninitializedEmbedding(nn.Embedding):
    """A row for each number, of whatever was in memory, as above."""

    def reset_parameters(self) -> None:
        """Not torch's way either."""


class PaddedEmbedding(UninitializedEmbedding):
    """An embedding with a multiple of 64 rows in memory, and V rows for everybody else."""

    prepacked: Tensor | None = None

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__(-(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE, dim)
        self.vocab_size = vocab_size

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"][: self.vocab_size]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        given = state_dict.get(f"{prefix}weight")
        if given is not None and len(given) == self.vocab_size:
            filled = F.pad(given, (0, 0, 0, self.num_embeddings - self.vocab_size))
            state_dict = {**state_dict, f"{prefix}weight": filled}
        super()._load_from_state_dict(state_dict, prefix, *rest)
