"""Options and values that were renamed: old to new for each command, so that an error can name the new one.

Names are as typed, without the leading dashes.
"""

_OVERWRITE = {"fresh": "overwrite"}
_TOKENIZER = _OVERWRITE | {"train": "train-tokenizer"}
_TRAINING = _OVERWRITE | {
    "fresh-if-changed": "overwrite-if-changed",
    "micro-batch": "micro-batch-size",
    "lr-floor": "min-lr-ratio",
    "clip": "grad-clip",
}

RENAMED_OPTIONS: dict[str, dict[str, str]] = {
    "tokenize": _TOKENIZER,
    "shard": _TOKENIZER,
    "mask": _OVERWRITE
    | {
        "pair": "sentence-pairs",
        "rate": "mlm-probability",
        "mask-share": "mask-prob",
        "random-share": "random-prob",
        "keep-share": "keep-prob",
        "copies": "dupe-factor",
        "materialize": "static",
    },
    "pretrain": _TRAINING
    | {
        "embeddings": "embedding-init",
        "embedding-init counts": "embedding-init ppmi",
        "objective causal": "objective clm",
        "objective masked": "objective mlm",
        "ratio": "mlm-ratio",
        "documents": "cross-document-attention (joined) or --no-cross-document-attention (apart)",
        "around": "embedding-lr-scale",
        "recompute": "activation-checkpointing",
    },
    "finetune": _TRAINING
    | {
        "warmup": "warmup-ratio",
        "kind": "problem-type",
        "problem-type classes": "problem-type classification",
        "problem-type numbers": "problem-type regression",
        "held-out": "val-fraction",
        "layer-decay": "layerwise-lr-decay",
        "freeze": "freeze-layers",
    },
    "generate": {"show-masked": "mask-text"},
    "inspect": {"against": "contamination"},
    "export": _OVERWRITE,
    "import": _OVERWRITE,
    "report": {"figures": "metrics-dir"},
}
