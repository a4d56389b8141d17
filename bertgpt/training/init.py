"""Weight initialization of each model family, with a check that every parameter is initialized."""

import math

import torch
from torch import nn

from bertgpt.config.presets import ModelConfig
from bertgpt.model import Transformer

INIT_STD = 0.02


def init_model(config: ModelConfig, seed: int) -> Transformer:
    """A randomly initialized model."""
    model = Transformer(config)
    for parameter in model.parameters():
        parameter.data.fill_(math.nan)
    init_weights(model, torch.Generator().manual_seed(seed))
    missing = [name for name, parameter in model.named_parameters() if parameter.isnan().any()]
    assert not missing, f"parameters not initialized: {', '.join(missing)}"
    return model


@torch.no_grad()
def init_weights(model: Transformer, generator: torch.Generator) -> None:
    """Initialize all parameters in place. `config.init` chooses the scheme, for a model of L layers:

    | init | embeddings and matrices                  | residual projections (out_proj, down_proj)         |
    |------|------------------------------------------|----------------------------------------------------|
    | gpt2 | normal(0.02)                             | normal(0.02), scaled by 1/sqrt(2L)                 |
    | bert | normal(0.02), truncated at 2 std         | the same                                           |
    | zero | normal(0.02)                             | zero, so that every block starts as the identity   |

    Biases are 0, norm weights 1, padding rows of the token embedding 0.
    """
    init = model.config.init
    for name, parameter in model.named_parameters():
        is_residual = name.endswith(("out_proj.weight", "down_proj.weight"))
        if parameter.ndim == 1:
            parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        elif init == "zero" and is_residual:
            parameter.zero_()
        elif init == "bert":
            truncated_normal_(parameter, INIT_STD, generator)
        else:
            std = INIT_STD / math.sqrt(2 * model.config.layers) if init == "gpt2" and is_residual else INIT_STD
            parameter.normal_(std=std, generator=generator)
    model.token_embedding.weight[model.config.vocab_size :] = 0


def truncated_normal_(parameter: nn.Parameter, std: float, generator: torch.Generator) -> None:
    """Draw from a normal distribution, and again what is beyond two standard deviations.

    `nn.init.trunc_normal_` draws other values in other versions of torch.
    """
    parameter.normal_(std=std, generator=generator)
    while (outside := parameter.abs() > 2 * std).any():
        parameter.copy_(
            torch.where(outside, torch.empty_like(parameter).normal_(std=std, generator=generator), parameter)
        )
