"""The model: logits equal to transformers, attention masks, KV cache, initialization, and counts."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bertgpt.config.presets import BERT, GPT2, MODERNBERT, PRESETS, ModelConfig, make_config
from bertgpt.data.loading.classification import EncodedExample
from bertgpt.hub.mapping import classifier_to_hf, from_hf, layout_of, to_hf, to_hf_config
from bertgpt.inference.classify import predict_logits
from bertgpt.model import KVCache, Transformer
from bertgpt.training.init import init_model
from bertgpt.utils.errors import BertGPTError
from tests.fixtures.models import random_classifier, random_model

V, D, L, H = 320, 64, 4, 4
ROLES = {"pad": 0, "cls": 1, "sep": 2, "mask": 3, "eos": 4}
FAMILIES = {"gpt2": GPT2, "bert": BERT, "modern": MODERNBERT | {"local_window": 8}}


def config_of(family: str) -> ModelConfig:
    return make_config(D, L, H, V, FAMILIES[family] | {"max_seq_len": 128}, ffn_dim=96)


def model_of(family: str) -> Transformer:
    model = random_model(config_of(family))
    with torch.no_grad():
        model.token_embedding.weight[V:] = 0
    return model


def random_ids(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(5, V, (rows, length), generator=torch.Generator().manual_seed(seed))


def hf_model(model: Transformer, causal: bool) -> Any:
    """The same parameters in the class of transformers."""
    import transformers

    layout = layout_of(model.config, causal)
    config = transformers.AutoConfig.for_model(**to_hf_config(model.config, layout, ROLES))
    hf = getattr(transformers, config.architectures[0])(config)
    keys = hf.load_state_dict(to_hf(model.config, layout, model.state_dict()), strict=False)
    tied = ("lm_head.weight", "decoder.weight", "decoder.bias")
    assert not keys.unexpected_keys
    assert [key for key in keys.missing_keys if not key.endswith(tied)] == []
    hf.tie_weights()
    return hf.eval()


PARITY = [("gpt2", True), ("bert", False), ("modern", False), ("modern", True)]


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 7, 100, 128])
@pytest.mark.parametrize(("family", "causal"), PARITY)
def test_logits_equal_transformers(family: str, causal: bool, length: int) -> None:
    model = model_of(family)
    hf = hf_model(model, causal)
    input_ids = random_ids(3, length)
    kwargs: dict[str, Tensor] = {}
    if family == "bert":
        kwargs = {"token_type_ids": (torch.arange(length) > length // 2).long().expand(3, -1)}
    hidden = model(input_ids, causal=causal, **kwargs)
    expected = hf(input_ids, **kwargs)
    logits = expected.prediction_logits if family == "bert" else expected.logits
    assert (model.logits(hidden) - logits).abs().max() < 1e-4
    if family == "bert":
        assert (model.nsp_logits(hidden[:, 0]) - expected.seq_relationship_logits).abs().max() < 1e-4
        pooled = hf.bert(input_ids, **kwargs).pooler_output
        assert (model.pool(hidden[:, 0]) - pooled).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("family", "causal"), PARITY)
def test_padded_batches_equal_transformers(family: str, causal: bool) -> None:
    model = model_of(family)
    ids, lengths = random_ids(3, 60), torch.tensor([60, 33, 5])
    is_token = torch.arange(60) < lengths[:, None]
    hidden = model(ids, causal=causal, document_ids=is_token.long())
    expected = hf_model(model, causal)(ids, attention_mask=is_token.long())
    logits = expected.prediction_logits if family == "bert" else expected.logits
    assert (model.logits(hidden) - logits)[is_token].abs().max() < 1e-4


@pytest.mark.parametrize(("family", "causal"), PARITY)
def test_state_dict_round_trip_with_transformers(family: str, causal: bool) -> None:
    model = model_of(family)
    layout = layout_of(model.config, causal)
    again = Transformer(model.config)
    again.load_state_dict(from_hf(model.config, layout, to_hf(model.config, layout, model.state_dict())))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert len(model.state_dict()["token_embedding.weight"]) == V


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_equal_separate_rows(family: str, causal: bool) -> None:
    model = model_of(family)
    one, two = random_ids(1, 40), random_ids(1, 56, seed=2)
    row = torch.cat((one, two), dim=1)
    documents = torch.tensor([[0] * 40 + [1] * 56])
    positions = torch.cat((torch.arange(40), torch.arange(56)))[None]
    packed = model(row, causal=causal, document_ids=documents, position_ids=positions)
    alone = torch.cat((model(one, causal=causal), model(two, causal=causal)), dim=1)
    assert (packed - alone).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_kv_cache_equals_one_pass(family: str) -> None:
    model = model_of(family)
    ids = random_ids(2, 40)
    expected = model(ids, causal=True)
    for first in (1, 5, 20, 39, 40):
        cache = KVCache(model.config, 2, 48, expected)
        parts = [model(ids[:, :first], causal=True, cache=cache)]
        second = (first + 40) // 2  # several positions at once, then one by one
        if second > first:
            parts.append(model(ids[:, first:second], causal=True, cache=cache))
        parts += [model(ids[:, i : i + 1], causal=True, cache=cache) for i in range(max(first, second), 40)]
        assert (torch.cat(parts, dim=1) - expected).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_kv_cache_with_left_padding(family: str) -> None:
    """Prompts of unequal length; the padding does not change the hidden states."""
    model = model_of(family)
    long, short = random_ids(1, 30), random_ids(1, 18, seed=2)
    ids = torch.cat((long, torch.cat((torch.zeros((1, 12), dtype=torch.long), short), dim=1)))
    documents = torch.tensor([[1] * 30, [0] * 12 + [1] * 18])
    positions = torch.stack((torch.arange(30), (torch.arange(30) - 12).clamp(min=0)))
    cache = KVCache(model.config, 2, 30, model.token_embedding.weight)
    first = model(ids[:, :20], causal=True, document_ids=documents[:, :20], position_ids=positions[:, :20], cache=cache)
    parts = [first]
    for i in range(20, 30):
        some = slice(i, i + 1)
        parts.append(
            model(
                ids[:, some], causal=True, document_ids=documents[:, some], position_ids=positions[:, some], cache=cache
            )
        )
    both = torch.cat(parts, dim=1)
    assert (both[0] - model(long, causal=True)[0]).abs().max() < 1e-5
    assert (both[1, 12:] - model(short, causal=True)[0]).abs().max() < 1e-5
    with pytest.raises(AssertionError, match="in every call with a cache, or none"):
        model(ids[:, :1], causal=True, position_ids=positions[:, :1], cache=cache)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_causal_attention_does_not_see_later_tokens(family: str) -> None:
    model = model_of(family)
    ids = random_ids(2, 64)
    other = ids.clone()
    other[:, 30] = (other[:, 30] + 1) % V
    assert torch.equal(model(ids, causal=True)[:, :30], model(other, causal=True)[:, :30])
    assert not torch.equal(model(ids, causal=False)[:, 25], model(other, causal=False)[:, 25])


def test_output_hidden_states() -> None:
    model = model_of("bert")
    states = model(random_ids(2, 10), causal=False, output_hidden_states=True)
    assert len(states) == L + 1
    assert torch.equal(states[-1], model(random_ids(2, 10), causal=False))


# ------------------------------------------------------------------------------- configurations and initialization


def num_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        return Transformer(config).num_parameters()


def test_number_of_parameters() -> None:
    assert num_parameters(PRESETS["gpt2"].model) == 124_439_808
    assert num_parameters(PRESETS["gpt2-medium"].model) == 354_823_168
    assert num_parameters(PRESETS["bert-base"].model) == 110_106_428  # BertForPreTraining
    assert abs(num_parameters(PRESETS["tiny-bert"].model) - 1.4e6) < 0.1e6
    assert abs(num_parameters(PRESETS["tiny-gpt"].model) - 1.4e6) < 0.1e6


def test_encoders_and_decoders_have_the_same_shape() -> None:
    for size in ("tiny", "mini", "small", "base"):
        assert PRESETS[f"modern-bert-{size}"].model == PRESETS[f"modern-gpt-{size}"].model
    for one, other in (("bert-small", "gpt2-small"), ("bert-base", "gpt2"), ("tiny-bert", "tiny-gpt")):
        a, b = PRESETS[one].model, PRESETS[other].model
        assert (a.dim, a.layers, a.heads, a.ffn_dim) == (b.dim, b.layers, b.heads, b.ffn_dim)


@pytest.mark.parametrize("family", FAMILIES)
def test_init_follows_the_papers(family: str) -> None:
    model = init_model(config_of(family), seed=3)
    weights = dict(model.named_parameters())
    assert torch.equal(
        weights["blocks.1.qkv_proj.weight"],
        dict(init_model(config_of(family), 3).named_parameters())["blocks.1.qkv_proj.weight"],
    )
    assert not torch.equal(
        weights["blocks.1.qkv_proj.weight"],
        dict(init_model(config_of(family), 4).named_parameters())["blocks.1.qkv_proj.weight"],
    )
    residual, other = weights["blocks.1.down_proj.weight"], weights["blocks.1.up_proj.weight"]
    assert other.std().item() == pytest.approx(0.0176 if family == "bert" else 0.02, rel=0.03)
    if family == "gpt2":
        assert residual.std().item() == pytest.approx(0.02 / (2 * L) ** 0.5, rel=0.05)
    if family == "bert":
        assert other.abs().max() <= 0.04
    if family == "modern":
        assert not residual.any()
    assert not model.token_embedding.weight[V:].any()
    assert all((weight == 1).all() for name, weight in weights.items() if name.endswith("norm.weight"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "dim must be divisible by heads"),
        ({"dim": 60, "heads": 4}, "RoPE needs an even head dimension"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_invalid_configs_are_rejected(change: dict[str, Any], message: str) -> None:
    with pytest.raises((BertGPTError, ValueError), match=message):
        ModelConfig(**(config_of("modern").model_dump() | change))


def test_rows_longer_than_max_seq_len() -> None:
    with pytest.raises(BertGPTError, match="sequence length exceeds max_seq_len"):
        model_of("gpt2")(random_ids(1, 129), causal=True)


@torch.no_grad()
@pytest.mark.parametrize(("family", "causal"), PARITY)
def test_classifier_logits_equal_transformers(family: str, causal: bool) -> None:
    import transformers

    model = random_classifier(model_of(family), causal)
    layout = layout_of(model.config, causal)
    config = transformers.AutoConfig.for_model(**to_hf_config(model.config, layout, ROLES), num_labels=3)
    config.pad_token_id = 0
    hf = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    hf.load_state_dict(classifier_to_hf(model.config, layout, model.state_dict()))
    ids, length = random_ids(3, 20), torch.tensor([20, 11, 5])
    ids[torch.arange(20) >= length[:, None]] = 0
    expected = hf(ids, attention_mask=(ids != 0).long()).logits
    examples = [EncodedExample(row[:size].tolist(), size) for row, size in zip(ids, length, strict=True)]
    assert np.abs(predict_logits(model, examples, torch.device("cpu")) - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_equals_sdpa(device: str, family: str, causal: bool) -> None:
    """On CPUs it has no backward; there only hidden states are compared."""
    model, ids = model_of(family).to(device), random_ids(2, 128).to(device)
    documents = (torch.arange(128, device=device) > torch.tensor([[50], [90]], device=device)).long()
    for document_ids in (None, documents):
        results = []
        for kernel in ("sdpa", "flex"):
            model.kernel = kernel
            model.zero_grad()
            with torch.set_grad_enabled(device == "cuda"):
                hidden = model(ids, causal=causal, document_ids=document_ids)
            if device == "cuda":
                hidden.square().sum().backward()
            grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            results.append([hidden.detach(), *grads])
        for result, expected in zip(*results, strict=True):
            assert torch.allclose(result, expected, atol=1e-4 if device == "cpu" else 1e-2)


def test_flex_attention_has_no_dropout() -> None:
    model = Transformer(ModelConfig(**(config_of("gpt2").model_dump() | {"dropout": 0.1}))).train()
    model.kernel = "flex"
    with pytest.raises(BertGPTError, match="no dropout"):
        model(random_ids(1, 128), causal=True)


def test_flops_and_memory_estimates() -> None:
    """GPT-2's FLOPs as nanoGPT counts them; local attention and masked tokens need fewer."""
    with torch.device("meta"):
        gpt2, bert = Transformer(PRESETS["gpt2"].model), Transformer(PRESETS["bert-base"].model)
        local = Transformer(PRESETS["modern-gpt-tiny"].model)
        without_local = Transformer(local.config.model_copy(update={"local_window": 0}))
    without_positions = 124_439_808 - 1024 * 768
    assert gpt2.flops_per_token(1024) == pytest.approx(6 * without_positions + 12 * 12 * 768 * 1024, rel=1e-3)
    assert without_local.flops_per_token(8192) - local.flops_per_token(8192) == 12 * 256 * 4 * (8192 - 129)
    assert bert.flops_per_token(128, target_fraction=0.15) < 0.87 * bert.flops_per_token(128)
    assert 16 * 124_439_808 < gpt2.estimate_training_memory(8, 1024) < 12e9
