"""Our weights in the layouts of `transformers`, and theirs in ours: one table of names for each, read both ways."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertgpt.config.presets import BERT, GPT2, MODERNBERT, ModelConfig
from bertgpt.model import GLOBAL_THETA, LOCAL_THETA
from bertgpt.utils.errors import BertGPTError

# The switches that decide which class of theirs computes the same.
SWITCHES = (
    "positions", "activation", "post_norm", "bias", "embed_norm", "mlm_transform", "lm_bias",
)  # fmt: skip


@dataclass(frozen=True)
class TensorMapping:
    """A tensor of ours and what it is called there: one name, or three for what they keep apart."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False  # GPT-2 has its matrices the other way round
    optional: bool = False  # some of their models do not have it


def layout_of(config: ModelConfig, causal: bool) -> str:
    """Which of their layouts this is: gpt2, bert, modernbert or modernbert-decoder."""

    def like(family: dict[str, Any]) -> bool:
        return all(
            getattr(config, name) == family.get(name, ModelConfig.model_fields[name].default) for name in SWITCHES
        )

    if like(GPT2) and not config.token_types and not config.local_window and causal:
        return "gpt2"
    if like(BERT) and config.token_types and not config.local_window and not causal:
        return "bert"
    if like(MODERNBERT) and not config.token_types:
        return "modernbert-decoder" if causal else "modernbert"
    direction = "a causal" if causal else "a bidirectional"
    raise BertGPTError("BG218", f"no class of transformers is {direction} model of this shape")


def tensor_mappings(config: ModelConfig, layout: str) -> list[TensorMapping]:
    """All tensors of a model."""
    return list({"gpt2": gpt2_entries, "bert": bert_entries}.get(layout, modern_entries)(config, layout))


def weight_and_bias(ours: str, theirs: str, turned: bool = False, lacking: bool = False) -> Iterator[TensorMapping]:
    """Weight and bias of a layer."""
    yield TensorMapping(f"{ours}.weight", (f"{theirs}.weight",), turned, lacking)
    yield TensorMapping(f"{ours}.bias", (f"{theirs}.bias",), optional=lacking)


def gpt2_entries(config: ModelConfig, layout: str) -> Iterator[TensorMapping]:
    """GPT2LMHeadModel."""
    yield TensorMapping("token_embedding.weight", ("transformer.wte.weight",))
    yield TensorMapping("position_embedding.weight", ("transformer.wpe.weight",))
    yield from weight_and_bias("final_norm", "transformer.ln_f")
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        yield from weight_and_bias(f"{ours}.attention_norm", f"{theirs}.ln_1")
        yield from weight_and_bias(f"{ours}.qkv_proj", f"{theirs}.attn.c_attn", turned=True)
        yield from weight_and_bias(f"{ours}.out_proj", f"{theirs}.attn.c_proj", turned=True)
        yield from weight_and_bias(f"{ours}.mlp_norm", f"{theirs}.ln_2")
        yield from weight_and_bias(f"{ours}.up_proj", f"{theirs}.mlp.c_fc", turned=True)
        yield from weight_and_bias(f"{ours}.down_proj", f"{theirs}.mlp.c_proj", turned=True)


