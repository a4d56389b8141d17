"""Weight and config mapping between bertgpt and `transformers`: one table of tensor names a layout, used both ways."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertgpt.config.presets import BERT, GPT2, MODERNBERT, ModelConfig
from bertgpt.model import GLOBAL_THETA, LOCAL_THETA
from bertgpt.utils.errors import BertGPTError

# The fields that decide which class of transformers computes the same.
ARCHITECTURE_FIELDS = (
    "positions", "activation", "post_norm", "bias", "embed_norm", "mlm_transform", "lm_bias",
)  # fmt: skip


@dataclass(frozen=True)
class TensorMapping:
    """A tensor's name in bertgpt and in transformers, where it may be three: query, key and value."""

    bertgpt_name: str
    hf_names: tuple[str, ...]
    transposed: bool = False  # GPT-2's Conv1D stores matrices as (in, out)
    optional: bool = False  # some checkpoints lack it


def layout_of(config: ModelConfig, causal: bool) -> str:
    """The layout of transformers that computes the same: gpt2, bert, modernbert or modernbert-decoder."""

    def matches(family: dict[str, Any]) -> bool:
        return all(
            getattr(config, name) == family.get(name, ModelConfig.model_fields[name].default)
            for name in ARCHITECTURE_FIELDS
        )

    if matches(GPT2) and not config.token_types and not config.local_window and causal:
        return "gpt2"
    if matches(BERT) and config.token_types and not config.local_window and not causal:
        return "bert"
    if matches(MODERNBERT) and not config.token_types:
        return "modernbert-decoder" if causal else "modernbert"
    direction = "causal" if causal else "bidirectional"
    raise BertGPTError("BG218", f"no transformers class matches this {direction} architecture")


def tensor_mappings(config: ModelConfig, layout: str) -> list[TensorMapping]:
    """The mapping of every tensor of a model."""
    return list({"gpt2": gpt2_mappings, "bert": bert_mappings}.get(layout, modernbert_mappings)(config, layout))


def weight_and_bias(
    bertgpt_name: str, hf_name: str, transposed: bool = False, optional: bool = False
) -> Iterator[TensorMapping]:
    """The mappings of a layer's weight and bias."""
    yield TensorMapping(f"{bertgpt_name}.weight", (f"{hf_name}.weight",), transposed, optional)
    yield TensorMapping(f"{bertgpt_name}.bias", (f"{hf_name}.bias",), optional=optional)


def gpt2_mappings(config: ModelConfig, layout: str) -> Iterator[TensorMapping]:
    """Names of GPT2LMHeadModel."""
    yield TensorMapping("token_embedding.weight", ("transformer.wte.weight",))
    yield TensorMapping("position_embedding.weight", ("transformer.wpe.weight",))
    yield from weight_and_bias("final_norm", "transformer.ln_f")
    for i in range(config.layers):
        block, hf_block = f"blocks.{i}", f"transformer.h.{i}"
        yield from weight_and_bias(f"{block}.attention_norm", f"{hf_block}.ln_1")
        yield from weight_and_bias(f"{block}.qkv_proj", f"{hf_block}.attn.c_attn", transposed=True)
        yield from weight_and_bias(f"{block}.out_proj", f"{hf_block}.attn.c_proj", transposed=True)
        yield from weight_and_bias(f"{block}.mlp_norm", f"{hf_block}.ln_2")
        yield from weight_and_bias(f"{block}.up_proj", f"{hf_block}.mlp.c_fc", transposed=True)
        yield from weight_and_bias(f"{block}.down_proj", f"{hf_block}.mlp.c_proj", transposed=True)


