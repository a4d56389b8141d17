"""The transformer: BERT, GPT-2 and ModernBERT as one model.

    input_ids -> embeddings -> blocks of (attention, MLP) -> hidden states -> logits

Causal or bidirectional attention is an argument of `forward`, not a property of the model: the same parameters can be
trained and evaluated as an encoder (BERT), as a decoder (GPT), or as both. The architectures differ in the switches of
`ModelConfig` (config/presets.py): pre-norm or post-norm, learned positions or RoPE, GELU or GEGLU, biases or none,
global attention in all layers or local attention in most.

Shapes: B rows, T positions, S keys (cached positions and T), D hidden size, H heads, V vocabulary, N texts.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from bertgpt.config.presets import ModelConfig
from bertgpt.ops.kernels import block_mask, linear, prepack, scaled_dot_product_attention

VOCAB_MULTIPLE = 64  # rows of the token embedding in memory: what tensor cores need; those beyond V are zero
# RoPE rotates by angles from `position` to `position / theta`: a larger theta tells positions apart over longer
# distances. ModernBERT's values, for global layers and for local ones, which attend only to near positions.
GLOBAL_THETA, LOCAL_THETA = 160_000.0, 10_000.0

# ---------------------------------------------------------------------------------------------------- basic layers


def make_norm(config: ModelConfig) -> nn.LayerNorm:
    """LayerNorm, with or without a bias."""
    return nn.LayerNorm(config.dim, eps=config.norm_eps, bias=config.bias)


class Linear(nn.Linear):
    """Linear layer, computed by the fastest kernel of the device. Its weight may be prepacked for inference."""

    prepacked: Tensor | None = None

    def reset_parameters(self) -> None:
        """Skip PyTorch's default init; weights are always overwritten, by training/init.py or a checkpoint."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.prepacked)


class UninitializedEmbedding(nn.Embedding):
    """Embedding without PyTorch's default init."""

    def reset_parameters(self) -> None:
        """Skip it, as in `Linear`."""