def bert_entries(config: ModelConfig, layout: str) -> Iterator[TensorMapping]:
    """BertForPreTraining."""
    yield TensorMapping("token_embedding.weight", ("bert.embeddings.word_embeddings.weight",))
    yield TensorMapping("position_embedding.weight", ("bert.embeddings.position_embeddings.weight",))
    yield TensorMapping("token_type_embedding.weight", ("bert.embeddings.token_type_embeddings.weight",))
    yield from weight_and_bias("embed_norm", "bert.embeddings.LayerNorm")
    yield from weight_and_bias("mlm_dense", "cls.predictions.transform.dense")
    yield from weight_and_bias("mlm_norm", "cls.predictions.transform.LayerNorm")
    yield TensorMapping("lm_bias", ("cls.predictions.bias",))
    yield from weight_and_bias("pooler", "bert.pooler.dense", lacking=True)
    yield from weight_and_bias("nsp_head", "cls.seq_relationship", lacking=True)
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}", f"bert.encoder.layer.{i}"
        for kind in ("weight", "bias"):
            names = tuple(f"{theirs}.attention.self.{name}.{kind}" for name in ("query", "key", "value"))
            yield TensorMapping(f"{ours}.qkv_proj.{kind}", names)
        yield from weight_and_bias(f"{ours}.out_proj", f"{theirs}.attention.output.dense")
        yield from weight_and_bias(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm")
        yield from weight_and_bias(f"{ours}.up_proj", f"{theirs}.intermediate.dense")
        yield from weight_and_bias(f"{ours}.down_proj", f"{theirs}.output.dense")
        yield from weight_and_bias(f"{ours}.mlp_norm", f"{theirs}.output.LayerNorm")


def modern_entries(config: ModelConfig, layout: str) -> Iterator[TensorMapping]:
    """ModernBertForMaskedLM and ModernBertDecoderForCausalLM, which keeps query, key and value apart."""
    decoder = layout == "modernbert-decoder"
    head = "lm_head" if decoder else "head"
    yield TensorMapping("token_embedding.weight", ("model.embeddings.tok_embeddings.weight",))
    yield TensorMapping("embed_norm.weight", ("model.embeddings.norm.weight",))
    yield TensorMapping("final_norm.weight", ("model.final_norm.weight",))
    yield TensorMapping("mlm_dense.weight", (f"{head}.dense.weight",))
    yield TensorMapping("mlm_norm.weight", (f"{head}.norm.weight",))
    yield TensorMapping("lm_bias", ("decoder.bias",))
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        if i:  # the embeddings come normed to the first block
            yield TensorMapping(f"{ours}.attention_norm.weight", (f"{theirs}.attn_norm.weight",))
        apart = tuple(f"{theirs}.attn.{name}_proj.weight" for name in "qkv")
        yield TensorMapping(f"{ours}.qkv_proj.weight", apart if decoder else (f"{theirs}.attn.Wqkv.weight",))
        yield TensorMapping(f"{ours}.out_proj.weight", (f"{theirs}.attn.Wo.weight",))
        yield TensorMapping(f"{ours}.mlp_norm.weight", (f"{theirs}.mlp_norm.weight",))
        yield TensorMapping(f"{ours}.up_proj.weight", (f"{theirs}.mlp.Wi.weight",))
        yield TensorMapping(f"{ours}.down_proj.weight", (f"{theirs}.mlp.Wo.weight",))


def to_hf(config: ModelConfig, layout: str, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    theirs: dict[str, Tensor] = {}
    for entry in tensor_mappings(config, layout):
        tensor = ours[entry.ours]
        parts = tensor.T.chunk(1) if entry.transposed else tensor.chunk(len(entry.theirs))
        theirs |= {name: part.contiguous() for name, part in zip(entry.theirs, parts, strict=True)}
    return theirs


CLASSIFIER_CLASSES = {
    "gpt2": "GPT2ForSequenceClassification", "bert": "BertForSequenceClassification",
    "modernbert": "ModernBertForSequenceClassification",
    "modernbert-decoder": "ModernBertDecoderForSequenceClassification",
}  # fmt: skip


def classifier_to_hf(config: ModelConfig, layout: str, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a classifier: those of the transformer without heads for text, and its own."""
    body = {
        name.removeprefix("transformer."): tensor for name, tensor in ours.items() if not name.startswith("classifier.")
    }
    theirs = to_hf(config, layout, body)
    theirs = {name.replace("lm_head.", "head."): tensor for name, tensor in theirs.items()}
    kept = ("transformer.", "bert.", "model.", "head.")
    found = {name: tensor for name, tensor in theirs.items() if name.startswith(kept)}
    out = "score" if layout == "gpt2" else "classifier"
    return found | {
        name.replace("classifier.", f"{out}."): t for name, t in ours.items() if name.startswith("classifier.")
    }


def classifier_hf_config(
    config: ModelConfig, layout: str, roles: Mapping[str, int], labels: Sequence[str]
) -> dict[str, Any]:
    """config.json of a classifier, with the names of its labels."""
    named = list(labels) or ["LABEL_0"]
    return to_hf_config(config, layout, roles) | {
        "architectures": [CLASSIFIER_CLASSES[layout]], "id2label": {str(i): name for i, name in enumerate(named)},
        "label2id": {name: i for i, name in enumerate(named)}, "pad_token_id": roles.get("pad", roles["end"]),
        "problem_type": "single_label_classification" if labels else "regression",
    } | ({"classifier_pooling": "cls"} if layout == "modernbert" else {})  # fmt: skip


def from_hf(config: ModelConfig, layout: str, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names; what some of their models lack is left out."""
    ours: dict[str, Tensor] = {}
    for entry in tensor_mappings(config, layout):
        missing = [name for name in entry.theirs if name not in theirs]
        if missing and entry.optional:
            continue
        if missing:
            raise BertGPTError("BG318", "this model lacks a tensor", cause=missing[0])
        tensor = torch.cat([theirs[name] for name in entry.theirs])
        ours[entry.ours] = tensor.T.contiguous() if entry.transposed else tensor
    return ours


def to_hf_config(config: ModelConfig, layout: str, roles: Mapping[str, int]) -> dict[str, Any]:
    """config.json."""
    end = roles["end"]
    ids = {
        "pad_token_id": roles.get("pad"), "bos_token_id": roles.get("cls", end),
        "eos_token_id": roles.get("sep", end), "cls_token_id": roles.get("cls"), "sep_token_id": roles.get("sep"),
    }  # fmt: skip
    shared = {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "dtype": "float32",
    }
    if layout == "gpt2":
        return shared | {
            "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": config.max_seq_len,
            "n_embd": config.dim, "n_layer": config.layers, "n_head": config.heads, "n_inner": config.ffn_dim,
            "activation_function": "gelu_new", "layer_norm_epsilon": config.norm_eps, "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout, "attn_pdrop": config.dropout, "bos_token_id": end, "eos_token_id": end,
            "pad_token_id": roles.get("pad"),
        }  # fmt: skip
    shape = {
        "hidden_size": config.dim, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_dim, "max_position_embeddings": config.max_seq_len,
    }  # fmt: skip
    if layout == "bert":
        return shared | shape | {
            "model_type": "bert", "architectures": ["BertForPreTraining"], "hidden_act": "gelu",
            "type_vocab_size": config.token_types, "layer_norm_eps": config.norm_eps, "pad_token_id": roles.get("pad"),
            "hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout,
        }  # fmt: skip
    decoder = layout == "modernbert-decoder"
    # Their causal windows exclude the left edge.
    window = 2 * (config.local_window + 1) if decoder else 2 * config.local_window
    ids |= {"bos_token_id": end, "eos_token_id": end} if decoder else {}
    return shared | shape | ids | {
        "model_type": layout, "architectures": ["ModernBertDecoderForCausalLM" if decoder else "ModernBertForMaskedLM"],
        "hidden_activation": "gelu", "norm_eps": config.norm_eps, "norm_bias": False, "attention_bias": False,
        "mlp_bias": False, "decoder_bias": True, "classifier_bias": False, "local_attention": window,
        "global_attn_every_n_layers": config.global_every, "global_rope_theta": GLOBAL_THETA,
        "local_rope_theta": LOCAL_THETA, "embedding_dropout": config.dropout, "attention_dropout": config.dropout,
        "mlp_dropout": config.dropout,
    }  # fmt: skip


def from_hf_config(theirs: Mapping[str, Any]) -> tuple[ModelConfig, str]:
    """Our shape, and the layout, from config.json; what we would compute otherwise is refused."""
    layout = str(theirs.get("model_type"))
    read = {"gpt2": from_gpt2, "bert": from_bert, "modernbert": from_modern, "modernbert-decoder": from_modern}
    if layout not in read:
        raise BertGPTError("BG218", f"models of the type {layout} are not read", cause=f"known: {', '.join(read)}")
    return read[layout](theirs), layout


def require(theirs: Mapping[str, Any], **wanted: Any) -> None:
    """Settings that we have one way of doing; one that is not there has its usual value."""
    for name, value in wanted.items():
        values = value if isinstance(value, tuple) else (value,)
        if theirs.get(name, values[0]) not in values:
            raise BertGPTError("BG218", f"{name} {theirs[name]} is not what we compute", cause=f"{values[0]} is")


def from_gpt2(theirs: Mapping[str, Any]) -> ModelConfig:
    """GPT2Config."""
    require(theirs, activation_function=("gelu_new", "gelu_pytorch_tanh"), scale_attn_weights=True)
    require(theirs, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    dim = theirs["n_embd"]
    return ModelConfig(
        vocab_size=theirs["vocab_size"], dim=dim, layers=theirs["n_layer"], heads=theirs["n_head"],
        ffn_dim=theirs.get("n_inner") or 4 * dim,
        **(GPT2 | {"max_seq_len": theirs["n_positions"], "norm_eps": theirs.get("layer_norm_epsilon", 1e-5)}),
    )  # fmt: skip


def from_bert(theirs: Mapping[str, Any]) -> ModelConfig:
    """BertConfig."""
    require(theirs, hidden_act="gelu", position_embedding_type="absolute", is_decoder=False)
    more = {
        "max_seq_len": theirs["max_position_embeddings"], "norm_eps": theirs.get("layer_norm_eps", 1e-12),
        "token_types": theirs.get("type_vocab_size", 2),
    }  # fmt: skip
    return ModelConfig(**common_shape(theirs), **(BERT | more))


def from_modern(theirs: Mapping[str, Any]) -> ModelConfig:
    """ModernBertConfig and ModernBertDecoderConfig."""
    require(theirs, hidden_activation="gelu", norm_bias=False, attention_bias=False, mlp_bias=False)
    require(theirs, classifier_bias=False, decoder_bias=True)
    ropes = theirs.get("rope_parameters") or {}
    for kind, name, theta in (
        ("full_attention", "global_rope_theta", GLOBAL_THETA),
        ("sliding_attention", "local_rope_theta", LOCAL_THETA),
    ):
        require({name: theirs.get(name, ropes.get(kind, {}).get("rope_theta", theta))}, **{name: theta})
    half = theirs.get("local_attention", 128) // 2
    more = {
        "max_seq_len": theirs["max_position_embeddings"], "norm_eps": theirs.get("norm_eps", 1e-5),
        "local_window": half - 1 if theirs["model_type"] == "modernbert-decoder" else half,
        "global_every": theirs.get("global_attn_every_n_layers", 3),
    }  # fmt: skip
    return ModelConfig(**common_shape(theirs), **(MODERNBERT | more))


def common_shape(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that BERT and its successors call alike."""
    names = {
        "vocab_size": "vocab_size", "dim": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
        "ffn_dim": "intermediate_size",
    }  # fmt: skip
    return {ours: theirs[name] for ours, name in names.items()}
