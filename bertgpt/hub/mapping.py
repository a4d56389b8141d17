"""Our weights in the layouts of `transformers`, and theirs in ours: one table of names for each, read both ways."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertgpt.config.presets import BERT, GPT2, MODERN, ModelConfig
from bertgpt.model import GLOBAL_THETA, LOCAL_THETA
from bertgpt.utils.errors import BertGPTError

# The switches that decide which class of theirs computes the same.
SWITCHES = (
    "positions", "activation", "post_norm", "bias", "embed_norm", "head_transform", "head_bias",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A tensor of ours and what it is called there: one name, or three for what they keep apart."""

    ours: str
    theirs: tuple[str, ...]
    turned: bool = False  # GPT-2 has its matrices the other way round
    lacking: bool = False  # some of their models do not have it


def layout_of(config: ModelConfig, causal: bool) -> str:
    """Which of their layouts this is: gpt2, bert, modernbert or modernbert-decoder."""

    def like(family: dict[str, Any]) -> bool:
        return all(
            getattr(config, name) == family.get(name, ModelConfig.model_fields[name].default) for name in SWITCHES
        )

    if like(GPT2) and not config.segments and not config.window and causal:
        return "gpt2"
    if like(BERT) and config.segments and not config.window and not causal:
        return "bert"
    if like(MODERN) and not config.segments:
        return "modernbert-decoder" if causal else "modernbert"
    direction = "a causal" if causal else "a bidirectional"
    raise BertGPTError("BG218", f"no class of transformers is {direction} model of this shape")


def entries(config: ModelConfig, layout: str) -> list[Entry]:
    """All tensors of a model."""
    return list({"gpt2": gpt2_entries, "bert": bert_entries}.get(layout, modern_entries)(config, layout))


def both(ours: str, theirs: str, turned: bool = False, lacking: bool = False) -> Iterator[Entry]:
    """Weight and bias of a layer."""
    yield Entry(f"{ours}.weight", (f"{theirs}.weight",), turned, lacking)
    yield Entry(f"{ours}.bias", (f"{theirs}.bias",), lacking=lacking)


def gpt2_entries(config: ModelConfig, layout: str) -> Iterator[Entry]:
    """GPT2LMHeadModel."""
    yield Entry("tokens.weight", ("transformer.wte.weight",))
    yield Entry("positions.weight", ("transformer.wpe.weight",))
    yield from both("final_norm", "transformer.ln_f")
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        yield from both(f"{ours}.attention_norm", f"{theirs}.ln_1")
        yield from both(f"{ours}.qkv", f"{theirs}.attn.c_attn", turned=True)
        yield from both(f"{ours}.out", f"{theirs}.attn.c_proj", turned=True)
        yield from both(f"{ours}.mlp_norm", f"{theirs}.ln_2")
        yield from both(f"{ours}.up", f"{theirs}.mlp.c_fc", turned=True)
        yield from both(f"{ours}.down", f"{theirs}.mlp.c_proj", turned=True)