class PaddedEmbedding(UninitializedEmbedding):
    """Token embedding, padded to a multiple of 64 rows in memory; the state dict has only the V rows in use."""

    prepacked: Tensor | None = None

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__(-(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE, dim)
        self.vocab_size = vocab_size

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"][: self.vocab_size]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and len(weight) == self.vocab_size:
            padded = F.pad(weight, (0, 0, 0, self.num_embeddings - self.vocab_size))
            state_dict = {**state_dict, f"{prefix}weight": padded}
        super()._load_from_state_dict(state_dict, prefix, *args)


# ------------------------------------------------------------------------------- attention masks, RoPE, KV cache


class KVCache:
    """Keys and values of past positions, for incremental decoding."""

    def __init__(self, config: ModelConfig, batch_size: int, capacity: int, like: Tensor) -> None:
        shape = (2, config.layers, batch_size, config.heads, capacity, config.dim // config.heads)
        dtype = torch.float32 if like.device.type == "cpu" else like.dtype  # on CPUs fp32 is faster, and no less exact
        self.kv = torch.zeros(shape, dtype=dtype, device=like.device)
        self.document_ids = torch.zeros((batch_size, capacity), dtype=torch.long, device=like.device)
        self.has_document_ids = False  # or no mask was needed so far
        self.capacity, self.length = capacity, 0  # positions there is room for, and how many of them are used

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, D / H) of a layer; returns those of all positions, (B, H, S, D / H)."""
        end = self.length + k.size(2)
        self.kv[0, layer, :, :, self.length : end], self.kv[1, layer, :, :, self.length : end] = k, v
        return self.kv[0, layer, :, :, :end], self.kv[1, layer, :, :, :end]

    def update_document_ids(self, document_ids: Tensor) -> Tensor:
        """Append document ids (B, T); returns those of all positions, (B, S)."""
        end = self.length + document_ids.size(1)
        self.document_ids[:, self.length : end], self.has_document_ids = document_ids, True
        return self.document_ids[:, :end]

    def select_rows(self, row_index: Tensor) -> None:
        """Keep only these rows of the batch, in this order."""
        self.kv, self.document_ids = self.kv[:, :, row_index], self.document_ids[row_index]


@dataclass
class AttentionContext:
    """Attention masks and RoPE of a batch, for global and for local layers. Built once and shared by all layers.

    Rows are queries, columns are keys, x: attends. Masks combine: document masks and windows with either direction.

    causal       bidirectional   two documents   local, window 1
    x . . .      x x x x         x x . .         x x . .
    x x . .      x x x x         x x . .         x x x .
    x x x .      x x x x         . . x x         . x x x
    x x x x      x x x x         . . x x         . . x x
    """

    causal: bool  # the direction where the mask is None
    masks: tuple[Any, Any]  # by Block.is_local: None, boolean (T, S) or (B, 1, T, S), or FlexAttention's block mask
    rope: tuple[Tensor, Tensor] | None  # by Block.is_local: cosines and sines, (2, 1 or B, 1, T, D / H)


def attention_context(
    config: ModelConfig,
    position_ids: Tensor,  # (1 or B, T)
    causal: bool,
    document_ids: Tensor | None,  # (B, T)
    cache: KVCache | None,
    kernel: str,
) -> AttentionContext:
    """Build the attention masks and RoPE of a batch."""
    rope = None
    if config.positions == "rope":
        rope = (rope_cos_sin(config, position_ids, GLOBAL_THETA), rope_cos_sin(config, position_ids, LOCAL_THETA))
    length, device = position_ids.size(1), position_ids.device
    if kernel == "flex" and cache is None:
        windows = (0, config.local_window)  # 0: unlimited
        masks = [block_mask(causal, document_ids, window, length, device) for window in windows]
        return AttentionContext(causal, (masks[0], masks[1]), rope)
    past = cache.length if cache else 0
    if cache and past:
        assert cache.has_document_ids == (document_ids is not None), "document_ids: in every call with a cache, or none"
    index = torch.arange(past + length, device=device)
    distance = index[past:, None] - index  # (T, S): from query back to key
    mask = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if document_ids is not None:
        key_document_ids = cache.update_document_ids(document_ids) if cache else document_ids
        mask = mask & (document_ids[:, None, :, None] == key_document_ids[:, None, None, :])  # (B, 1, T, S)
    # SDPA is fastest without a mask, so rows of a single document get none: its `is_causal` flag is enough, unless
    # several queries follow cached keys.
    needs_mask = document_ids is not None or (past > 0 and length > 1)
    is_windowed = 0 < config.local_window < past + length - 1  # some keys are farther away than `local_window`
    local_mask = mask & (distance.abs() <= config.local_window) if is_windowed else mask  # so far to each side
    needed = (mask if needs_mask else None, local_mask if needs_mask or is_windowed else None)
    # A single query is the last position and attends to all keys; SDPA's `is_causal` would show it only the first one.
    return AttentionContext(causal and length > 1, needed, rope)


def rope_cos_sin(config: ModelConfig, position_ids: Tensor, theta: float) -> Tensor:
    """Cosines and sines of rotary position embeddings (RoPE; Su et al., 2021), (2, 1 or B, 1, T, D / H)."""
    head_dim = config.dim // config.heads
    frequencies = theta ** -(torch.arange(0, head_dim, 2, device=position_ids.device) / head_dim)
    angles = position_ids[..., None].float() * frequencies  # (1 or B, T, D / H / 2)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(-3)  # (1 or B, 1, T, D / H)
    return torch.stack((angles.cos(), angles.sin()))


def apply_rotary_emb(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate queries or keys (B, H, T, D / H): features i and i + D / H / 2 of a head are a point in the plane."""
    x1, x2 = x.chunk(2, dim=-1)
    return (x * cos_sin[0] + torch.cat((-x2, x1), dim=-1) * cos_sin[1]).to(x.dtype)


# --------------------------------------------------------------------------------------------------------- the model


class Block(nn.Module):
    """Transformer block: self-attention, then an MLP, each with a residual connection.

    pre-norm (GPT-2, ModernBERT): x + f(norm(x))        post-norm (BERT): norm(x + f(x))
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer, self.is_local = config, layer, config.is_local(layer)
        is_normed = config.embed_norm and not config.post_norm and layer == 0  # ModernBERT norms its embeddings
        self.attention_norm = nn.Identity() if is_normed else make_norm(config)
        self.qkv_proj = Linear(config.dim, 3 * config.dim, config.bias)
        self.out_proj = Linear(config.dim, config.dim, config.bias)
        self.mlp_norm = make_norm(config)
        self.up_proj = Linear(config.dim, config.ffn_dim * (2 if config.activation == "geglu" else 1), config.bias)
        self.down_proj = Linear(config.ffn_dim, config.dim, config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def attention(self, x: Tensor, context: AttentionContext, cache: KVCache | None) -> Tensor:
        """Multi-head self-attention with optional RoPE, masking and KV cache, (B, T, D) to (B, T, D)."""
        qkv = self.qkv_proj(x)  # (B, T, 3 * D)
        q, k, v = qkv.unflatten(2, (3, self.config.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, T, D / H)
        if context.rope is not None:
            cos_sin = context.rope[self.is_local]
            q, k = apply_rotary_emb(q, cos_sin), apply_rotary_emb(k, cos_sin)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # each (B, H, S, D / H)
        mask, dropout = context.masks[self.is_local], self.config.dropout if self.training else 0.0
        y = scaled_dot_product_attention(q, k, v, mask, context.causal, dropout)  # (B, H, T, D / H)
        out: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))  # (B, T, D)
        return out

    def mlp(self, x: Tensor) -> Tensor:
        """Feed-forward network (GELU or GEGLU), (B, T, D) to (B, T, D)."""
        x = self.up_proj(x)  # (B, T, ffn_dim), or twice as wide for GEGLU
        if self.config.activation == "geglu":
            gate, value = x.chunk(2, dim=-1)  # each (B, T, ffn_dim)
            x = F.gelu(gate) * value
        else:
            x = F.gelu(x, approximate="tanh" if self.config.activation == "gelu_tanh" else "none")
        out: Tensor = self.down_proj(x)  # (B, T, D)
        return out

    def forward(self, x: Tensor, context: AttentionContext, cache: KVCache | None) -> Tensor:
        if self.config.post_norm:
            x = self.attention_norm(x + self.dropout(self.attention(x, context, cache)))
            x = self.mlp_norm(x + self.dropout(self.mlp(x)))
        else:
            x = x + self.dropout(self.attention(self.attention_norm(x), context, cache))
            x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return x


class Transformer(nn.Module):
    """Transformer with its pretraining heads: `forward` computes hidden states, `logits` and `nsp_logits` the rest."""

    kernel = "sdpa"  # or "flex" (FlexAttention), on CUDA

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = PaddedEmbedding(config.vocab_size, config.dim)  # also the output projection
        if config.positions == "learned":
            self.position_embedding = UninitializedEmbedding(config.max_seq_len, config.dim)
        if config.token_types:
            self.token_type_embedding = UninitializedEmbedding(config.token_types, config.dim)
        if config.embed_norm:
            self.embed_norm = make_norm(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        if not config.post_norm:
            self.final_norm = make_norm(config)
        if config.mlm_transform:
            self.mlm_dense, self.mlm_norm = Linear(config.dim, config.dim, config.bias), make_norm(config)
        if config.lm_bias:
            self.lm_bias = nn.Parameter(torch.empty(config.vocab_size))
        if config.token_types:
            self.pooler, self.nsp_head = Linear(config.dim, config.dim), Linear(config.dim, 2)

    def forward(
        self,
        input_ids: Tensor,  # (B, T)
        *,
        causal: bool,
        # (B, T): attention stays within a document; padding is one of its own. With a cache: in every call or in none.
        document_ids: Tensor | None = None,
        position_ids: Tensor | None = None,  # (B, T): default: 0, 1, 2... from the start of the row
        token_type_ids: Tensor | None = None,  # (B, T): BERT's sentences A and B, 0 and 1; default: all 0
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
    ) -> Tensor | list[Tensor]:
        """Hidden states (B, T, D) of the last layer, after the final norm if there is one.

        With `output_hidden_states` a list: of the embeddings and of each layer, the last one as above.
        """
        past, length = cache.length if cache else 0, input_ids.size(1)
        self.config.check_length(past + length)
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=input_ids.device)[None]  # (1, T)
        x = self.token_embedding(input_ids)  # (B, T, D)
        if self.config.token_types:
            x = x + self.token_type_embedding(torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids)
        if self.config.positions == "learned":
            x = x + self.position_embedding(position_ids)
        if self.config.embed_norm:
            x = self.embed_norm(x)
        x = self.dropout(x)
        context = attention_context(self.config, position_ids, causal, document_ids, cache, self.kernel)
        hidden_states = []
        for block in self.blocks:
            if output_hidden_states:
                hidden_states.append(x)
            x = block(x, context, cache)
        if cache is not None:
            cache.length += length
        if not self.config.post_norm:
            x = self.final_norm(x)
        return [*hidden_states, x] if output_hidden_states else x

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.token_embedding.weight.device

    def lm_transform(self, hidden: Tensor) -> Tensor:
        """The layer before the output projection, (..., D) to (..., D): BERT's MLM transform, identity in GPT-2."""
        return self.mlm_norm(F.gelu(self.mlm_dense(hidden))) if self.config.mlm_transform else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary, (..., D) to (..., V), with tied embeddings (Press and Wolf, 2017)."""
        embedding = self.token_embedding
        logits = linear(self.lm_transform(hidden), embedding.weight, None, embedding.prepacked)
        logits = logits[..., : self.config.vocab_size]
        return logits + self.lm_bias if self.config.lm_bias else logits

    def pool(self, cls: Tensor) -> Tensor:
        """BERT's pooler: a summary of a segment from the hidden state of its [CLS], (..., D) to (..., D)."""
        return torch.tanh(self.pooler(cls))

    def nsp_logits(self, cls: Tensor) -> Tensor:
        """Next-sentence prediction from the hidden state of [CLS], (..., D) to (..., 2): next, not next."""
        logits: Tensor = self.nsp_head(self.pool(cls))
        return logits

    def prepack_weights(self) -> None:
        """Prepack weights for inference; later weight updates are ignored."""
        for module in self.modules():
            if isinstance(module, Linear | PaddedEmbedding):
                module.prepacked = prepack(module.weight)

    def num_parameters(self) -> int:
        """Number of parameters, without the padding of the token embedding."""
        padding = (self.token_embedding.num_embeddings - self.config.vocab_size) * self.config.dim
        return sum(parameter.numel() for parameter in self.parameters()) - padding

    def flops_per_token(self, seq_len: int, target_fraction: float = 1.0) -> float:
        """Training FLOPs per token, as in the PaLM paper (appendix B): forward and backward, without recomputation.

        6 for each matrix parameter that a token is multiplied with, and 12 * D for each key it attends to. Only the
        `target_fraction` of tokens that have a target meets the output projection.
        """
        c = self.config
        matrices = sum(parameter.numel() for parameter in self.blocks.parameters() if parameter.ndim == 2)
        head = c.dim * (c.vocab_size + (c.dim if c.mlm_transform else 0))
        keys = [min(seq_len, 2 * c.local_window + 1) if c.is_local(layer) else seq_len for layer in range(c.layers)]
        return 6.0 * (matrices + target_fraction * head) + 12.0 * c.dim * sum(keys)

    def estimate_training_memory(self, batch_size: int, seq_len: int, bytes_per_activation: int = 4) -> int:
        """Approximate bytes of a training step: fp32 parameters, gradients, Adam's two moments, and activations.

        Logits are not counted: the loss has only a chunk of them in memory at a time (ops/cross_entropy.py).
        """
        c = self.config
        ffn_width = c.ffn_dim * (3 if c.activation == "geglu" else 2)
        activations = batch_size * seq_len * c.layers * (8 * c.dim + ffn_width)
        return 16 * self.num_parameters() + activations * bytes_per_activation


class SequenceClassifier(nn.Module):
    """Transformer with a classification head: logits from [CLS] of an encoder, or from the last token of a decoder.

    Between them is what the model has: BERT's pooler, ModernBERT's MLM transform, nothing in GPT-2. Rows may hold
    several texts, told apart by `document_ids`.
    """

    def __init__(self, transformer: Transformer, num_labels: int, causal: bool) -> None:
        super().__init__()
        self.transformer, self.config, self.causal = transformer, transformer.config, causal
        self.classifier = Linear(self.config.dim, num_labels, bias=not causal)  # in transformers decoders have no bias
        self.dropout = nn.Dropout(self.config.dropout)

    def forward(
        self,
        input_ids: Tensor,  # (B, T)
        *,
        document_ids: Tensor | None = None,  # (B, T): the text of each position; attention stays within it
        position_ids: Tensor | None = None,  # (B, T)
        token_type_ids: Tensor | None = None,  # (B, T)
        row_index: Tensor,  # (N,): the row of each text
        pool_index: Tensor,  # (N,): the position of its [CLS], or of its last token
    ) -> Tensor:
        """Logits of each text, (N, num_labels)."""
        model = self.transformer
        layout = {"document_ids": document_ids, "position_ids": position_ids, "token_type_ids": token_type_ids}
        hidden = model(input_ids, causal=self.causal, **layout)  # (B, T, D)
        pooled = hidden[row_index, pool_index]  # (N, D)
        pooled = model.pool(pooled) if self.config.token_types else model.lm_transform(pooled)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits

    def unused_head_parameters(self) -> list[nn.Parameter]:
        """Parameters of the pretraining heads, which get no gradient here."""
        model = self.transformer
        parameters: list[nn.Parameter] = [model.lm_bias] if self.config.lm_bias else []
        if self.config.token_types:
            heads = [model.nsp_head] + ([model.mlm_dense, model.mlm_norm] if self.config.mlm_transform else [])
            parameters += [parameter for head in heads for parameter in head.parameters()]
        return parameters