def bert_mappings(config: ModelConfig, layout: str) -> Iterator[TensorMapping]:
    """Names of BertForPreTraining."""
    yield TensorMapping("token_embedding.weight", ("bert.embeddings.word_embeddings.weight",))
    yield TensorMapping("position_embedding.weight", ("bert.embeddings.position_embeddings.weight",))
    yield TensorMapping("token_type_embedding.weight", ("bert.embeddings.token_type_embeddings.weight",))
    yield from weight_and_bias("embed_norm", "bert.embeddings.LayerNorm")
    yield from weight_and_bias("mlm_dense", "cls.predictions.transform.dense")
    yield from weight_and_bias("mlm_norm", "cls.predictions.transform.LayerNorm")
    yield TensorMapping("lm_bias", ("cls.predictions.bias",))
    yield from weight_and_bias("pooler", "bert.pooler.dense", optional=True)
    yield from weight_and_bias("nsp_head", "cls.seq_relationship", optional=True)
    for i in range(config.layers):
        block, hf_block = f"blocks.{i}", f"bert.encoder.layer.{i}"
        for kind in ("weight", "bias"):
            names = tuple(f"{hf_block}.attention.self.{name}.{kind}" for name in ("query", "key", "value"))
            yield TensorMapping(f"{block}.qkv_proj.{kind}", names)
        yield from weight_and_bias(f"{block}.out_proj", f"{hf_block}.attention.output.dense")
        yield from weight_and_bias(f"{block}.attention_norm", f"{hf_block}.attention.output.LayerNorm")
        yield from weight_and_bias(f"{block}.up_proj", f"{hf_block}.intermediate.dense")
        yield from weight_and_bias(f"{block}.down_proj", f"{hf_block}.output.dense")
        yield from weight_and_bias(f"{block}.mlp_norm", f"{hf_block}.output.LayerNorm")


def modernbert_mappings(config: ModelConfig, layout: str) -> Iterator[TensorMapping]:
    """Names of ModernBertForMaskedLM and of ModernBertDecoderForCausalLM, whose query, key and value are separate."""
    decoder = layout == "modernbert-decoder"
    head = "lm_head" if decoder else "head"
    yield TensorMapping("token_embedding.weight", ("model.embeddings.tok_embeddings.weight",))
    yield TensorMapping("embed_norm.weight", ("model.embeddings.norm.weight",))
    yield TensorMapping("final_norm.weight", ("model.final_norm.weight",))
    yield TensorMapping("mlm_dense.weight", (f"{head}.dense.weight",))
    yield TensorMapping("mlm_norm.weight", (f"{head}.norm.weight",))
    yield TensorMapping("lm_bias", ("decoder.bias",))
    for i in range(config.layers):
        block, hf_block = f"blocks.{i}", f"model.layers.{i}"
        if i:  # the first block's input is already normalized by embed_norm
            yield TensorMapping(f"{block}.attention_norm.weight", (f"{hf_block}.attn_norm.weight",))
        separate = tuple(f"{hf_block}.attn.{name}_proj.weight" for name in "qkv")
        yield TensorMapping(f"{block}.qkv_proj.weight", separate if decoder else (f"{hf_block}.attn.Wqkv.weight",))
        yield TensorMapping(f"{block}.out_proj.weight", (f"{hf_block}.attn.Wo.weight",))
        yield TensorMapping(f"{block}.mlp_norm.weight", (f"{hf_block}.mlp_norm.weight",))
        yield TensorMapping(f"{block}.up_proj.weight", (f"{hf_block}.mlp.Wi.weight",))
        yield TensorMapping(f"{block}.down_proj.weight", (f"{hf_block}.mlp.Wo.weight",))


