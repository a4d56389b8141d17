"""The options of `pretrain` and `finetune`: type, default, bounds, help and help panel, each defined once."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from bertgpt.config.fields import (
    DEVICE,
    MAX_SEED,
    MODEL,
    REVISION,
    TEXT_COLUMN,
    Count,
    Device,
    Duration,
    Options,
    argument,
    option,
)
from bertgpt.config.presets import PRESETS

Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear", "wsd", "constant"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]

# Options of both commands.
OPTIMIZER = option(
    "Optimization", "adamw", "Optimizer of the weight matrices; AdamW always updates all other parameters."
)
GRAD_CLIP = option("Optimization", 1.0, "Maximum gradient norm; larger gradients are rescaled to it.", gt=0)
LOG_EVERY = option("Checkpoints and logging", 10, "Steps between lines of metrics.jsonl.", ge=1)
PRECISION = option(
    "Run", "auto", "Precision of matrix products; auto is bf16 where supported, else fp32. Weights stay fp32."
)
OVERWRITE = option(
    "Run", False, "Delete an existing run and start over; without this, it is resumed if its options are the same."
)
OVERWRITE_IF_CHANGED = option(
    "Run", False, "Start an existing run over if its options have changed, else resume it; meant for pipelines."
)


class PretrainOptions(Options):
    """Pretrain a model from scratch: GPT on shards, BERT on a mask plan, or both at once (hybrid).

    An interrupted run resumes when the same command is run again, and ends in the same weights, bit for bit (on CUDA
    with --deterministic).
    """

    command = "pretrain"
    examples = (
        "bertgpt pretrain work/tw --preset tiny-gpt --seq-len 64 --tokens-per-step 512 --max-steps 4 --out runs/gpt",
        "bertgpt pretrain work/plan --preset tiny-bert --tokens-per-step 1024 --max-steps 4 --out runs/bert",
        "bertgpt pretrain work/plan --preset tiny-bert --dry-run --out runs/bert",
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {name: preset.training for name, preset in PRESETS.items()}
    alternatives = ("max_steps", "max_tokens", "max_time", "epochs")

    data: str = argument("DATA", ..., "Folder of shards, or a mask plan written by bertgpt mask.")
    seq_len: int = option(
        "Data",
        256,
        "Length of causal rows in tokens; rows of a mask plan keep the length that mask gave them.",
        ge=8,
        le=32768,
    )
    cross_document_attention: bool | None = option(
        "Data",
        None,
        "Let tokens of causal rows attend to other documents in the same row.",
        note="default: the preset's",
    )
    preset: str | None = option(
        "Model",
        None,
        'Model shape, which also sets the default of every option marked "the preset\'s". One of '
        f"{', '.join(PRESETS)}.",
        metavar="NAME",
        note="required, unless --init is given",
    )
    objective: Literal["clm", "mlm", "hybrid"] | None = option(
        "Model",
        None,
        "Training objective: causal (clm) or masked (mlm) language modeling, or both (hybrid). The first needs shards, "
        "the others a mask plan.",
        note="default: the preset's",
    )
    mlm_ratio: float = option(
        "Model", 0.5, "Share of each batch made up of masked rows; only for --objective hybrid.", gt=0, lt=1
    )
    init: str | None = option(
        "Model",
        None,
        "Start from the architecture and weights of this run, checkpoint or transformers model.",
        metavar="MODEL",
        note="default: random weights",
    )
    embedding_init: Literal["random", "ppmi"] = option(
        "Model",
        "random",
        "Initialize embeddings at random, or by factorizing the positive pointwise mutual information (PPMI) of "
        "tokens.",
    )
    tokenizer: str | None = option(
        "Model",
        None,
        "Use the tokenizer of this mask plan, made from the same shards, so that a GPT shares the vocabulary of a "
        "BERT, with [MASK].",
        metavar="PATH",
        note="default: the tokenizer of DATA",
    )
    dropout: float = option("Model", 0.0, "Dropout probability.", ge=0, lt=1)
    optimizer: Optimizer = OPTIMIZER
    lr: float = option("Optimization", 1e-3, "Peak learning rate.", gt=0)
    embedding_lr_scale: float = option(
        "Optimization",
        1.0,
        "Learning rate of embeddings and heads as a multiple of --lr; only with --optimizer muon.",
        ge=0,
        le=1,
    )
    weight_decay: float = option("Optimization", 0.1, "Weight decay of the weight matrices.", ge=0)
    beta2: float = option("Optimization", 0.95, "Adam's beta2.", gt=0, lt=1)
    grad_clip: float = GRAD_CLIP
    tokens_per_step: Count = option(
        "Optimization", 16_384, "Tokens per optimizer step, summed over all devices.", ge=1, le=10**9
    )
    micro_batch_size: int = option(
        "Optimization", 0, "Rows per forward pass on each device; 0 takes as many as fit into 32,768 tokens.", ge=0
    )
    activation_checkpointing: bool = option(
        "Optimization", False, "Recompute activations in the backward pass: less memory, slower."
    )
    max_steps: int | None = option("Schedule", None, "Train for this many steps, instead of --epochs.", ge=1)
    max_tokens: Count | None = option(
        "Schedule", None, "Train for this many tokens, rounded up to whole steps, instead of --epochs.", ge=1
    )
    max_time: Duration | None = option(
        "Schedule", None, "Train for about this long, such as 90s, 10m or 1.5h, instead of --epochs.", gt=0
    )
    epochs: float = option(
        "Schedule",
        1.0,
        "Train for this many passes over the data. Give at most one of --epochs, --max-steps, --max-tokens and "
        "--max-time.",
        gt=0,
        le=1e6,
    )
    schedule: Schedule = option(
        "Schedule",
        "cosine",
        "Learning rate after warmup; wsd (warmup-stable-decay) is constant and decays over the last 20%.",
    )
    warmup: int = option("Schedule", 50, "Length of the linear warmup of the learning rate, in steps.", ge=0)
    min_lr_ratio: float = option("Schedule", 0.1, "Final learning rate as a fraction of --lr.", ge=0, le=1)
    eval_every: int = option("Evaluation", 250, "Steps between evaluations on the validation split.", ge=1)
    eval_tokens: Count = option(
        "Evaluation", 500_000, "Number of validation tokens to evaluate on, the same ones each time.", ge=1
    )
    eval: Literal["hellaswag"] | None = option(
        "Evaluation", None, "Also score this benchmark every --eval-every steps.", note="default: none"
    )
    eval_data: str | None = option(
        "Evaluation",
        None,
        "Folder with the published files of the dataset of --eval.",
        metavar="PATH",
        note="default: from the Hugging Face Hub",
    )
    probe: Literal["agnews"] | None = option(
        "Evaluation", None, "Also train a linear probe on this task every --probe-every steps.", note="default: none"
    )
    probe_every: int = option("Evaluation", 200, "Steps between linear probes.", ge=1)
    probe_data: str | None = option(
        "Evaluation",
        None,
        "Folder with the published files of the dataset of --probe.",
        metavar="PATH",
        note="default: from the Hugging Face Hub",
    )
    eval_items: Count = option(
        "Evaluation", 2000, "Number of items that --eval and --probe use: the first ones of their dataset.", ge=10
    )
    save_every: int = option("Checkpoints and logging", 500, "Steps between checkpoints.", ge=1)
    log_every: int = LOG_EVERY
    sample_every: int = option(
        "Checkpoints and logging", 0, "Steps between samples in samples.txt; 0 writes none.", ge=0
    )
    tensorboard: bool = option("Checkpoints and logging", False, "Write TensorBoard logs too.")
    out: str = option("Run", ..., "Run directory to create, or to resume.", metavar="PATH")
    seed: int = option("Run", 1337, "Random seed for initial weights, data order and dropout.", ge=0, lt=MAX_SEED)
    device: Device = DEVICE
    precision: Precision = PRECISION
    compile: bool | None = option("Run", None, "Compile the training step.", note="default: on CUDA only")
    deterministic: bool = option(
        "Run",
        False,
        "Use deterministic algorithms, so that repeated and resumed runs end in the same weights on CUDA or with "
        "--compile too; slower.",
    )
    overwrite: bool = OVERWRITE
    overwrite_if_changed: bool = OVERWRITE_IF_CHANGED
    dry_run: bool = option(
        "Run", False, "Print the model size, the estimated memory and the number of steps, then exit."
    )


class FinetuneOptions(Options):
    """Fine-tune a model for classification or regression.

    TASK is a GLUE task (sst2, cola, mrpc, stsb, qqp, mnli, qnli, rte, wnli), agnews, imdb, a tinyworld task (topic,
    sentiment, acceptability), or a csv, tsv, jsonl or parquet file of labeled texts. Checkpoints are selected on a
    validation split of the training texts; test data is never used for model selection. An interrupted run
    resumes where it was.
    """

    command = "finetune"
    examples = (
        "bertgpt finetune acceptability --model runs/bert --limit 200 --max-steps 4 --out runs/judge",
        "bertgpt finetune topic --model runs/gpt --limit 200 --max-steps 4 --freeze-layers 2 --out runs/desk",
    )

    task: str = argument("TASK", ..., "Name of a task, or a file of labeled texts.")
    data: str | None = option(
        "Data",
        None,
        "Folder with the published files of a named TASK.",
        metavar="PATH",
        note="default: from the Hugging Face Hub",
    )
    test_data: str | None = option(
        "Data", None, "Test file, if TASK is a file.", metavar="PATH", note="default: a held-out fifth of TASK"
    )
    text_column: str = TEXT_COLUMN
    pair_column: str | None = option(
        "Data", None, "Column that holds the second text of a pair.", metavar="NAME", note="default: single texts"
    )
    label_column: str = option("Data", "label", "Column that holds the label: a class or a number.", metavar="NAME")
    problem_type: Literal["auto", "classification", "regression"] = option(
        "Data", "auto", "Whether labels are classes or numbers to predict; auto infers it from the labels."
    )
    revision: str | None = REVISION
    limit: int | None = option(
        "Data",
        None,
        "Use at most this many texts of each split; the result is marked PARTIAL.",
        ge=10,
        note="default: all",
    )
    val_fraction: float = option(
        "Data", 0.05, "Fraction of the training texts to validate on, for selecting checkpoints.", gt=0, lt=1
    )
    seq_len: int | None = option(
        "Data", None, "Truncate texts to this many tokens.", ge=8, le=32768, note="default: the model's maximum"
    )
    model: str = option("Model", ..., f"Model to fine-tune: {MODEL}", metavar="MODEL")
    freeze_layers: int = option(
        "Model", 0, "Freeze the embeddings and this many of the first layers; 0 freezes nothing.", ge=0
    )
    dropout: float = option("Model", 0.1, "Dropout probability.", ge=0, lt=1)
    optimizer: Optimizer = OPTIMIZER
    lr: float = option(
        "Optimization", 3e-4, "Peak learning rate; models of about 100M parameters or more need 1e-5 to 5e-5.", gt=0
    )
    layerwise_lr_decay: float = option(
        "Optimization", 1.0, "Learning rate of each layer as a fraction of that of the layer above it.", gt=0, le=1
    )
    weight_decay: float = option("Optimization", 0.01, "Weight decay of the weight matrices.", ge=0)
    beta2: float = option("Optimization", 0.999, "Adam's beta2.", gt=0, lt=1)
    grad_clip: float = GRAD_CLIP
    batch_size: int = option("Optimization", 32, "Texts per optimizer step, summed over all devices.", ge=1)
    micro_batch_size: int = option(
        "Optimization", 0, "Texts per forward pass on each device; 0 takes the whole batch.", ge=0
    )
    epochs: float = option("Schedule", 3.0, "Train for this many passes over the training texts.", gt=0, le=1e6)
    max_steps: int | None = option("Schedule", None, "Train for this many steps, instead of --epochs.", ge=1)
    schedule: Schedule = option(
        "Schedule",
        "linear",
        "Learning rate after warmup; wsd (warmup-stable-decay) is constant and decays over the last 20%.",
    )
    warmup_ratio: float = option(
        "Schedule", 0.06, "Length of the linear warmup of the learning rate, as a fraction of all steps.", ge=0, le=1
    )
    min_lr_ratio: float = option("Schedule", 0.0, "Final learning rate as a fraction of --lr.", ge=0, le=1)
    eval_every: int = option(
        "Evaluation", 0, "Steps between evaluations on the validation split; 0 evaluates four times per epoch.", ge=0
    )
    random_baseline: bool = option(
        "Evaluation", True, "Also fine-tune the same architecture from random weights, as a baseline."
    )
    log_every: int = LOG_EVERY
    out: str = option("Run", ..., "Output folder to create, or to resume.", metavar="PATH")
    seeds: int = option("Run", 1, "Number of runs, with the seeds --seed, --seed + 1 and so on.", ge=1, le=100)
    seed: int = option(
        "Run", 1337, "Random seed of the first run, for the initial head, data order and dropout.", ge=0, lt=MAX_SEED
    )
    device: Device = DEVICE
    precision: Precision = PRECISION
    deterministic: bool = option(
        "Run",
        False,
        "Use deterministic algorithms, so that repeated and resumed runs end in the same weights on CUDA too; slower.",
    )
    overwrite: bool = OVERWRITE
    overwrite_if_changed: bool = OVERWRITE_IF_CHANGED
    dry_run: bool = option("Run", False, "Print the number of texts and steps and the model size, then exit.")
