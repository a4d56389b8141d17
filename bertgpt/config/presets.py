"""The shape of a model, and shapes by name. Nothing here allocates: what cannot be built is refused before."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bertgpt.utils.errors import BertGPTError


class ModelConfig(BaseModel):
    """What decides the tensors of a model and what is computed with them; not which way it looks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(ge=1, description="Ids; the embedding has a row for each.")
    dim: int = Field(ge=1, description="Width.")
    layers: int = Field(ge=1, description="Blocks.")
    heads: int = Field(ge=1, description="Attention heads; they divide the width.")
    ffn_dim: int = Field(ge=1, description="Width inside the feed-forward part.")
    max_seq_len: int = Field(1024, ge=1, description="The longest row.")
    positions: Literal["learned", "rope"] = "learned"
    activation: Literal["gelu", "gelu_tanh", "geglu"] = "gelu"
    post_norm: bool = Field(False, description="Normalise after the residual, as in 2018, instead of before.")
    bias: bool = Field(True, description="Biases in projections and norms.")
    norm_eps: float = Field(1e-5, gt=0, description="Of norms.")
    token_types: int = Field(0, ge=0, description="Kinds of sentences; with them come the pooler and the pair head.")
    embed_norm: bool = Field(False, description="Normalise embeddings.")
    local_window: int = Field(
        0, ge=0, description="How far local layers look to each side; 0: all layers look everywhere."
    )
    global_every: int = Field(3, ge=1, description="Of the layers, beginning with the first, this many-th is global.")
    mlm_transform: bool = Field(False, description="A dense layer and a norm before the projection to the vocabulary.")
    lm_bias: bool = Field(False, description="A bias for each id.")
    init: Literal["gpt2", "bert", "zero"] = Field("gpt2", description="How weights begin.")
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def check_shape(self) -> "ModelConfig":
        """Numbers that go together."""
        if self.dim % self.heads:
            nearest = [heads for heads in range(1, self.dim + 1) if self.dim % heads == 0]
            nearest.sort(key=lambda heads: abs(heads - self.heads))
            cause = f"{self.heads} heads, width {self.dim}: {self.dim / self.heads:.2f} for each"
            hint = f"{nearest[0]} or {nearest[1]} heads divide it" if len(nearest) > 1 else None
            raise BertGPTError("BG204", "the heads do not divide the width", cause=cause, hint=hint)
        if self.positions == "rope" and self.dim // self.heads % 2:
            cause = f"{self.dim} / {self.heads} = {self.dim // self.heads}"
            raise BertGPTError("BG204", "rotary positions turn pairs, and need an even size of heads", cause=cause)
        return self

    def is_local(self, layer: int) -> bool:
        """Whether a layer looks only so far."""
        return self.local_window > 0 and layer % self.global_every != 0

    def check_length(self, length: int) -> None:
        """Rows must not be longer than there are positions."""
        if length > self.max_seq_len:
            cause = f"rows of {length}, {self.max_seq_len} positions"
            raise BertGPTError("BG204", "the rows are longer than the model's context", cause=cause)


@dataclass(frozen=True)
class Preset:
    """A shape with its usual vocabulary, and what it is usually trained for."""

    about: str
    model: ModelConfig
    objective: Literal["clm", "mlm"]
    training: dict[str, Any]  # defaults of `bertgpt pretrain`
    cross_document_attention: bool = False


GPT2: dict[str, Any] = {"activation": "gelu_tanh", "max_seq_len": 1024, "init": "gpt2"}
BERT: dict[str, Any] = {
    "activation": "gelu", "max_seq_len": 512, "post_norm": True, "norm_eps": 1e-12, "token_types": 2, "embed_norm": True,
    "mlm_transform": True, "lm_bias": True, "init": "bert",
}  # fmt: skip
MODERNBERT: dict[str, Any] = {
    "positions": "rope", "activation": "geglu", "max_seq_len": 8192, "bias": False, "embed_norm": True, "local_window": 64,
    "global_every": 3, "mlm_transform": True, "lm_bias": True, "init": "zero",
}  # fmt: skip
# As the papers, or those who made them again, trained: GPT-3's rates for 124M and 355M; BERT's by RoBERTa's account.
TINY = {
    "optimizer": "muon",
    "lr": 5e-3,
    "warmup": 100,
    "tokens_per_step": 4096,
    "schedule": "linear",
    "min_lr_ratio": 0.0,
}
BASE_GPT = {"lr": 6e-4, "warmup": 715, "tokens_per_step": 524_288, "seq_len": 1024}
BASE_BERT = {"lr": 1e-4, "warmup": 10_000, "tokens_per_step": 32_768, "schedule": "linear", "min_lr_ratio": 0.0,
             "weight_decay": 0.01, "beta2": 0.999}  # fmt: skip
