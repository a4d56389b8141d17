"""The options of the commands about models: type, default, bounds, help and help panel, each defined once."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from bertgpt.config.fields import MAX_SEED, Count, Duration, Options, StrList, argument, option
from bertgpt.config.presets import PRESETS

Suite = Literal[
    "agnews", "probe", "lm", "mlm", "hellaswag", "lambada", "blimp", "cloze", "tinyworld", "all", "sst2", "cola",
    "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "imdb", "topic", "sentiment", "acceptability", "predict",
    "compare",
]  # fmt: skip
Device = Literal["auto", "cuda", "mps", "cpu"]
Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear", "wsd", "constant"]


class PretrainOptions(Options):
    """Pretrain a model from scratch: GPT on shards, BERT on a mask plan, or both at once (hybrid).

    An interrupted run resumes when the same command is run again, and ends in the same weights, bit for bit.
    """

    command = "pretrain"
    examples = (
        "bertgpt pretrain work/tw --preset tiny-gpt --seq-len 64 --tokens-per-step 512 --max-steps 4 --out runs/gpt",
        "bertgpt pretrain work/plan --preset tiny-bert --tokens-per-step 1024 --max-steps 4 --out runs/bert",
        "bertgpt pretrain work/plan --preset tiny-bert --dry-run --out runs/bert",
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {name: preset.training for name, preset in PRESETS.items()}
    alternatives = ("max_steps", "max_tokens", "max_time", "epochs")

    data: str = argument("DATA", ..., "Folder of shards, or a mask plan.")
    seq_len: int = option(
        "Data", 256, "Sequence length of causal rows, in tokens; a mask plan has its own.", ge=8, le=32768
    )
    cross_document_attention: bool | None = option(
        "Data", None, "Let tokens attend to other documents in the same row; the default depends on the preset."
    )
    preset: str | None = option(
        "Model", None, f"Model shape with its training defaults: {', '.join(PRESETS)}.", metavar="NAME"
    )
    objective: Literal["clm", "mlm", "hybrid"] | None = option(
        "Model", None, "Training objective: causal or masked language modeling, or both; the default is the preset's."
    )
    mlm_ratio: float = option("Model", 0.5, "Fraction of masked rows in a batch of --objective hybrid.", gt=0, lt=1)
    init: str | None = option(
        "Model", None, "Initialize from the weights of this run, and take its shape.", metavar="RUN"
    )
    embedding_init: Literal["random", "ppmi"] = option(
        "Model", "random", "Initialize embeddings at random, or by factorizing the PPMI of token co-occurrences."
    )
    tokenizer: str | None = option(
        "Model", None, "Extend the vocabulary to that of this mask plan, made from the same shards.", metavar="PATH"
    )
    dropout: float = option("Model", 0.0, "Dropout probability.", ge=0, lt=1)
    optimizer: Optimizer = option(
        "Optimization", "adamw", "Optimizer of the weight matrices; AdamW updates all other parameters."
    )
    lr: float = option("Optimization", 1e-3, "Peak learning rate.", gt=0)
    embedding_lr_scale: float = option(
        "Optimization", 1.0, "Learning rate of embeddings and heads, as a fraction of --lr, with Muon.", ge=0, le=1
    )
    weight_decay: float = option("Optimization", 0.1, "Weight decay of the weight matrices.", ge=0)
    beta2: float = option("Optimization", 0.95, "Adam's beta2.", gt=0, lt=1)
    grad_clip: float = option("Optimization", 1.0, "Clip the gradient norm to this.", gt=0)
    tokens_per_step: Count = option("Optimization", 16_384, "Global batch size in tokens.", ge=1)
    micro_batch_size: int = option(
        "Optimization", 0, "Rows per forward pass on each device; 0 takes about 32k tokens.", ge=0
    )
    activation_checkpointing: bool = option(
        "Optimization", False, "Recompute activations in the backward pass: less memory, slower."
    )
    max_steps: int | None = option("Schedule", None, "Train for this many steps.", ge=1)
    max_tokens: Count | None = option("Schedule", None, "Train for this many tokens.", ge=1)
    max_time: Duration | None = option(
        "Schedule", None, "Train for this long, such as 10m; the first 20 steps set the number of steps.", gt=0
    )
    epochs: float = option("Schedule", 1.0, "Train for this many passes over the data.", gt=0)
    schedule: Schedule = option("Schedule", "cosine", "Learning rate decay after warmup.")
    warmup: int = option("Schedule", 50, "Linear warmup of the learning rate, in steps.", ge=0)
    min_lr_ratio: float = option("Schedule", 0.1, "Final learning rate as a fraction of --lr.", ge=0, le=1)
    eval_every: int = option("Evaluation", 250, "Steps between validations.", ge=1)
    eval_tokens: Count = option("Evaluation", 500_000, "Number of validation tokens, the same ones each time.", ge=1)
    eval: Literal["hellaswag"] | None = option("Evaluation", None, "Score this benchmark at each validation.")
    eval_data: str | None = option(
        "Evaluation", None, "Folder with the benchmark's files, instead of the hub.", metavar="PATH"
    )
    probe: Literal["agnews"] | None = option("Evaluation", None, "Train a linear probe on this task during training.")
    probe_every: int = option("Evaluation", 200, "Steps between linear probes.", ge=1)
    probe_data: str | None = option(
        "Evaluation", None, "Folder with the task's files, instead of the hub.", metavar="PATH"
    )
    eval_items: Count = option(
        "Evaluation", 2000, "Number of items of the benchmark and of the probe, the first ones.", ge=10
    )
    save_every: int = option("Checkpoints and logging", 500, "Steps between checkpoints.", ge=1)
    log_every: int = option("Checkpoints and logging", 10, "Steps between lines of metrics.jsonl.", ge=1)
    sample_every: int = option(
        "Checkpoints and logging", 0, "Steps between samples in samples.txt; 0 writes none.", ge=0
    )
    tensorboard: bool = option("Checkpoints and logging", False, "Write TensorBoard logs too.")
    out: str = option("Run", ..., "Run directory, new or to be resumed.", metavar="PATH")
    seed: int = option("Run", 1337, "Random seed of initial weights, data order and dropout.", ge=0, lt=MAX_SEED)
    device: Device = option("Run", "auto", "Device to train on.")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "Run", "auto", "Precision of matrix products; weights stay fp32, and auto is bf16 where supported."
    )
    compile: bool | None = option("Run", None, "Compile the training step; the default is to compile on CUDA.")
    deterministic: bool = option(
        "Run", False, "Use deterministic algorithms: identical results on CUDA or compiled, slower."
    )
    overwrite: bool = option("Run", False, "Overwrite an existing run.")
    overwrite_if_changed: bool = option(
        "Run", False, "Overwrite an existing run only if it has different options; meant for pipelines."
    )
    dry_run: bool = option("Run", False, "Print size, memory and steps of the run, then exit without training.")


class FinetuneOptions(Options):
    """Fine-tune a model for classification or regression.

    TASK is a GLUE task (sst2, cola, mrpc, stsb, qqp, mnli, qnli, rte, wnli), agnews, imdb, a tinyworld task (topic,
    sentiment, acceptability), or a csv, tsv, jsonl or parquet file of labelled texts. Checkpoints are selected on a
    validation split of the training texts; test data is never used for model selection. Interrupted seeds resume.
    """

    command = "finetune"
    examples = (
        "bertgpt finetune acceptability --model runs/bert --limit 200 --max-steps 4 --out runs/judge",
        "bertgpt finetune topic --model runs/gpt --limit 200 --max-steps 4 --freeze-layers 2 --out runs/desk",
    )

    task: str = argument("TASK", ..., "Name of a task, or a file of labelled texts.")
    data: str | None = option(
        "Data", None, "Folder with the published files of a task, instead of the hub.", metavar="PATH"
    )
    test_data: str | None = option(
        "Data", None, "Test file for a TASK that is a file; by default a fifth of the file.", metavar="PATH"
    )
    text_column: str = option("Data", "text", "Column that holds the text.", metavar="NAME")
    pair_column: str | None = option("Data", None, "Column that holds the second text of a pair.", metavar="NAME")
    label_column: str = option("Data", "label", "Column that holds the label: a class or a number.", metavar="NAME")
    problem_type: Literal["auto", "classification", "regression"] = option(
        "Data", "auto", "Type of problem; auto infers it from the labels."
    )
    revision: str | None = option("Data", None, "Commit of the dataset on the hub.", metavar="REV")
    limit: int | None = option("Data", None, "Use at most this many texts; the result is marked PARTIAL.", ge=10)
    val_fraction: float = option(
        "Data", 0.05, "Fraction of the training texts to validate on, for selecting checkpoints.", gt=0, lt=1
    )
    seq_len: int | None = option(
        "Data", None, "Truncate texts to this many tokens; the default is the model's sequence length.", ge=8, le=32768
    )
    model: str = option(
        "Model", ..., "Model to fine-tune: a run, its final/, a checkpoint, or a transformers model.", metavar="MODEL"
    )
    freeze_layers: int = option("Model", 0, "Freeze the embeddings and this many of the first layers.", ge=0)
    dropout: float = option("Model", 0.1, "Dropout probability.", ge=0, lt=1)
    optimizer: Optimizer = option(
        "Optimization", "adamw", "Optimizer of the weight matrices; AdamW updates all other parameters."
    )
    lr: float = option("Optimization", 3e-4, "Peak learning rate; large models need about a tenth of it.", gt=0)
    layerwise_lr_decay: float = option(
        "Optimization", 1.0, "Learning rate of each layer relative to the layer above it.", gt=0, le=1
    )
    weight_decay: float = option("Optimization", 0.01, "Weight decay of the weight matrices.", ge=0)
    beta2: float = option("Optimization", 0.999, "Adam's beta2.", gt=0, lt=1)
    grad_clip: float = option("Optimization", 1.0, "Clip the gradient norm to this.", gt=0)
    batch_size: int = option("Optimization", 32, "Global batch size in texts.", ge=1)
    micro_batch_size: int = option("Optimization", 0, "Texts per forward pass; 0 takes the whole batch.", ge=0)
    epochs: float = option("Schedule", 3.0, "Train for this many passes over the training texts.", gt=0)
    max_steps: int | None = option("Schedule", None, "Train for this many steps, instead of --epochs.", ge=1)
    schedule: Schedule = option("Schedule", "linear", "Learning rate decay after warmup.")
    warmup: float = option("Schedule", 0.06, "Linear warmup, as a fraction of the steps.", ge=0, le=1)
    min_lr_ratio: float = option("Schedule", 0.0, "Final learning rate as a fraction of --lr.", ge=0, le=1)
    eval_every: int = option("Evaluation", 0, "Steps between validations; 0 is four times an epoch.", ge=0)
    random_baseline: bool = option("Evaluation", True, "Fine-tune the same model from random weights as a baseline.")
    log_every: int = option("Checkpoints and logging", 10, "Steps between lines of metrics.jsonl.", ge=1)
    out: str = option("Run", ..., "Output folder, new or to be resumed.", metavar="PATH")
    seeds: int = option("Run", 1, "Number of runs with different heads and data order.", ge=1, le=100)
    seed: int = option(
        "Run", 1337, "First random seed; it sets the initial head, data order and dropout.", ge=0, lt=MAX_SEED
    )
    device: Device = option("Run", "auto", "Device to train on.")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "Run", "auto", "Precision of matrix products; weights stay fp32, and auto is bf16 where supported."
    )
    deterministic: bool = option("Run", False, "Use deterministic algorithms: identical results on CUDA, slower.")
    overwrite: bool = option("Run", False, "Overwrite existing runs.")
    overwrite_if_changed: bool = option(
        "Run", False, "Overwrite existing runs only if they have different options; meant for pipelines."
    )
    dry_run: bool = option("Run", False, "Print texts, steps and size of the run, then exit without training.")


class EvalOptions(Options):
    """Evaluate a model on a benchmark, with confidence intervals and baselines.

    SUITE is agnews or probe (linear probe), lm (perplexity), mlm (masked accuracy), hellaswag, lambada, blimp, cloze,
    tinyworld (everything, against the true distribution) or all; a task of finetune such as sst2, for a fine-tuned
    model; predict, which writes predicted labels to a file; or compare, which compares two folders of results. The
    answer to every item is saved.
    """

    command = "eval"
    examples = (
        "bertgpt eval tinyworld --model runs/gpt --limit 20",
        "bertgpt eval mlm --model runs/bert --data tinyworld --limit 20 --out results/bert",
    )

    suite: Suite = argument("SUITE", ..., "Benchmark to evaluate on, as listed above.")
    folders: list[str] = argument("[A B]", [], "Two folders of results for compare.")
    data: str | None = option(
        "Data", None, "File or folder in the layout it was published in, instead of the hub.", metavar="PATH"
    )
    test_data: str | None = option("Data", None, "Test file for probe; by default a fifth of --data.", metavar="PATH")
    text_column: str = option("Data", "text", "Column that holds the text.", metavar="NAME")
    pair_column: str | None = option(
        "Data", None, "Column that holds the second text of a pair, for predict.", metavar="NAME"
    )
    label_column: str = option("Data", "label", "Column that holds the label.", metavar="NAME")
    revision: str | None = option("Data", None, "Commit of the dataset on the hub.", metavar="REV")
    limit: int | None = option("Data", None, "Evaluate on at most this many items; the result is marked PARTIAL.", ge=1)
    model: str | None = option(
        "Model", None, "Model to evaluate: a run, its final/, a checkpoint, or a transformers model.", metavar="MODEL"
    )
    stride: int | None = option(
        "Evaluation", None, "Tokens that each window of lm scores; by default the whole window.", ge=1
    )
    full: bool = option(
        "Evaluation", False, "Probe more regularization strengths with five folds, and a learning curve."
    )
    out: str | None = option(
        "Run", None, "Folder of results, by default results/RUN; for predict a file.", metavar="PATH"
    )
    device: Device = option("Run", "auto", "Device to evaluate on.")
    precision: Literal["fp32", "bf16", "fp16"] = option("Run", "fp32", "Precision of weights and activations.")


class GenerateOptions(Options):
    """Generate text with a GPT, or fill masks with a BERT.

    A GPT continues prompts: from --prompt, from a file, from standard input, or the empty one. A BERT predicts each
    [MASK] of a prompt, or the tokens masked in --mask-text. A hybrid does both. The same seed gives the same text,
    whatever else is generated in the same batch.
    """

    command = "generate"
    examples = (
        'bertgpt generate --model runs/gpt --prompt "There was a" --max-new-tokens 20 --num-samples 2',
        'bertgpt generate --model runs/bert --prompt "The dog [MASK] in the garden."',
        'bertgpt generate --model runs/bert --mask-text "There was a hard frost in the old clock shop of the town."',
    )

    prompt: StrList = option("Data", [], "Prompt to continue, or a text with [MASK] to fill; repeatable.")
    prompts_file: str | None = option("Data", None, "File with one prompt per line.", metavar="PATH")
    mask_text: str | None = option(
        "Data", None, "Text or file of which 15 % is masked and predicted.", metavar="TEXT|PATH"
    )
    truncate: bool = option("Data", True, "Truncate long prompts from the left, instead of rejecting them.")
    model: str | None = option(
        "Model",
        None,
        "Model to generate with: a run, its final/, a checkpoint, or a transformers model.",
        metavar="MODEL",
    )
    num_samples: int = option("Sampling", 1, "Number of samples per prompt.", ge=1, le=100_000)
    max_new_tokens: Count = option("Sampling", 200, "Maximum number of generated tokens.", ge=0)
    temperature: float = option("Sampling", 0.8, "Sampling temperature; 0 is greedy decoding.", ge=0)
    top_k: int = option("Sampling", 0, "Sample from this many most likely tokens; 0 uses all.", ge=0)
    top_p: float = option(
        "Sampling", 1.0, "Sample from the most likely tokens that have this probability together.", gt=0, le=1
    )
    repetition_penalty: float = option("Sampling", 1.0, "Penalty above 1 makes repeated tokens less likely.", gt=0)
    stop: StrList = option("Sampling", [], "String that ends a sample and is left out of it; repeatable.")
    candidates: int = option("Sampling", 5, "Number of candidates shown for each mask.", ge=1, le=100)
    logprobs: bool = option("Sampling", False, "Show the log probability of each token, as colour and number.")
    seed: int = option("Run", 1337, "Random seed of sampling and masking.", ge=0, lt=MAX_SEED)
    device: Device = option("Run", "auto", "Device to run on.")
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "Run", "fp32", "Precision of weights and activations; bf16 is faster, but samples may depend on the batch."
    )


class InspectOptions(Options):
    """Inspect a folder that a command wrote, or the built-in corpus.

    Shows the contents of a folder and the lengths of its documents, and verifies its files; --doc shows one document
    token by token. A mask plan shows rows with their masked tokens. tinyworld shows documents with their exact negative
    log-likelihood, or examples of its tasks.
    """

    command = "inspect"
    examples = (
        "bertgpt inspect tinyworld --docs 1 --start 41 --seed 7",
        "bertgpt inspect tinyworld --task cloze --docs 2 --json",
        "bertgpt inspect work/tw --verify",
    )

    path: str = argument("PATH", ..., "Folder that a command wrote, or tinyworld.")
    doc: int | None = option("Data", None, "Show this document of a folder, or this row of a mask plan.", ge=0)
    docs: int = option(
        "Data", 3, "Number of tinyworld documents or mask plan rows to show, at most 1000.", ge=0, le=1000
    )
    start: int = option("Data", 0, "Index of the first document or row to show.", ge=0, le=10**9)
    task: Literal["topic", "sentiment", "acceptability", "pairs", "endings", "cloze"] | None = option(
        "Data", None, "Show examples of this tinyworld task, instead of documents."
    )
    split: Literal["train", "dev", "val", "test"] | None = option(
        "Data", None, "Split to show; by default dev of a task and train of a mask plan."
    )
    contamination: Literal["agnews", "probe", "hellaswag", "lambada", "blimp", "cloze"] | None = option(
        "Evaluation", None, "Count the items of this suite that share 13 consecutive words with the shards."
    )
    data: str | None = option(
        "Evaluation", None, "Files of the suite for --contamination, instead of the hub.", metavar="PATH"
    )
    seed: int = option("Run", 0, "Random seed of tinyworld; each seed is a different world.", ge=0, lt=MAX_SEED)
    verify: bool = option("Run", False, "Verify all checksums, also of files that were verified before.")


class ExportOptions(Options):
    """Export shards as flat binary files, or a model for transformers.

    bin writes one file of token ids per split, which nanoGPT and its descendants read. hf writes a model folder for
    transformers and, where that is installed, checks that it computes the same logits.
    """

    command = "export"
    examples = ("bertgpt export work/tw --out work/bin", "bertgpt export work/tw --to bin --out work/bin --overwrite")

    path: str = argument("PATH", ..., "Folder of shards, or a model.")
    to: Literal["hf", "bin"] | None = option(
        "Data", None, "Format to write; by default bin for shards and hf for a model."
    )
    out: str = option("Run", ..., "Output folder.", metavar="PATH")
    overwrite: bool = option("Run", False, "Overwrite an output with different options.")


class ImportOptions(Options):
    """Import a model of transformers: GPT-2, BERT or ModernBERT.

    Reads safetensors only. The model may have language model heads or none. The result is a run, which every command
    accepts.
    """

    command = "import"
    examples = (
        "bertgpt import work/hf --out runs/theirs --overwrite",
        "bertgpt import work/hf --out runs/theirs --overwrite --json",
    )

    source: str = argument("SOURCE", ..., "Folder of transformers, or the name of a model on the hub.")
    out: str = option("Run", ..., "Run directory to create.", metavar="PATH")
    overwrite: bool = option("Run", False, "Overwrite an existing run.")


class ReportOptions(Options):
    """Write an HTML report on runs: training curves, evaluations, samples, data and configuration.

    The page is one file without external resources. Fine-tuned runs appear beside the run that they started from. The
    table of results is also printed.
    """

    command = "report"
    examples = ("bertgpt report", "bertgpt report runs/gpt runs/bert --out work/report.html")

    runs: list[str] = argument("[RUN...]", [], "Run directories; by default all in runs/.")
    results: str = option("Data", "results", "Folder where eval wrote its results, one folder per run.", metavar="PATH")
    out: str = option("Run", "report.html", "HTML file to write.", metavar="PATH")
    metrics_dir: str | None = option(
        "Run", None, "Folder for the scores of each run as flat JSON files, for dvc metrics.", metavar="PATH"
    )
