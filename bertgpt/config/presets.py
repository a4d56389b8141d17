"""Model configurations and named presets. Nothing here allocates memory: invalid shapes are rejected before that."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bertgpt.utils.errors import BertGPTError


class ModelConfig(BaseModel):
    """Architecture of a model. Causal or bidirectional attention is not part of it: the objective chooses that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(ge=1, description="Vocabulary size.")
    dim: int = Field(ge=1, description="Hidden size; a multiple of heads.")
    layers: int = Field(ge=1, description="Number of transformer blocks.")
    heads: int = Field(ge=1, description="Attention heads per layer.")
    ffn_dim: int = Field(ge=1, description="Hidden size of the MLP.")
    max_seq_len: int = Field(1024, ge=1, description="Longest row.")  # GPT-2's context; BERT has 512
    positions: Literal["learned", "rope"] = "learned"  # BERT and GPT-2; ModernBERT has RoPE (Su et al., 2021)
    activation: Literal["gelu", "gelu_tanh", "geglu"] = "gelu"  # BERT; GPT-2; ModernBERT (GEGLU; Shazeer, 2020)
    post_norm: bool = Field(False, description="LayerNorm after the residual (BERT) instead of before (GPT-2).")
    bias: bool = Field(True, description="Biases in linear layers and norms.")  # ModernBERT has none
    norm_eps: float = Field(1e-5, gt=0, description="Epsilon of LayerNorm.")  # GPT-2, ModernBERT; BERT has 1e-12
    token_types: int = Field(0, ge=0, description="Token types; if any, there are a pooler and an NSP head too.")
    embed_norm: bool = Field(False, description="LayerNorm after the embeddings.")  # BERT, ModernBERT
    local_window: int = Field(0, ge=0, description="Local layers attend this far to each side; 0: all are global.")
    global_every: int = Field(3, ge=1, description="Every n-th layer is global, from the first on.")  # as in ModernBERT
    mlm_transform: bool = Field(False, description="Dense layer, GELU and LayerNorm before the output projection.")
    lm_bias: bool = Field(False, description="Bias of the output projection.")  # BERT, ModernBERT
    init: Literal["gpt2", "bert", "zero"] = Field("gpt2", description="Initialization; see training/init.py.")
    dropout: float = Field(0.0, ge=0, lt=1)  # one pass over much text does not overfit; the papers had 0.1

    @model_validator(mode="after")
    def check_shape(self) -> "ModelConfig":
        """Reject shapes that attention cannot have."""
        if self.dim % self.heads:
            divisors = [heads for heads in range(1, self.dim + 1) if self.dim % heads == 0]
            divisors.sort(key=lambda heads: abs(heads - self.heads))
            cause = f"dim {self.dim} / {self.heads} heads = {self.dim / self.heads:.2f}"
            hint = f"use {divisors[0]} or {divisors[1]} heads" if len(divisors) > 1 else None
            raise BertGPTError("BG204", "dim must be divisible by heads", cause=cause, hint=hint)
        if self.positions == "rope" and self.dim // self.heads % 2:
            cause = f"dim {self.dim} / {self.heads} heads = {self.dim // self.heads}"
            raise BertGPTError("BG204", "RoPE needs an even head dimension", cause=cause)
        return self

    def is_local(self, layer: int) -> bool:
        """Whether a layer has local (sliding-window) attention."""
        return self.local_window > 0 and layer % self.global_every != 0

    def check_length(self, length: int) -> None:
        """Raise if rows are longer than max_seq_len."""
        if length > self.max_seq_len:
            cause = f"rows of {length} tokens, max_seq_len {self.max_seq_len}"
            raise BertGPTError("BG204", "sequence length exceeds max_seq_len", cause=cause)


@dataclass(frozen=True)
class Preset:
    """A named model configuration with default training options."""

    about: str
    model: ModelConfig
    objective: Literal["clm", "mlm"]
    training: dict[str, Any]  # defaults of `bertgpt pretrain`
    cross_document_attention: bool = False


# Architectures: what differs from the defaults of ModelConfig.
GPT2: dict[str, Any] = {  # Radford et al., 2019
    "activation": "gelu_tanh", "max_seq_len": 1024, "init": "gpt2",
}  # fmt: skip
BERT: dict[str, Any] = {  # Devlin et al., 2018
    "activation": "gelu", "max_seq_len": 512, "post_norm": True, "norm_eps": 1e-12, "token_types": 2,
    "embed_norm": True, "mlm_transform": True, "lm_bias": True, "init": "bert",
}  # fmt: skip
MODERNBERT: dict[str, Any] = {  # Warner et al., 2024
    "positions": "rope", "activation": "geglu", "max_seq_len": 8192, "bias": False, "embed_norm": True,
    "local_window": 64, "global_every": 3, "mlm_transform": True, "lm_bias": True, "init": "zero",
}  # fmt: skip