SMALL = TINY | {"lr": 1e-2, "tokens_per_step": 8192}
MODERN_TRAINING = {"lr": 8e-4, "warmup": 500, "tokens_per_step": 65_536, "schedule": "wsd", "beta2": 0.98}
GPT2_VOCAB, BERT_VOCAB = 50_257, 30_522
EXTENDED_VOCAB = GPT2_VOCAB + 4  # with [PAD] [CLS] [SEP] [MASK]


def make_config(
    dim: int, layers: int, heads: int, vocab_size: int, family: dict[str, Any], **other: Any
) -> ModelConfig:
    """A member of a family; the feed-forward part is four times as wide, unless it is said otherwise."""
    return ModelConfig(
        **{"dim": dim, "layers": layers, "heads": heads, "ffn_dim": 4 * dim, "vocab_size": vocab_size} | family | other
    )


def gpt2(about: str, dim: int, layers: int, heads: int, vocab_size: int = GPT2_VOCAB, **other: Any) -> Preset:
    """A decoder of 2019."""
    tiny = dim < 256
    model = make_config(dim, layers, heads, vocab_size, GPT2, **other)
    training = TINY | {"lr": 1e-2} if tiny else BASE_GPT
    return Preset(about, model, "clm", training, not tiny)


def bert(about: str, dim: int, layers: int, heads: int, vocab_size: int = BERT_VOCAB, **other: Any) -> Preset:
    """An encoder of 2018."""
    training = TINY if dim < 256 else SMALL | {"lr": 5e-3} if dim < 512 else BASE_BERT
    return Preset(about, make_config(dim, layers, heads, vocab_size, BERT, **other), "mlm", training)


PRESETS = {
    "gpt2": gpt2("GPT-2 124M (Radford et al., 2019)", 768, 12, 12),
    "gpt2-medium": gpt2("GPT-2 355M (Radford et al., 2019)", 1024, 24, 16),
    "gpt2-small": gpt2("half the depth of GPT-2 124M, the pair of bert-small", 768, 6, 12),
    "tiny-gpt": gpt2("1.3M, for a laptop; the pair of tiny-bert", 128, 4, 4, vocab_size=4096, max_seq_len=512),
    "bert-base": bert("BERT-base (Devlin et al., 2018)", 768, 12, 12),
    "bert-large": bert("BERT-large (Devlin et al., 2018)", 1024, 24, 16),
    "bert-small": bert("half the depth of BERT-base, the pair of gpt2-small", 768, 6, 12),
    "bert-12-768": bert("BERT-base for rows of 256, as this project began", 768, 12, 12, max_seq_len=256),
    "bert-mini": bert("with GPT-2's ids and four special ones", 384, 6, 6, vocab_size=EXTENDED_VOCAB),
    "tiny-bert": bert("1.3M, for a laptop; the pair of tiny-gpt", 128, 4, 4, vocab_size=4096),
}
ETTIN_SHAPES = {  # dim, layers, heads, ffn: those of Ettin (Weller et al., 2025), and one that is wide and shallow
    "wide": (384, 3, 6, 576), "tiny": (256, 7, 4, 384), "mini": (384, 10, 6, 576), "small": (512, 19, 8, 768),
    "base": (768, 22, 12, 1152),
}  # fmt: skip
for size, (dim, layers, heads, ffn) in ETTIN_SHAPES.items():
    model = make_config(dim, layers, heads, EXTENDED_VOCAB, MODERNBERT, ffn_dim=ffn)
    about = f"ModernBERT's layout (Warner et al., 2024), d{dim} L{layers} H{heads}"
    training = SMALL if size in ("wide", "tiny", "mini") else MODERN_TRAINING
    PRESETS[f"modern-bert-{size}"] = Preset(about, model, "mlm", training)
    PRESETS[f"modern-gpt-{size}"] = Preset(f"{about}, trained to go on with text", model, "clm", training)
