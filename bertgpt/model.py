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
from bertgpt.ops.kernels import attention, block_mask, pack, project

ROW_MULTIPLE = 64  # rows of the embedding in memory: what tensor cores like; those beyond V are zero and stay inside
GLOBAL_THETA, LOCAL_THETA = 160_000.0, 10_000.0  # the slowest turn of rotary positions: ModernBERT's


# ------------------------------------------------------------------------------------------- who sees whom


@dataclass
class Sight:
    """Whom each position sees in the two kinds of layers. Built once for a batch and shared by all layers.

    causal       both ways     two documents    window of 1
    x . . .      x x x x       x x . .          x x . .
    x x . .      x x x x       x x . .          x x x .
    x x x .      x x x x       . . x x          . x x x
    x x x x      x x x x       . . x x          . . x x
    """

    causal: bool
    masks: tuple[Any, Any]  # global and local, (1 or B, 1, T, keys) or what flex wants; None: see `causal`
    turns: tuple[Tensor, Tensor] | None  # the rotations of positions in global and local layers, (1 or B, 1, T, D / H)


class Cache:
    """Keys and values of positions that were seen before, in room for `size` of them."""

    def __init__(self, config: ModelConfig, rows: int, size: int, like: Tensor) -> None:
        shape = (2, config.layers, rows, config.heads, size, config.dim // config.heads)
        dtype = torch.float32 if like.device.type == "cpu" else like.dtype  # it is faster there, and no less exact
        self.kept = torch.zeros(shape, dtype=dtype, device=like.device)
        self.documents = torch.zeros((rows, size), dtype=torch.long, device=like.device)
        self.size, self.end = size, 0  # room, and how much of it is used

    def extended(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, with those of the positions that are being computed."""
        stop = self.end + k.size(2)
        self.kept[0, layer, :, :, self.end : stop], self.kept[1, layer, :, :, self.end : stop] = k, v
        return self.kept[0, layer, :, :, :stop], self.kept[1, layer, :, :, :stop]

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        self.kept, self.documents = self.kept[:, :, rows], self.documents[rows]


def sight(config: ModelConfig, ids: Tensor, causal: bool, documents: Tensor | None, positions: Tensor,
          cache: Cache | None, kernel: str) -> Sight:  # fmt: skip
    """Build it. Rows of one document without padding need no mask where all layers see everything."""
    turns = None
    if config.positions == "rope":
        turns = (turn(config, positions, GLOBAL_THETA), turn(config, positions, LOCAL_THETA))
    if kernel == "flex" and cache is None:
        blocks = [block_mask(causal, documents, window, ids.size(1), ids.device) for window in (0, config.window)]
        return Sight(causal, (blocks[0], blocks[1]), turns)
    start, new = cache.end if cache else 0, ids.size(1)
    key = torch.arange(start + new, device=ids.device)
    far = key[start:, None] - key[None, :]  # (T, keys): how far back a key is
    seen = torch.ones_like(far, dtype=torch.bool)
    if causal:
        seen = far >= 0
    if documents is not None:
        others = documents
        if cache is not None:
            cache.documents[:, start : start + new] = documents
            others = cache.documents[:, : start + new]
        seen = seen & (documents[:, None, :, None] == others[:, None, None, :])  # (B, 1, T, keys)
    plain = documents is None and (start == 0 or new == 1)
    local = seen & (far.abs() <= config.window) if config.window and start + new > config.window + 1 else seen
    unmasked = plain and local is seen
    return Sight(causal and new > 1, (None if plain else seen, None if unmasked else local), turns)


def turn(config: ModelConfig, positions: Tensor, theta: float) -> Tensor:
    """Cosines and sines of the angles by which pairs of a head's features are turned (Su et al., 2021)."""
    size = config.dim // config.heads
    speeds = theta ** -(torch.arange(0, size, 2, device=positions.device) / size)
    angles = positions[..., None].float() * speeds  # (1 or B, T, size / 2)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(-3)
    return torch.stack((angles.cos(), angles.sin()))


def turned(x: Tensor, turns: Tensor) -> Tensor:
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
        self.attention_norm = nn.Identity() if normed else norm(config)
        self.qkv = linear(config, config.dim, 3 * config.dim)
        self.out = linear(config, config.dim, config.dim)
        self.mlp_norm = norm(config)
        self.up = linear(config, config.dim, config.ffn * (2 if config.activation == "geglu" else 1))
        self.down = linear(config, config.ffn, config.dim)

    def forward(self, x: Tensor, sight: Sight, cache: Cache | None) -> Tensor:
        if self.config.post_norm:
            x = self.attention_norm(x + self.attend(x, sight, cache))
            x = self.mlp_norm(x + self.feed(x))
        else:
            x = x + self.attend(self.attention_norm(x), sight, cache)
            x = x + self.feed(self.mlp_norm(x))
        return x

    def attend(self, x: Tensor, sight: Sight, cache: Cache | None) -> Tensor:
        """Every position asks (q) all that it sees (k), and takes from those that answer (v)."""
        rows, length, _ = x.shape
        q, k, v = (
            self.qkv(x).view(rows, length, 3, self.config.heads, -1).permute(2, 0, 3, 1, 4)
        )  # each (B, H, T, D / H)
        if sight.turns is not None:
            turns = sight.turns[self.is_local]
            q, k = turned(q, turns), turned(k, turns)
        if cache is not None:
            k, v = cache.extended(self.layer, k, v)
        mask = sight.masks[self.is_local]
        rate = self.config.dropout if self.training else 0.0
        y = attention(q, k, v, mask, sight.causal, rate)
        return dropped(self, self.out(y.transpose(1, 2).flatten(2)))

    def feed(self, x: Tensor) -> Tensor:
        """What a position makes of what it has."""
        if self.config.activation == "geglu":
            value, gate = self.up(x).chunk(2, dim=-1)
            return dropped(self, self.down(F.gelu(value) * gate))
        tanh = "tanh" if self.config.activation == "gelu_tanh" else "none"
        return dropped(self, self.down(F.gelu(self.up(x), approximate=tanh)))


def norm(config: ModelConfig) -> nn.LayerNorm:
    """The one norm of all of them."""
    return nn.LayerNorm(config.dim, eps=config.eps, bias=config.bias)


class Linear(nn.Linear):
    """A projection, of whatever was in memory: `initial` or a file of weights says what it begins with."""

    packed: Tensor | None = None

    def reset_parameters(self) -> None:
        """Not torch's way, in vain and slowly."""

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight, self.bias, self.packed)


def linear(config: ModelConfig, inside: int, outside: int) -> Linear:
    """A projection of the blocks and heads."""
    return Linear(inside, outside, bias=config.bias)


def dropped(module: nn.Module, x: Tensor) -> Tensor:
    """Dropout where residuals, and embeddings, are added."""
    return F.dropout(x, module.config.dropout, module.training)  # type: ignore[arg-type, union-attr]


class Transformer(nn.Module):
    """All weights of a model, its heads among them."""

    kernel = "sdpa"  # or flex, on CUDA

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = Vocabulary(config.vocab, config.dim)
        if config.positions == "learned":
            self.positions = Embedding(config.context, config.dim)
        if config.segments:
            self.segments = Embedding(config.segments, config.dim)
        if config.embed_norm:
            self.embed_norm = norm(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        if not config.post_norm:
            self.final_norm = norm(config)
        if config.head_transform:
            self.head_dense, self.head_norm = linear(config, config.dim, config.dim), norm(config)
        if config.head_bias:
            self.head_bias = nn.Parameter(torch.empty(config.vocab))
        if config.segments:
            self.pooler, self.pair = Linear(config.dim, config.dim), Linear(config.dim, 2)

    def forward(
        self,
        ids: Tensor,  # (B, T)
        *,
        causal: bool,
        documents: Tensor | None = None,  # (B, T): positions see their own document only; padding is one of its own
        positions: Tensor | None = None,  # (B, T): counted from the row's beginning, if they are not given
        segments: Tensor | None = None,  # (B, T): BERT's sentences A and B
        cache: Cache | None = None,
        every_layer: bool = False,
    ) -> Tensor | list[Tensor]:
        """Hidden states, (B, T, D): of the last layer, or of all with the embeddings first."""
        start, new = cache.end if cache else 0, ids.size(1)
        self.config.check_length(start + new)
        if positions is None:
            positions = torch.arange(start, start + new, device=ids.device)[None]
        x = self.tokens(ids)
        if self.config.segments:
            x = x + self.segments(torch.zeros_like(ids) if segments is None else segments)
        if self.config.positions == "learned":
            x = x + self.positions(positions)
        if self.config.embed_norm:
            x = self.embed_norm(x)
        x = dropped(self, x)
        seen = sight(self.config, ids, causal, documents, positions, cache, self.kernel)
        states = [x]
        for block in self.blocks:
            x = block(x, seen, cache)
            states.append(x)
        if cache is not None:
            cache.end += new
        if not self.config.post_norm:
            states[-1] = x = self.final_norm(x)
        return states if every_layer else x

    def before_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states of any shape (..., D) as the projection to the vocabulary wants them."""
        return self.head_norm(F.gelu(self.head_dense(hidden))) if self.config.head_transform else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., V): the same matrix that reads ids writes them (Press and Wolf, 2017)."""
        logits = project(self.before_logits(hidden), self.tokens.weight, None, self.tokens.packed)
        logits = logits[..., : self.config.vocab]
        return logits + self.head_bias if self.config.head_bias else logits

    def pooled(self, first: Tensor) -> Tensor:
        """BERT's summary of a piece, from the hidden state of its [CLS]."""
        return torch.tanh(self.pooler(first))

    def next_sentence(self, first: Tensor) -> Tensor:
        """Two logits for each [CLS]: B comes next, or not."""
        logits: Tensor = self.pair(self.pooled(first))
        return logits

    def settle(self) -> None:
        """Get ready to be asked often: from here on, what changes the weights is not seen."""
        for module in self.modules():
            if isinstance(module, Linear | Vocabulary):
                module.packed = pack(module.weight)

    def parameter_count(self) -> int:
        """All weights; the rows that only fill up the embedding do not count."""
        filling = (self.tokens.num_embeddings - self.config.vocab) * self.config.dim
        return sum(weight.numel() for weight in self.parameters()) - filling

    def flops_per_token(self, length: int, scored: float = 1.0) -> float:
        """Of a training step: 6 for each weight that a token meets in a product, 12 for each feature it looks at.

        Only the `scored` share of tokens meets the vocabulary.
        """
        c = self.config
        blocks = sum(weight.numel() for weight in self.blocks.parameters() if weight.ndim == 2)
        head = c.dim * (c.vocab + (c.dim if c.head_transform else 0))
        seen = [min(length, 2 * c.window + 1) if c.is_local(layer) else length for layer in range(c.layers)]
        return 6.0 * (blocks + scored * head) + 12.0 * c.dim * sum(seen)

    def training_bytes(self, rows: int, length: int, width: int = 4) -> int:
        """What a step holds, about: weights, gradients and two moments, and what the way back needs of each block."""
        c = self.config
        inner = c.ffn * (3 if c.activation == "geglu" else 2)
        return 16 * self.parameter_count() + rows * length * c.layers * (8 * c.dim + inner) * width


class Classifier(nn.Module):
    """Labels for texts: from [CLS] of a model that looks both ways, from the last id of one that looks back.

    Between is what the model has there: BERT's pooler, ModernBERT's transform, nothing in GPT-2. Several texts may
    stand in a row, each a document of its own.
    """

    def __init__(self, transformer: Transformer, labels: int, causal: bool) -> None:
        super().__init__()
        self.transformer, self.config, self.causal = transformer, transformer.config, causal
        # those of transformers have a bias, but for decoders
        self.out = Linear(self.config.dim, labels, bias=not causal)

    def forward(
        self,
        ids: Tensor,  # (B, T)
        *,
        documents: Tensor | None = None,  # (B, T): the text of each position, as the transformer takes them
        positions: Tensor | None = None,  # (B, T)
        segments: Tensor | None = None,  # (B, T)
        rows: Tensor,  # (N,): where each text is read out: its row,
        places: Tensor,  # (N,): and its [CLS], or its last id
    ) -> Tensor:
        """Logits, (N, labels)."""
        model = self.transformer
        hidden = model(ids, causal=self.causal, documents=documents, positions=positions, segments=segments)
        summary = hidden[rows, places]  # (N, D)
        summary = model.pooled(summary) if self.config.segments else model.before_logits(summary)
        logits: Tensor = self.out(dropped(self, summary))
        return logits

    def unused(self) -> list[nn.Parameter]:
        """Weights that only other heads use."""
        model = self.transformer
        heads: list[nn.Parameter] = [model.head_bias] if self.config.head_bias else []
        if self.config.segments:
            others = [model.pair] + ([model.head_dense, model.head_norm] if self.config.head_transform else [])
            heads += [weight for module in others for weight in module.parameters()]
        return heads


class Embedding(nn.Embedding):
    """A row for each number, of whatever was in memory, as above."""

    def reset_parameters(self) -> None:
        """Not torch's way either."""


class Vocabulary(Embedding):
    """An embedding with a multiple of 64 rows in memory, and V rows for everybody else."""

    packed: Tensor | None = None

    def __init__(self, vocab: int, dim: int) -> None:
        super().__init__(-(-vocab // ROW_MULTIPLE) * ROW_MULTIPLE, dim)
        self.vocab = vocab

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"][: self.vocab]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        given = state_dict.get(f"{prefix}weight")
        if given is not None and len(given) == self.vocab:
            filled = F.pad(given, (0, 0, 0, self.num_embeddings - self.vocab))
            state_dict = {**state_dict, f"{prefix}weight": filled}
        super()._load_from_state_dict(state_dict, prefix, *rest)