def bert_entries(config: ModelConfig, layout: str) -> Iterator[Entry]:
    """BertForPreTraining."""
    yield Entry("tokens.weight", ("bert.embeddings.word_embeddings.weight",))
    yield Entry("positions.weight", ("bert.embeddings.position_embeddings.weight",))
    yield Entry("segments.weight", ("bert.embeddings.token_type_embeddings.weight",))
    yield from both("embed_norm", "bert.embeddings.LayerNorm")
    yield from both("head_dense", "cls.predictions.transform.dense")
    yield from both("head_norm", "cls.predictions.transform.LayerNorm")
    yield Entry("head_bias", ("cls.predictions.bias",))
    yield from both("pooler", "bert.pooler.dense", lacking=True)
    yield from both("pair", "cls.seq_relationship", lacking=True)
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}", f"bert.encoder.layer.{i}"
        for kind in ("weight", "bias"):
            names = tuple(f"{theirs}.attention.self.{name}.{kind}" for name in ("query", "key", "value"))
            yield Entry(f"{ours}.qkv.{kind}", names)
        yield from both(f"{ours}.out", f"{theirs}.attention.output.dense")
        yield from both(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm")
        yield from both(f"{ours}.up", f"{theirs}.intermediate.dense")
        yield from both(f"{ours}.down", f"{theirs}.output.dense")
        yield from both(f"{ours}.mlp_norm", f"{theirs}.output.LayerNorm")


def modern_entries(config: ModelConfig, layout: str) -> Iterator[Entry]:
    """ModernBertForMaskedLM and ModernBertDecoderForCausalLM, which keeps query, key and value apart."""
    decoder = layout == "modernbert-decoder"
    head = "lm_head" if decoder else "head"
    yield Entry("tokens.weight", ("model.embeddings.tok_embeddings.weight",))
    yield Entry("embed_norm.weight", ("model.embeddings.norm.weight",))
    yield Entry("final_norm.weight", ("model.final_norm.weight",))
    yield Entry("head_dense.weight", (f"{head}.dense.weight",))
    yield Entry("head_norm.weight", (f"{head}.norm.weight",))
    yield Entry("head_bias", ("decoder.bias",))
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        if i:  # the embeddings come normed to the first block
            yield Entry(f"{ours}.attention_norm.weight", (f"{theirs}.attn_norm.weight",))
        apart = tuple(f"{theirs}.attn.{name}_proj.weight" for name in "qkv")
        yield Entry(f"{ours}.qkv.weight", apart if decoder else (f"{theirs}.attn.Wqkv.weight",))
        yield Entry(f"{ours}.out.weight", (f"{theirs}.attn.Wo.weight",))
        yield Entry(f"{ours}.mlp_norm.weight", (f"{theirs}.mlp_norm.weight",))
        yield Entry(f"{ours}.up.weight", (f"{theirs}.mlp.Wi.weight",))
        yield Entry(f"{ours}.down.weight", (f"{theirs}.mlp.Wo.weight",))


def to_theirs(config: ModelConfig, layout: str, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    theirs: dict[str, Tensor] = {}
    for entry in entries(config, layout):
        tensor = ours[entry.ours]
        parts = tensor.T.chunk(1) if entry.turned else tensor.chunk(len(entry.theirs))
        theirs |= {name: part.contiguous() for name, part in zip(entry.theirs, parts, strict=True)}
    return theirs


TOLD_BY = {
    "gpt2": "GPT2ForSequenceClassification", "bert": "BertForSequenceClassification",
    "modernbert": "ModernBertForSequenceClassification",
    "modernbert-decoder": "ModernBertDecoderForSequenceClassification",
}  # fmt: skip


def classifier_to_theirs(config: ModelConfig, layout: str, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a classifier: those of the transformer without heads for text, and its own."""
    body = {name.removeprefix("transformer."): tensor for name, tensor in ours.items() if not name.startswith("out.")}
    theirs = to_theirs(config, layout, body)
    theirs = {name.replace("lm_head.", "head."): tensor for name, tensor in theirs.items()}
    kept = ("transformer.", "bert.", "model.", "head.")
    found = {name: tensor for name, tensor in theirs.items() if name.startswith(kept)}
    out = "score" if layout == "gpt2" else "classifier"
    return found | {name.replace("out.", f"{out}."): t for name, t in ours.items() if name.startswith("out.")}


def classifier_config(
    config: ModelConfig, layout: str, roles: Mapping[str, int], labels: Sequence[str]
) -> dict[str, Any]:
    """config.json of a classifier, with the names of its labels."""
    named = list(labels) or ["LABEL_0"]
    return their_config(config, layout, roles) | {
        "architectures": [TOLD_BY[layout]], "id2label": {str(i): name for i, name in enumerate(named)},
        "label2id": {name: i for i, name in enumerate(named)}, "pad_token_id": roles.get("pad", roles["end"]),
        "problem_type": "single_label_classification" if labels else "regression",
    } | ({"classifier_pooling": "cls"} if layout == "modernbert" else {})  # fmt: skip


def to_ours(config: ModelConfig, layout: str, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names; what some of their models lack is left out."""
    ours: dict[str, Tensor] = {}
    for entry in entries(config, layout):
        missing = [name for name in entry.theirs if name not in theirs]
        if missing and entry.lacking:
            continue
        if missing:
            raise BertGPTError("BG318", "this model lacks a tensor", cause=missing[0])
        tensor = torch.cat([theirs[name] for name in entry.theirs])
        ours[entry.ours] = tensor.T.contiguous() if entry.turned else tensor
    return ours


def their_config(config: ModelConfig, layout: str, roles: Mapping[str, int]) -> dict[str, Any]:
    """config.json."""
    end = roles["end"]
    ids = {
        "pad_token_id": roles.get("pad"), "bos_token_id": roles.get("cls", end),
        "eos_token_id": roles.get("sep", end), "cls_token_id": roles.get("cls"), "sep_token_id": roles.get("sep"),
    }  # fmt: skip
    shared = {"vocab_size": config.vocab, "tie_word_embeddings": True, "initializer_range": 0.02, "dtype": "float32"}
    if layout == "gpt2":
        return shared | {
            "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": config.context,
            "n_embd": config.dim, "n_layer": config.layers, "n_head": config.heads, "n_inner": config.ffn,
            "activation_function": "gelu_new", "layer_norm_epsilon": config.eps, "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout, "attn_pdrop": config.dropout, "bos_token_id": end, "eos_token_id": end,
            "pad_token_id": roles.get("pad"),
        }  # fmt: skip
    shape = {
        "hidden_size": config.dim, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "intermediate_size": config.ffn, "max_position_embeddings": config.context,
    }  # fmt: skip
    if layout == "bert":
        return shared | shape | {
            "model_type": "bert", "architectures": ["BertForPreTraining"], "hidden_act": "gelu",
            "type_vocab_size": config.segments, "layer_norm_eps": config.eps, "pad_token_id": roles.get("pad"),
            "hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout,
        }  # fmt: skip
    decoder = layout == "modernbert-decoder"
    # Their causal windows exclude the left edge.
    window = 2 * (config.window + 1) if decoder else 2 * config.window
    ids |= {"bos_token_id": end, "eos_token_id": end} if decoder else {}
    return shared | shape | ids | {
        "model_type": layout, "architectures": ["ModernBertDecoderForCausalLM" if decoder else "ModernBertForMaskedLM"],
        "hidden_activation": "gelu", "norm_eps": config.eps, "norm_bias": False, "attention_bias": False,
        "mlp_bias": False, "decoder_bias": True, "classifier_bias": False, "local_attention": window,
        "global_attn_every_n_layers": config.global_every, "global_rope_theta": GLOBAL_THETA,
        "local_rope_theta": LOCAL_THETA, "embedding_dropout": config.dropout, "attention_dropout": config.dropout,
        "mlp_dropout": config.dropout,
    }  # fmt: skip


def our_config(theirs: Mapping[str, Any]) -> tuple[ModelConfig, str]:
    """Our shape, and the layout, from config.json; what we would compute otherwise is refused."""
    layout = str(theirs.get("model_type"))
    read = {"gpt2": from_gpt2, "bert": from_bert, "modernbert": from_modern, "modernbert-decoder": from_modern}
    if layout not in read:
        raise BertGPTError("BG218", f"models of the type {layout} are not read", cause=f"known: {', '.join(read)}")
    return read[layout](theirs), layout


def expect(theirs: Mapping[str, Any], **wanted: Any) -> None:
    """Settings that we have one way of doing; one that is not there has its usual value."""
    for name, value in wanted.items():
        values = value if isinstance(value, tuple) else (value,)
        if theirs.get(name, values[0]) not in values:
            raise BertGPTError("BG218", f"{name} {theirs[name]} is not what we compute", cause=f"{values[0]} is")


def from_gpt2(theirs: Mapping[str, Any]) -> ModelConfig:
    """GPT2Config."""
    expect(theirs, activation_function=("gelu_new", "gelu_pytorch_tanh"), scale_attn_weights=True)
    expect(theirs, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    dim = theirs["n_embd"]
    return ModelConfig(
        vocab=theirs["vocab_size"], dim=dim, layers=theirs["n_layer"], heads=theirs["n_head"],
        ffn=theirs.get("n_inner") or 4 * dim,
        **(GPT2 | {"context": theirs["n_positions"], "eps": theirs.get("layer_norm_epsilon", 1e-5)}),
    )  # fmt: skip


def from_bert(theirs: Mapping[str, Any]) -> ModelConfig:
    """BertConfig."""
    expect(theirs, hidden_act="gelu", position_embedding_type="absolute", is_decoder=False)
    more = {
        "context": theirs["max_position_embeddings"], "eps": theirs.get("layer_norm_eps", 1e-12),
        "segments": theirs.get("type_vocab_size", 2),
    }  # fmt: skip
    return ModelConfig(**hidden_shape(theirs), **(BERT | more))


def from_modern(theirs: Mapping[str, Any]) -> ModelConfig:
    """ModernBertConfig and ModernBertDecoderConfig."""
    expect(theirs, hidden_activation="gelu", norm_bias=False, attention_bias=False, mlp_bias=False)
    expect(theirs, classifier_bias=False, decoder_bias=True)
    ropes = theirs.get("rope_parameters") or {}
    for kind, name, theta in (
        ("full_attention", "global_rope_theta", GLOBAL_THETA),
        ("sliding_attention", "local_rope_theta", LOCAL_THETA),
    ):
        expect({name: theirs.get(name, ropes.get(kind, {}).get("rope_theta", theta))}, **{name: theta})
    half = theirs.get("local_attention", 128) // 2
    more = {
        "context": theirs["max_position_embeddings"], "eps": theirs.get("norm_eps", 1e-5),
        "window": half - 1 if theirs["model_type"] == "modernbert-decoder" else half,
        "global_every": theirs.get("global_attn_every_n_layers", 3),
    }  # fmt: skip
    return ModelConfig(**hidden_shape(theirs), **(MODERN | more))


def hidden_shape(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that BERT and its successors call alike."""
    names = {
        "vocab": "vocab_size", "dim": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
        "ffn": "intermediate_size",
    }  # fmt: skip
    return {ours: theirs[name] for ours, name in names.items()}
