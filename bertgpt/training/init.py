"""How weights begin, as each paper has it, and that none is forgotten."""

import math

import torch
from torch import nn

from bertgpt.config.presets import ModelConfig
from bertgpt.model import Transformer

INIT_STD = 0.02  # in all of them


def init_model(config: ModelConfig, seed: int) -> Transformer:
    """A model that knows nothing yet."""
    model = Transformer(config)
    for weight in model.parameters():
        weight.data.fill_(math.nan)
    init_weights(model, torch.Generator().manual_seed(seed))
    forgotten = [name for name, weight in model.named_parameters() if weight.isnan().any()]
    assert not forgotten, f"nobody initialised {', '.join(forgotten)}"
    return model


@torch.no_grad()
def init_weights(model: Transformer, draws: torch.Generator) -> None:
    """As each paper has it.

    | init | matrices and embeddings         | the two projections of a block that are added to the residual |
    |------|---------------------------------|---------------------------------------------------------------|
    | gpt2 | normal, 0.02                    | the same over the root of how many of them there are          |
    | bert | normal, 0.02, cut at two of it  | the same                                                      |
    | zero | normal, 0.02                    | zero: every block begins as the identity                      |

    Biases are zero, norms one.
    """
    init = model.config.init
    for name, weight in model.named_parameters():
        added = name.endswith(("out_proj.weight", "down_proj.weight"))
        if weight.ndim == 1:
            weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        elif init == "zero" and added:
            weight.zero_()
        elif init == "bert":
            nn.init.trunc_normal_(weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD, generator=draws)
        else:
            std = INIT_STD / math.sqrt(2 * model.config.layers) if init == "gpt2" and added else INIT_STD
            weight.normal_(std=std, generator=draws)
    model.token_embedding.weight[model.config.vocab_size :] = 0
