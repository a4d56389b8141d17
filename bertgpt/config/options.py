"""The options of the commands that use a model or inspect files: type, default, bounds, help and help panel."""

from typing import Literal

from bertgpt.config.fields import (
    DEVICE,
    MAX_SEED,
    MODEL,
    OVERWRITE,
    REVISION,
    TEXT_COLUMN,
    Count,
    Device,
    Options,
    StrList,
    argument,
    option,
)

Suite = Literal[
    "agnews", "probe", "lm", "mlm", "hellaswag", "lambada", "blimp", "cloze", "tinyworld", "all", "sst2", "cola",
    "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "imdb", "topic", "sentiment", "acceptability", "predict",
    "compare",
]  # fmt: skip
Precision = Literal["fp32", "bf16", "fp16"]
PrefixToken = Literal["none", "eos"]

# An option of `eval` and `generate`.
PRECISION = option(
    "Run",
    "fp32",
    "Precision of weights and activations; bf16 and fp16 are faster, but results then vary slightly with what else is "
    "in the batch.",
)
PREFIX_TOKEN = option(
    "Model",
    None,
    "Token before each prompt or context of a causal model: an end token, or none.",
    note="default: eos, none for imported models",
)


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
    folders: list[str] = argument("[A B]", [], "Two folders of results, for compare only.")
    data: str | None = option(
        "Data",
        None,
        "Texts to evaluate on. Required for lm and mlm (a file, a folder or tinyworld) and for probe, cloze and "
        "predict (a file); for a published suite, a folder with its files.",
        metavar="PATH",
        note="default: published suites from the Hugging Face Hub",
    )
    test_data: str | None = option(
        "Data", None, "Test file, for probe only.", metavar="PATH", note="default: a held-out fifth of --data"
    )
    text_column: str = TEXT_COLUMN
    pair_column: str | None = option(
        "Data",
        None,
        "Column that holds the second text of a pair, for predict only.",
        metavar="NAME",
        note="default: single texts",
    )
    label_column: str = option("Data", "label", "Column that holds the label.", metavar="NAME")
    revision: str | None = REVISION
    limit: int | None = option(
        "Data", None, "Evaluate on at most this many items; the result is marked PARTIAL.", ge=1, note="default: all"
    )
    model: str | None = option(
        "Model", None, f"Model to evaluate: {MODEL}", metavar="MODEL", note="required, except for compare"
    )
    prefix_token: PrefixToken | None = PREFIX_TOKEN
    stride: int | None = option(
        "Evaluation",
        None,
        "For lm: number of tokens by which the window slides; only the new ones are scored, the others are context.",
        ge=1,
        note="default: the window length, no overlap",
    )
    full: bool = option(
        "Evaluation",
        False,
        "For the linear probes (agnews, probe): choose the regularization by five-fold cross-validation, and add a "
        "learning curve and a probe of each layer. Slower.",
    )
    out: str | None = option(
        "Run",
        None,
        "Folder for the results; for predict, the csv, jsonl or parquet file to write, which is required.",
        metavar="PATH",
        note="default: results/RUN",
    )
    device: Device = DEVICE
    precision: Precision = PRECISION


