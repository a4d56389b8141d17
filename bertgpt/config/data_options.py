"""The options of `tokenize`, `shard` and `mask`: type, default, bounds, help and help panel, each defined once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from bertgpt.config.corpora import CORPORA
from bertgpt.config.fields import MAX_SEED, OVERWRITE, TEXT_COLUMN, Count, Options, argument, option

# Options of several commands.
WORKERS = option("Run", 0, "Number of worker processes; 0 starts one per core.", ge=0, le=1024)
DRY_RUN = option("Run", False, "Print what would be read and written, then exit without writing anything.")


class TextOptions(Options):
    """What `tokenize` and `shard` have in common: how text is read and tokenized."""

    kind: ClassVar[str]  # of artifact

    sources: list[str] = argument(
        "SOURCE...",
        [],
        "Files, globs or folders of txt, jsonl, csv, parquet or arrow (also .gz and .zst), local or at https://, s3:// "
        "or gs://; a named corpus (shard --list); hf:org/name, a dataset on the Hugging Face Hub; or tinyworld. Append "
        "=0.25 to sample a quarter of its documents.",
        note="required",
    )
    subset: str | None = option(
        "Data", None, "Subset of a named corpus or of hf:org/name, such as sample-100BT or 20231101.de.", metavar="NAME"
    )
    split: str | None = option(
        "Data", None, "Split of hf:org/name to read.", metavar="NAME", note="default: all splits"
    )
    revision: str | None = option(
        "Data", None, "Branch, tag or commit of hf:org/name.", metavar="REV", note="default: the main branch"
    )
    text_column: str = TEXT_COLUMN
    txt_documents: Literal["blank-line", "file"] = option(
        "Data", "blank-line", "How txt files are split into documents: at blank lines, or one document per file."
    )
    separator: str | None = option(
        "Data", None, "String that separates documents in txt files, instead of --txt-documents.", min_length=1
    )
    limit_docs: Count | None = option("Data", None, "Stop after this many documents.", ge=1, note="default: all")
    limit_tokens: Count | None = option(
        "Data", None, "Stop after the document that reaches this many tokens.", ge=1, note="default: all"
    )
    limit_bytes: Count | None = option(
        "Data", None, "Stop after the document that reaches this many bytes.", ge=1, note="default: all"
    )
    max_doc_bytes: Count = option(
        "Data", 100_000_000, "Maximum size of a document in bytes; a longer one is bad data.", ge=1
    )
    on_error: Literal["stop", "skip", "replace"] | None = option(
        "Data",
        None,
        "What to do with bad data: stop with an error, skip the document, or replace invalid bytes.",
        note="default: stop, but skip for data from the hub",
    )
    tokenizer: str | None = option(
        "Tokenizer",
        None,
        "Tokenizer to use: gpt2, or a tokenizer folder, tokenizer.json or vocab.txt. Required unless "
        "--train-tokenizer is given, or SOURCE is a named corpus or already tokenized.",
        metavar="NAME|PATH",
        note="default: gpt2 for a named corpus",
    )
    train_tokenizer: Literal["bpe", "wordpiece"] | None = option(
        "Tokenizer", None, "Train a tokenizer of this type on the text, instead of --tokenizer."
    )
    vocab_size: Count | None = option(
        "Tokenizer",
        None,
        "Number of tokens in the vocabulary of the trained tokenizer.",
        ge=300,
        le=1 << 24,
        note="required with --train-tokenizer",
    )
    train_bytes: Count = option(
        "Tokenizer", 50_000_000, "Bytes of text to train the tokenizer on, sampled across all of the text.", ge=1000
    )
    out: str | None = option(
        "Run",
        None,
        "Output folder; required unless SOURCE is a single named corpus, hf:org/name or tinyworld.",
        metavar="PATH",
        note="default: data/{kind}/NAME",
    )
    workers: int = WORKERS
    task_index: int | None = option(
        "Run",
        None,
        "Only tokenize the part of the text that falls to this task of an array job; tasks count from 0.",
        ge=0,
        note="default: all of the text",
    )
    num_tasks: int | None = option(
        "Run",
        None,
        "Number of tasks that the text is divided among.",
        ge=1,
        le=100_000,
        note="required with --task-index",
    )
    finalize: bool = option(
        "Run",
        False,
        "Write the output from what the array job has tokenized; run once after all tasks, with the same options "
        "except --task-index.",
    )
    overwrite: bool = OVERWRITE
    dry_run: bool = DRY_RUN

    @classmethod
    def preset_of(cls, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
        """A named corpus is a preset of tokenizer, shard size and output folder."""
        sources = values.get("sources")
        name = sources[0] if isinstance(sources, list) and len(sources) == 1 else None
        corpus = CORPORA.get(name) if isinstance(name, str) else None
        if corpus is None or Path(str(name)).exists():
            return None
        preset: dict[str, Any] = {"out": f"data/{cls.kind}/{name}"}
        if "train_tokenizer" not in values:
            preset["tokenizer"] = corpus.tokenizer
        if "shard_tokens" in cls.model_fields:
            preset["shard_tokens"] = corpus.shard_tokens
        return str(name), preset


class TokenizeOptions(TextOptions):
    """Tokenize text into Arrow files of token ids.

    Uses an existing tokenizer or trains one on the text. Documents stay in order and get no special tokens. A killed
    command resumes when it is run again, and writes the same bytes as one that was never interrupted.
    """

    command = "tokenize"
    kind = "tokens"
    examples = (
        "bertgpt tokenize tinyworld --limit-docs 2k --train-tokenizer bpe --vocab-size 1024 --out work/tokens",
        "bertgpt tokenize tinyworld --limit-docs 2k --train-tokenizer wordpiece --vocab-size 800 --dry-run",
    )


class ShardOptions(TextOptions):
    """Build shuffled train, val and test shards from text or tokenized files.

    Drops exact duplicates, assigns documents to splits by their hash and shuffles them. The same texts, tokenizer and
    options give the same bytes, whatever the number of workers, the order of the files or restarts.
    """

    command = "shard"
    kind = "shards"
    examples = (
        "bertgpt shard tinyworld --limit-docs 2k --train-tokenizer bpe --vocab-size 1024 --shard-tokens 100k "
        "--out work/tw",
        "bertgpt shard work/tokens --out work/shards --shard-tokens 50k --val-fraction 0.02",
        "bertgpt shard --list",
    )

    shard_tokens: Count = option(
        "Data",
        100_000_000,
        "Approximate number of tokens per shard.",
        ge=1000,
        note="default: 100M, or as the named corpus sets it",
    )
    val_fraction: float = option("Data", 0.005, "Fraction of the documents in the validation split.", ge=0, lt=1)
    test_fraction: float = option("Data", 0.0, "Fraction of the documents in the test split.", ge=0, lt=1)
    dedup: bool = option("Data", True, "Drop documents that are exact duplicates of earlier ones.")
    seed: int = option("Run", 1337, "Random seed for the split and the shuffle.", ge=0, lt=MAX_SEED)
    repair: str | None = option("Run", None, "Rebuild the corrupt files of this folder from SOURCE.", metavar="PATH")
    list: bool = option("Run", False, "List the named corpora and exit; needs no SOURCE.")


SUM = "--mask-prob, --random-prob and --keep-prob must add up to 1."


class MaskOptions(Options):
    """Build a mask plan: the rows of text that BERT trains on.

    Splits documents at word boundaries into pieces, adds [CLS] and [SEP], and packs pieces into rows. Masks are
    drawn when the rows are read, new ones in each epoch, and depend only on the seed, the epoch and the row.
    """

    command = "mask"
    examples = (
        "bertgpt mask work/tw --out work/plan --seq-len 128",
        "bertgpt mask work/tw --out work/pairs --sentence-pairs nsp --scheme whole-word --dry-run",
    )

    shards: str = argument("SHARDS", ..., "Folder of shards.")
    seq_len: int = option("Data", 128, "Length of a row in tokens, including [CLS] and [SEP].", ge=8, le=32768)
    sentence_pairs: Literal["none", "nsp", "sop"] = option(
        "Data", "none", "Sentence pairs for next sentence prediction (nsp) or sentence order prediction (sop)."
    )
    scheme: Literal["token", "whole-word", "span"] = option(
        "Data", "token", "Unit of masking: single tokens, whole words, or spans of words."
    )
    mlm_probability: float = option(
        "Data",
        0.15,
        "Fraction of the tokens of each row, special ones aside, that is selected for prediction.",
        gt=0,
        lt=1,
    )
    mask_prob: float = option(
        "Data", 0.8, f"Probability that a selected token is replaced by [MASK]. {SUM}", ge=0, le=1
    )
    random_prob: float = option(
        "Data", 0.1, f"Probability that a selected token is replaced by a random token. {SUM}", ge=0, le=1
    )
    keep_prob: float = option("Data", 0.1, f"Probability that a selected token is left unchanged. {SUM}", ge=0, le=1)
    pack: bool = option("Data", True, "Pack several pieces into a row; they do not attend to each other.")
    static: bool = option("Data", False, "Draw the masks once and store them, instead of redrawing them in each epoch.")
    dupe_factor: int = option(
        "Data",
        1,
        "With --static: number of epochs that get masks of their own, before the masks repeat.",
        ge=1,
        le=1000,
    )
    out: str = option("Run", ..., "Output folder.", metavar="PATH")
    seed: int = option("Run", 1337, "Random seed for sentence pairs and masks.", ge=0, lt=MAX_SEED)
    workers: int = WORKERS
    overwrite: bool = OVERWRITE
    dry_run: bool = DRY_RUN