# Training: models of published sizes as in the papers, small ones as measured (benchmarks/README.md): Muon reaches a
# lower loss than AdamW with the same number of tokens.
TINY = {
    "optimizer": "muon",
    "lr": 5e-3,  # for post-norm models; pre-norm models have 1e-2
    "warmup": 100,
    "tokens_per_step": 4096,  # better than 8192 with a fixed number of tokens
    "schedule": "linear",
    "min_lr_ratio": 0.0,
}
SMALL = TINY | {"lr": 1e-2, "tokens_per_step": 8192}
BASE_GPT = {  # GPT-3 125M (Brown et al., 2020), as in reproductions of GPT-2 124M
    "lr": 6e-4,
    "warmup": 715,  # steps: 375M tokens
    "tokens_per_step": 524_288,
    "seq_len": 1024,
}
BASE_BERT = {  # BERT-base, as reported by RoBERTa (Liu et al., 2019)
    "lr": 1e-4,
    "warmup": 10_000,
    "tokens_per_step": 32_768,  # 256 rows of 128 tokens
    "schedule": "linear",
    "min_lr_ratio": 0.0,
    "weight_decay": 0.01,
    "beta2": 0.999,
}
MODERN_TRAINING = {  # ModernBERT-base, with a smaller batch
    "lr": 8e-4,
    "warmup": 500,
    "tokens_per_step": 65_536,
    "schedule": "wsd",  # warmup-stable-decay: training can be extended before the decay
    "beta2": 0.98,
}
GPT2_VOCAB, BERT_VOCAB = 50_257, 30_522
EXTENDED_VOCAB = GPT2_VOCAB + 4  # GPT-2's with [PAD] [CLS] [SEP] [MASK]


def make_config(
    dim: int, layers: int, heads: int, vocab_size: int, family: dict[str, Any], **other: Any
) -> ModelConfig:
    """A model of a family (GPT2, BERT, MODERNBERT). The MLP is four times as wide as the model without `ffn_dim`."""
    shape = {"dim": dim, "layers": layers, "heads": heads, "ffn_dim": 4 * dim, "vocab_size": vocab_size}
    return ModelConfig(**shape | family | other)


def gpt2(about: str, dim: int, layers: int, heads: int, vocab_size: int = GPT2_VOCAB, **other: Any) -> Preset:
    """GPT-2 preset, with attention across documents as in GPT-2, except in tiny models."""
    tiny = dim < 256
    training = TINY | {"lr": 1e-2} if tiny else BASE_GPT
    return Preset(about, make_config(dim, layers, heads, vocab_size, GPT2, **other), "clm", training, not tiny)


def bert(about: str, dim: int, layers: int, heads: int, vocab_size: int = BERT_VOCAB, **other: Any) -> Preset:
    """BERT preset."""
    training = TINY if dim < 256 else SMALL | {"lr": 5e-3} if dim < 512 else BASE_BERT
    return Preset(about, make_config(dim, layers, heads, vocab_size, BERT, **other), "mlm", training)


PRESETS = {
    "gpt2": gpt2("GPT-2 124M (Radford et al., 2019)", 768, 12, 12),
    "gpt2-medium": gpt2("GPT-2 355M (Radford et al., 2019)", 1024, 24, 16),
    "gpt2-small": gpt2("GPT-2 with 6 layers; counterpart of bert-small", 768, 6, 12),
    "tiny-gpt": gpt2("1.3M parameters, for a laptop; counterpart of tiny-bert", 128, 4, 4, 4096, max_seq_len=512),
    "bert-base": bert("BERT-base (Devlin et al., 2018)", 768, 12, 12),
    "bert-large": bert("BERT-large (Devlin et al., 2018)", 1024, 24, 16),
    "bert-small": bert("BERT with 6 layers; counterpart of gpt2-small", 768, 6, 12),
    "bert-12-768": bert("BERT-base for rows of up to 256 tokens", 768, 12, 12, max_seq_len=256),
    "bert-mini": bert("BERT with 6 layers of 384 and GPT-2's vocabulary", 384, 6, 6, EXTENDED_VOCAB),
    "tiny-bert": bert("1.3M parameters, for a laptop; counterpart of tiny-gpt", 128, 4, 4, 4096),
}
ETTIN_SHAPES = {  # dim, layers, heads, ffn_dim of Ettin (Weller et al., 2025), and `wide`, which is shallow and so fast
    "wide": (384, 3, 6, 576), "tiny": (256, 7, 4, 384), "mini": (384, 10, 6, 576), "small": (512, 19, 8, 768),
    "base": (768, 22, 12, 1152),
}  # fmt: skip
for size, (dim, layers, heads, ffn_dim) in ETTIN_SHAPES.items():
    model = make_config(dim, layers, heads, EXTENDED_VOCAB, MODERNBERT, ffn_dim=ffn_dim)
    about = f"ModernBERT architecture (Warner et al., 2024), dim {dim}, {layers} layers, {heads} heads"
    training = SMALL if size in ("wide", "tiny", "mini") else MODERN_TRAINING
    PRESETS[f"modern-bert-{size}"] = Preset(about, model, "mlm", training)
    PRESETS[f"modern-gpt-{size}"] = Preset(f"{about}, as a causal language model", model, "clm", training)