class GenerateOptions(Options):
    """Generate text with a GPT, or fill masks with a BERT.

    A GPT continues prompts: from --prompt, from a file, from standard input, or an empty prompt. A BERT predicts each
    [MASK] of a prompt, or the tokens masked in --mask-text. A hybrid does both. In fp32, the same seed gives the
    same text, whatever else is generated in the same batch.
    """

    command = "generate"
    examples = (
        'bertgpt generate --model runs/gpt --prompt "There was a" --max-new-tokens 20 --num-samples 2',
        'bertgpt generate --model runs/bert --prompt "The dog [MASK] in the garden."',
        'bertgpt generate --model runs/bert --mask-text "There was a hard frost in the old clock shop of the town."',
    )

    prompt: StrList = option("Data", [], "Prompt to continue, or a text with [MASK] to fill; repeatable.")
    prompts_file: str | None = option(
        "Data", None, "File with one prompt per line, in addition to --prompt.", metavar="PATH"
    )
    mask_text: str | None = option(
        "Data", None, "Mask 15% of the tokens of this text or text file, and predict them.", metavar="TEXT|PATH"
    )
    truncate: bool = option(
        "Data", True, "Truncate prompts longer than the context from the left, instead of rejecting them."
    )
    model: str | None = option("Model", None, f"Model to generate with: {MODEL}", metavar="MODEL", note="required")
    prefix_token: PrefixToken | None = PREFIX_TOKEN
    num_samples: int = option("Sampling", 1, "Number of samples per prompt.", ge=1, le=100_000)
    max_new_tokens: Count = option("Sampling", 200, "Maximum number of tokens to generate per sample.", ge=0)
    temperature: float = option("Sampling", 0.8, "Sampling temperature; 0 is greedy decoding.", ge=0)
    top_k: int = option("Sampling", 0, "Sample from the k most likely tokens only; 0 samples from all.", ge=0)
    top_p: float = option(
        "Sampling",
        1.0,
        "Sample from the smallest set of most likely tokens whose total probability is at least p; 1 samples from all.",
        gt=0,
        le=1,
    )
    repetition_penalty: float = option(
        "Sampling", 1.0, "Values above 1 make tokens that occurred before less likely.", gt=0
    )
    stop: StrList = option("Sampling", [], "Text that ends a sample and is not part of it; repeatable.")
    candidates: int = option("Sampling", 5, "Number of candidates shown for each mask.", ge=1, le=100)
    logprobs: bool = option("Sampling", False, "Show the log probability of each token, as color and number.")
    seed: int = option("Run", 1337, "Random seed for sampling and masking.", ge=0, lt=MAX_SEED)
    device: Device = DEVICE
    precision: Precision = PRECISION


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
    doc: int | None = option(
        "Data",
        None,
        "Index of one document, counted from 0 in all files, or of one row of a mask plan, to show token by token.",
        ge=0,
    )
    docs: int = option(
        "Data",
        3,
        "Number of tinyworld documents or examples, or of rows of a mask plan, to show; at most 1000.",
        ge=0,
        le=1000,
    )
    start: int = option("Data", 0, "First of the --docs documents or rows to show, counted from 0.", ge=0, le=10**9)
    task: Literal["topic", "sentiment", "acceptability", "pairs", "endings", "cloze"] | None = option(
        "Data", None, "Show examples of this tinyworld task, instead of documents."
    )
    split: Literal["train", "dev", "val", "test"] | None = option(
        "Data",
        None,
        "Split to show: train or dev of a tinyworld --task; train, val or test of a mask plan.",
        note="default: dev of a task, train of a mask plan",
    )
    contamination: Literal["agnews", "probe", "hellaswag", "lambada", "blimp", "cloze"] | None = option(
        "Evaluation", None, "Count the items of this suite that share 13 consecutive words with the shards."
    )
    data: str | None = option(
        "Evaluation",
        None,
        "File or folder with the items of the --contamination suite; required for probe and cloze.",
        metavar="PATH",
        note="default: from the Hugging Face Hub",
    )
    seed: int = option(
        "Run",
        0,
        "Seed of tinyworld; each seed is a different world, and the other commands use world 0.",
        ge=0,
        lt=MAX_SEED,
    )
    verify: bool = option("Run", False, "Verify the checksums of all files again, also of those verified before.")


class ExportOptions(Options):
    """Export shards as flat binary files, or a model for transformers.

    bin writes one file of token ids per split, which nanoGPT and its descendants read. hf writes a model folder for
    transformers and, where that is installed, checks that it computes the same logits.
    """

    command = "export"
    examples = ("bertgpt export work/tw --out work/bin", "bertgpt export work/tw --to bin --out work/bin --overwrite")

    path: str = argument("PATH", ..., "Folder of shards, or a model.")
    to: Literal["hf", "bin"] | None = option(
        "Data", None, "Format to write.", note="default: bin for shards, hf for a model"
    )
    out: str = option("Run", ..., "Output folder to create.", metavar="PATH")
    overwrite: bool = OVERWRITE


class ImportOptions(Options):
    """Import a Hugging Face transformers model: GPT-2, BERT or ModernBERT.

    Reads safetensors only. The model may have language model heads or none. The result is a run, which every command
    accepts.
    """

    command = "import"
    examples = (
        "bertgpt import work/hf --out runs/theirs --overwrite",
        "bertgpt import work/hf --out runs/theirs --overwrite --json",
    )

    source: str = argument("SOURCE", ..., "Folder of a transformers model, or its name on the Hugging Face Hub.")
    out: str = option("Run", ..., "Run directory to create.", metavar="PATH")
    overwrite: bool = option("Run", False, "Replace an existing run; without this, an existing run is an error.")


class NewOptions(Options):
    """Write a starter project: a DVC pipeline that trains and compares a GPT and a BERT.

    It works with an installed package, without a clone of the repository: dvc.yaml, params.yaml and a README.
    """

    command = "new"
    examples = ("bertgpt new work/project", "bertgpt new work/another --json")

    folder: str = argument("DIR", ..., "Folder to create; an existing one must be empty.")


class ReportOptions(Options):
    """Write an HTML report on runs: training curves, evaluations, samples, data and configuration.

    The page is one file without external resources. Fine-tuned runs appear beside the run that they started from. The
    table of results is also printed.
    """

    command = "report"
    examples = ("bertgpt report", "bertgpt report runs/gpt runs/bert --out work/report.html")

    runs: list[str] = argument("[RUN...]", [], "Run directories.", note="default: all in runs/")
    results: str = option("Data", "results", "Folder with the results of eval, one subfolder per run.", metavar="PATH")
    out: str = option("Run", "report.html", "HTML file to write.", metavar="PATH")
    metrics_dir: str | None = option(
        "Run",
        None,
        "Also write the scores of each run into this folder as RUN.json, for dvc metrics.",
        metavar="PATH",
        note="default: not written",
    )