def to_hf(config: ModelConfig, layout: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a bertgpt state dict to the names and layout of transformers."""
    hf_state_dict: dict[str, Tensor] = {}
    for mapping in tensor_mappings(config, layout):
        tensor = state_dict[mapping.bertgpt_name]
        parts = tensor.T.chunk(1) if mapping.transposed else tensor.chunk(len(mapping.hf_names))
        hf_state_dict |= {name: part.contiguous() for name, part in zip(mapping.hf_names, parts, strict=True)}
    return hf_state_dict


BODY_PREFIXES = ("transformer.", "bert.", "model.")  # of tensors that do not belong to a head
CLASSIFIER_CLASSES = {
    "gpt2": "GPT2ForSequenceClassification", "bert": "BertForSequenceClassification",
    "modernbert": "ModernBertForSequenceClassification",
    "modernbert-decoder": "ModernBertDecoderForSequenceClassification",
}  # fmt: skip


def classifier_to_hf(config: ModelConfig, layout: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a classifier's state dict: the transformer without its language-modeling heads, and the classifier."""
    prefix = "classifier."
    body = {name.removeprefix("transformer."): t for name, t in state_dict.items() if not name.startswith(prefix)}
    converted = {name.replace("lm_head.", "head."): t for name, t in to_hf(config, layout, body).items()}
    hf_state_dict = {name: tensor for name, tensor in converted.items() if name.startswith((*BODY_PREFIXES, "head."))}
    hf_prefix = "score." if layout == "gpt2" else prefix
    return hf_state_dict | {
        name.replace(prefix, hf_prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)
    }


def classifier_hf_config(
    config: ModelConfig, layout: str, roles: Mapping[str, int], labels: Sequence[str]
) -> dict[str, Any]:
    """The config.json of a classifier in transformers, with its label names; no labels: regression."""
    names = list(labels) or ["LABEL_0"]
    return to_hf_config(config, layout, roles) | {
        "architectures": [CLASSIFIER_CLASSES[layout]], "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)}, "pad_token_id": roles.get("pad", roles["eos"]),
        "problem_type": "single_label_classification" if labels else "regression",
    } | ({"classifier_pooling": "cls"} if layout == "modernbert" else {})  # fmt: skip


def classifier_from_hf(config: ModelConfig, layout: str, hf_state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of a classifier of transformers; the heads that it lacks are left out."""
    hf_prefix = "score." if layout == "gpt2" else "classifier."
    classifier = {name: tensor for name, tensor in hf_state_dict.items() if name.startswith(hf_prefix)}
    body = {name: tensor for name, tensor in hf_state_dict.items() if name not in classifier}
    if layout == "modernbert-decoder":
        body = {f"lm_{name}" if name.startswith("head.") else name: tensor for name, tensor in body.items()}
    state_dict = from_hf(config, layout, body, heads_optional=True)
    return {f"transformer.{name}": tensor for name, tensor in state_dict.items()} | {
        name.replace(hf_prefix, "classifier."): tensor for name, tensor in classifier.items()
    }


def from_hf(
    config: ModelConfig, layout: str, hf_state_dict: Mapping[str, Tensor], heads_optional: bool = False
) -> dict[str, Tensor]:
    """Convert a state dict of transformers to bertgpt's names; missing optional tensors are left out."""
    state_dict: dict[str, Tensor] = {}
    for mapping in tensor_mappings(config, layout):
        missing = [name for name in mapping.hf_names if name not in hf_state_dict]
        is_head = not mapping.hf_names[0].startswith(BODY_PREFIXES)
        if missing and (mapping.optional or (heads_optional and is_head)):
            continue
        if missing:
            raise BertGPTError("BG318", "tensor missing from the model's weights", cause=missing[0])
        tensor = torch.cat([hf_state_dict[name] for name in mapping.hf_names])
        state_dict[mapping.bertgpt_name] = tensor.T.contiguous() if mapping.transposed else tensor
    return state_dict


def to_hf_config(config: ModelConfig, layout: str, roles: Mapping[str, int]) -> dict[str, Any]:
    """The config.json of transformers for a model of this config."""
    eos = roles["eos"]
    ids = {
        "pad_token_id": roles.get("pad"), "bos_token_id": roles.get("cls", eos),
        "eos_token_id": roles.get("sep", eos), "cls_token_id": roles.get("cls"), "sep_token_id": roles.get("sep"),
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
            "embd_pdrop": config.dropout, "attn_pdrop": config.dropout, "bos_token_id": eos, "eos_token_id": eos,
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
    # ModernBertDecoder's causal window excludes its left edge.
    window = 2 * (config.local_window + 1) if decoder else 2 * config.local_window
    ids |= {"bos_token_id": eos, "eos_token_id": eos} if decoder else {}
    return shared | shape | ids | {
        "model_type": layout, "architectures": ["ModernBertDecoderForCausalLM" if decoder else "ModernBertForMaskedLM"],
        "hidden_activation": "gelu", "norm_eps": config.norm_eps, "norm_bias": False, "attention_bias": False,
        "mlp_bias": False, "decoder_bias": True, "classifier_bias": False, "local_attention": window,
        "global_attn_every_n_layers": config.global_every, "global_rope_theta": GLOBAL_THETA,
        "local_rope_theta": LOCAL_THETA, "embedding_dropout": config.dropout, "attention_dropout": config.dropout,
        "mlp_dropout": config.dropout,
    }  # fmt: skip


def from_hf_config(hf_config: Mapping[str, Any]) -> tuple[ModelConfig, str]:
    """The ModelConfig and layout of a config.json of transformers; settings that bertgpt lacks are an error."""
    layout = str(hf_config.get("model_type"))
    readers = {
        "gpt2": gpt2_model_config, "bert": bert_model_config, "modernbert": modernbert_model_config,
        "modernbert-decoder": modernbert_model_config,
    }  # fmt: skip
    if layout not in readers:
        raise BertGPTError("BG218", f"unsupported model type: {layout}", cause=f"supported: {', '.join(readers)}")
    return readers[layout](hf_config), layout


def require(hf_config: Mapping[str, Any], **supported: Any) -> None:
    """Refuse settings that bertgpt does not implement; the first supported value is the default of a missing one."""
    for name, value in supported.items():
        values = value if isinstance(value, tuple) else (value,)
        if hf_config.get(name, values[0]) not in values:
            cause = f"supported: {', '.join(map(str, values))}"
            raise BertGPTError("BG218", f"unsupported setting in config.json: {name} = {hf_config[name]}", cause=cause)


def gpt2_model_config(hf_config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a GPT2Config."""
    require(hf_config, activation_function=("gelu_new", "gelu_pytorch_tanh"), scale_attn_weights=True)
    require(hf_config, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    dim = hf_config["n_embd"]
    return ModelConfig(
        vocab_size=hf_config["vocab_size"], dim=dim, layers=hf_config["n_layer"], heads=hf_config["n_head"],
        ffn_dim=hf_config.get("n_inner") or 4 * dim,
        **(GPT2 | {"max_seq_len": hf_config["n_positions"], "norm_eps": hf_config.get("layer_norm_epsilon", 1e-5)}),
    )  # fmt: skip


def bert_model_config(hf_config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a BertConfig."""
    require(hf_config, hidden_act="gelu", position_embedding_type="absolute", is_decoder=False)
    family = {
        "max_seq_len": hf_config["max_position_embeddings"], "norm_eps": hf_config.get("layer_norm_eps", 1e-12),
        "token_types": hf_config.get("type_vocab_size", 2),
    }  # fmt: skip
    return ModelConfig(**common_shape(hf_config), **(BERT | family))


def modernbert_model_config(hf_config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a ModernBertConfig or ModernBertDecoderConfig."""
    require(hf_config, hidden_activation="gelu", norm_bias=False, attention_bias=False, mlp_bias=False)
    require(hf_config, classifier_bias=False, decoder_bias=True)
    if hf_config.get("architectures") == [CLASSIFIER_CLASSES["modernbert"]]:
        require(hf_config, classifier_pooling="cls")
    ropes = hf_config.get("rope_parameters") or {}
    for kind, name, theta in (
        ("full_attention", "global_rope_theta", GLOBAL_THETA),
        ("sliding_attention", "local_rope_theta", LOCAL_THETA),
    ):
        require({name: hf_config.get(name, ropes.get(kind, {}).get("rope_theta", theta))}, **{name: theta})
    half = hf_config.get("local_attention", 128) // 2
    family = {
        "max_seq_len": hf_config["max_position_embeddings"], "norm_eps": hf_config.get("norm_eps", 1e-5),
        "local_window": half - 1 if hf_config["model_type"] == "modernbert-decoder" else half,
        "global_every": hf_config.get("global_attn_every_n_layers", 3),
    }  # fmt: skip
    return ModelConfig(**common_shape(hf_config), **(MODERNBERT | family))


def common_shape(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that BertConfig and ModernBertConfig name alike."""
    names = {
        "vocab_size": "vocab_size", "dim": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
        "ffn_dim": "intermediate_size",
    }  # fmt: skip
    return {name: hf_config[hf_name] for name, hf_name in names.items()}
