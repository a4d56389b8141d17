"""Options: the one place where each is defined, with its type, default, bounds and help."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bertgpt.config.corpora import CORPORA
from bertgpt.config.fields import Count, Duration, Options, PositionalArgument, StrList
from bertgpt.config.presets import PRESETS

Suite = Literal[
    "agnews", "probe", "lm", "mlm", "hellaswag", "lambada", "blimp", "cloze", "tinyworld", "all", "sst2", "cola",
    "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "imdb", "topic", "sentiment", "acceptability", "predict",
    "compare",
]  # fmt: skip


class TextOptions(Options):
    """What `tokenize` and `shard` have in common: how text is read and becomes ids."""

    kind: ClassVar[str]  # of artefact

    sources: Annotated[list[str], PositionalArgument("SOURCE...")] = Field(
        [],
        description="Files, globs or folders of txt, jsonl, csv, parquet or arrow (also .gz, .zst), here or at an "
        "address (https://, s3://, gs://); a corpus by its name (shard --list); hf:org/name; or tinyworld. "
        "SOURCE=0.25 takes a quarter of its documents.",
    )
    out: str | None = Field(None, description="The folder to make; data/tokens/NAME or data/shards/NAME of a corpus.")
    subset: str | None = Field(None, description="Another part of a corpus, such as sample-100BT or 20231101.de.")
    split: str | None = Field(None, description="Only this split of hf:org/name.")
    revision: str | None = Field(None, description="A branch, tag or commit of hf:org/name.")
    tokenizer: str | None = Field(None, description="gpt2, or the folder or file of a tokenizer.")
    train_tokenizer: Literal["bpe", "wordpiece"] | None = Field(
        None, description="Train a tokenizer on the source instead."
    )
    vocab_size: Count | None = Field(None, ge=300, le=1 << 24, description="How many tokens the trained one has.")
    train_bytes: Count = Field(
        50_000_000, ge=1000, description="How much text it is trained on, spread over the source."
    )
    text_column: str = Field("text", description="The column that holds the text.")
    txt_documents: Literal["blank-line", "file"] = Field("blank-line", description="What ends a document in txt.")
    separator: str | None = Field(None, min_length=1, description="A string that ends a document in txt instead.")
    limit_docs: Count | None = Field(None, ge=1, description="Take the first documents only.")
    limit_tokens: Count | None = Field(None, ge=1, description="Take the first documents up to so many tokens.")
    limit_bytes: Count | None = Field(None, ge=1, description="Take the first documents up to so many bytes.")
    on_error: Literal["stop", "skip", "replace"] | None = Field(
        None, description="What to do with bad data: stop, but skip in what comes from the hub."
    )
    max_doc_bytes: Count = Field(100_000_000, ge=1, description="Longer documents are bad data.")
    workers: int = Field(0, ge=0, le=1024, description="Worker processes; 0 is one for each core.")
    task_index: int | None = Field(None, ge=0, description="Tokenize only this share of the pieces, from 0 on.")
    num_tasks: int | None = Field(None, ge=1, le=100_000, description="How many such shares there are.")
    finalize: bool = Field(False, description="Put together what all the shares have tokenized.")
    overwrite: bool = Field(False, description="Make it anew, even if it exists and was made otherwise.")
    dry_run: bool = Field(False, description="Say what would be done, and do nothing.")

    @classmethod
    def preset_of(cls, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
        """A corpus known by name says how it is best sharded."""
        sources = values.get("sources")
        name = sources[0] if isinstance(sources, list) and len(sources) == 1 else None
        corpus = CORPORA.get(name) if isinstance(name, str) else None
        if corpus is None or Path(str(name)).exists():
            return None
        found: dict[str, Any] = {"out": f"data/{cls.kind}/{name}"}
        if "train" not in values:
            found["tokenizer"] = corpus.tokenizer
        if "shard_tokens" in cls.model_fields:
            found["shard_tokens"] = corpus.shard_tokens
        return str(name), found


class TokenizeOptions(TextOptions):
    """Turn text into token parts.

    The tokenizer is given or trained. A part holds the documents of a piece of the source in their order, without
    special ids. Killed at any instant and run again, it goes on where it was and ends in the same bytes.
    """

    kind = "tokens"
    examples = (
        "bertgpt tokenize tinyworld --limit-docs 2k --train-tokenizer bpe --vocab-size 1024 --out work/tokens",
        "bertgpt tokenize tinyworld --limit-docs 2k --train-tokenizer wordpiece --vocab-size 800 --dry-run",
    )


class ShardOptions(TextOptions):
    """Turn text or token parts into training shards.

    Exact duplicates are dropped, documents are dealt to train, val and test by hash, and shuffled. The bytes depend
    on the texts, the tokenizer and the seed alone, not on workers, the order of files, or how often it was killed.
    """

    kind = "shards"
    examples = (
        "bertgpt shard tinyworld --limit-docs 2k --train-tokenizer bpe --vocab-size 1024 --shard-tokens 100k --out work/tw",
        "bertgpt shard work/tokens --out work/shards --shard-tokens 50k --val-fraction 0.02",
        "bertgpt shard --list",
    )

    shard_tokens: Count = Field(100_000_000, ge=1000, description="Tokens in a shard, about.")
    val_fraction: float = Field(0.005, ge=0, lt=1, description="Share of the documents for validation.")
    test_fraction: float = Field(0.0, ge=0, lt=1, description="Share of the documents for testing.")
    seed: int = Field(1337, ge=0, lt=2**63, description="Decides the split and the order.")
    dedup: bool = Field(True, description="Drop exact duplicates.")
    repair: str | None = Field(None, description="Rebuild the broken files of this folder from its SOURCE.")
    list: bool = Field(False, description="List the corpora that are known by name.")


class MaskOptions(Options):
    """Plan the rows that BERT is trained on.

    Documents are cut at words into pieces, framed, and packed into rows. What is hidden in them is drawn when they are
    read, anew in each epoch: the same for the same seed, epoch and row.
    """

    examples = (
        "bertgpt mask work/tw --out work/plan --seq-len 128",
        "bertgpt mask work/tw --out work/pairs --sentence-pairs nsp --scheme whole-word --dry-run",
    )

    shards: Annotated[str, PositionalArgument("SHARDS")] = Field(description="A folder of shards.")
    out: str = Field(description="The folder to make.")
    seq_len: int = Field(128, ge=8, le=32768, description="The length of a row.")
    sentence_pairs: Literal["none", "nsp", "sop"] = Field(
        "none", description="Pairs: is B the next, are they in order."
    )
    scheme: Literal["token", "whole-word", "span"] = Field("token", description="What is hidden together.")
    mlm_probability: float = Field(0.15, gt=0, lt=1, description="Share of the ids that is scored.")
    mask_prob: float = Field(0.8, ge=0, le=1, description="Share of those that the mask stands for.")
    random_prob: float = Field(0.1, ge=0, le=1, description="Share that another id stands for.")
    keep_prob: float = Field(0.1, ge=0, le=1, description="Share that is left as it is.")
    pack: bool = Field(True, description="Several pieces in a row, instead of one.")
    static: bool = Field(False, description="Store the masks too, which else are drawn anew in each epoch.")
    materialize: bool = Field(False, description="Store whole rows too, which need the shards no more.")
    dupe_factor: int = Field(1, ge=1, le=1000, description="For how many epochs; then they come again.")
    seed: int = Field(1337, ge=0, lt=2**63, description="Decides pairs and masks.")
    workers: int = Field(0, ge=0, le=1024, description="Worker processes; 0 is one for each core.")
    overwrite: bool = Field(False, description="Make it anew, even if it exists and was made otherwise.")
    dry_run: bool = Field(False, description="Say what would be done, and do nothing.")


class PretrainOptions(Options):
    """Train a model from scratch.

    Shards train a GPT, a plan trains a BERT, or both at once (hybrid). A run that was interrupted goes on when the same
    command is given again, and ends in the same bytes.
    """

    examples = (
        "bertgpt pretrain work/tw --preset tiny-gpt --seq-len 64 --tokens-per-step 512 --max-steps 4 --out runs/gpt",
        "bertgpt pretrain work/plan --preset tiny-bert --tokens-per-step 1024 --max-steps 4 --out runs/bert",
        "bertgpt pretrain work/plan --preset tiny-bert --dry-run --out runs/bert",
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {name: preset.training for name, preset in PRESETS.items()}
    alternatives = ("max_steps", "max_tokens", "max_time", "epochs")

    data: Annotated[str, PositionalArgument("DATA")] = Field(description="A folder of shards, or a plan.")
    preset: str | None = Field(None, description="The shape of the model, and defaults that go with it.")
    out: str = Field(description="The run to make, or to go on with.")
    init: str | None = Field(None, description="Begin with the weights and the shape of this run, not at random.")
    embedding_init: Literal["random", "counts"] = Field(
        "random", description="How embeddings begin; counts: by which ids stand near each other, counted before."
    )
    objective: Literal["clm", "mlm", "hybrid"] | None = Field(None, description="The default is the preset's.")
    mlm_ratio: float = Field(0.5, gt=0, lt=1, description="Share of masked samples in a hybrid's steps.")
    seq_len: int = Field(256, ge=8, le=32768, description="The length of causal rows; a plan has its own.")
    cross_document_attention: bool | None = Field(None, description="Whether rows see past the end of a document.")
    tokenizer: str | None = Field(None, description="A plan whose ids, more than the shards', the model is to have.")
    tokens_per_step: Count = Field(16_384, ge=1, description="Ids of a step, however they are divided.")
    micro_batch_size: int = Field(0, ge=0, description="Rows that are computed at once; 0: about 32k ids.")
    max_steps: int | None = Field(None, ge=1, description="How long: in steps,")
    max_tokens: Count | None = Field(None, ge=1, description="or in ids,")
    max_time: Duration | None = Field(
        None, gt=0, description="or in time, such as 10m, which is made so many steps after the first 20;"
    )
    epochs: float = Field(1.0, gt=0, description="or in rounds through the data.")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="What moves matrices; AdamW moves the rest.")
    lr: float = Field(1e-3, gt=0, description="The highest learning rate.")
    embedding_lr_scale: float = Field(1.0, ge=0, le=1, description="Share of it for embeddings and heads beside Muon.")
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="What is left of it at the end.")
    warmup: int = Field(50, ge=0, description="Steps until it is reached.")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = Field("cosine", description="How it falls.")
    weight_decay: float = Field(0.1, ge=0, description="Of matrices.")
    beta2: float = Field(0.95, gt=0, lt=1, description="How long squares of gradients are remembered.")
    grad_clip: float = Field(1.0, gt=0, description="The longest gradient.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of features that is left out.")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="Of products, weights are always fp32; auto: bf16 where the device has it."
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field("auto", description="Where to compute.")
    compile: bool | None = Field(None, description="Compile the step; the default is to do so on CUDA.")
    deterministic: bool = Field(
        False, description="The same bits from every run on CUDA or compiled, as on CPUs always; slower."
    )
    activation_checkpointing: bool = Field(
        False, description="Compute blocks again on the way back: slower, in less memory."
    )
    eval_every: int = Field(250, ge=1, description="Steps between looks at held-out rows.")
    eval_tokens: Count = Field(500_000, ge=1, description="How many held-out ids are looked at, always the same.")
    probe: Literal["agnews"] | None = Field(None, description="Ask frozen features about this on the way.")
    probe_every: int = Field(200, ge=1, description="Steps between such probes.")
    probe_data: str | None = Field(None, description="Where its files are; else the hub.")
    eval: Literal["hellaswag"] | None = Field(None, description="Ask this at every look at held-out rows.")
    eval_data: str | None = Field(None, description="Where its files are; else the hub.")
    eval_items: Count = Field(2000, ge=10, description="How many items of either are asked, the first ones.")
    save_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")
    sample_every: int = Field(
        0, ge=0, description="Steps between samples, which samples.txt collects; 0: there are none."
    )
    tensorboard: bool = Field(False, description="Write a folder for TensorBoard too.")
    seed: int = Field(1337, ge=0, lt=2**63, description="Decides weights, order and dropout.")
    overwrite: bool = Field(False, description="Begin anew, even if there is a run.")
    overwrite_if_changed: bool = Field(False, description="Begin anew if the run was begun otherwise; pipelines do so.")
    dry_run: bool = Field(False, description="Say what would be done, and do nothing.")


class FinetuneOptions(Options):
    """Fine-tune a model for a task.

    TASK is one of GLUE's (sst2, cola, mrpc, stsb, qqp, mnli, qnli, rte, wnli), agnews, imdb, one of tinyworld's (topic,
    sentiment, acceptability), or a csv, tsv, jsonl or parquet of labelled texts. Checkpoints are chosen by a part of
    the training texts; what is reported decides nothing. Interrupted seeds go on.
    """

    examples = (
        "bertgpt finetune acceptability --model runs/bert --limit 200 --max-steps 4 --out runs/judge",
        "bertgpt finetune topic --model runs/gpt --limit 200 --max-steps 4 --freeze-layers 2 --out runs/desk",
    )

    task: Annotated[str, PositionalArgument("TASK")] = Field(description="A task by its name, or a file.")
    model: str = Field(description="A run, its final/, a checkpoint, or a model of transformers.")
    out: str = Field(description="The folder to make, or to go on with.")
    data: str | None = Field(None, description="A folder with the files of a task as published; else the hub.")
    test_data: str | None = Field(None, description="For a file: what is reported; else a fifth of it.")
    text_column: str = Field("text", description="The column that holds the text.")
    pair_column: str | None = Field(None, description="The column of a second text, for pairs.")
    label_column: str = Field("label", description="The column that holds the class or the number.")
    problem_type: Literal["auto", "classification", "regression"] = Field(
        "auto", description="What labels are; auto: as they look."
    )
    revision: str | None = Field(None, description="A commit of the hub's data.")
    limit: int | None = Field(None, ge=10, description="Take so many texts only; the result is marked PARTIAL.")
    val_fraction: float = Field(
        0.05, gt=0, lt=1, description="Share of the training texts that checkpoints are chosen by."
    )
    epochs: float = Field(3.0, gt=0, description="Rounds through the training texts,")
    max_steps: int | None = Field(None, ge=1, description="or steps instead.")
    batch_size: int = Field(32, ge=1, description="Texts of a step, however they are divided.")
    micro_batch_size: int = Field(0, ge=0, description="Texts that are computed at once; 0: all of a step.")
    seq_len: int | None = Field(
        None, ge=8, le=32768, description="Where texts are cut; the length of the model's rows."
    )
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="What moves matrices; AdamW moves the rest.")
    lr: float = Field(3e-4, gt=0, description="The highest learning rate; large models want a tenth of it.")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="What is left of it at the end.")
    warmup: float = Field(0.06, ge=0, le=1, description="Share of the steps until it is reached.")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = Field("linear", description="How it falls.")
    layerwise_lr_decay: float = Field(
        1.0, gt=0, le=1, description="What each layer has of the rate of the one above it."
    )
    freeze_layers: int = Field(0, ge=0, description="Leave embeddings and this many blocks as they are.")
    weight_decay: float = Field(0.01, ge=0, description="Of matrices.")
    beta2: float = Field(0.999, gt=0, lt=1, description="How long squares of gradients are remembered.")
    clip: float = Field(1.0, gt=0, description="The longest gradient.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of features that is left out.")
    seeds: int = Field(1, ge=1, le=100, description="How many times, each with another head and order.")
    random_baseline: bool = Field(True, description="Train the same from random weights too, and report it beside.")
    eval_every: int = Field(0, ge=0, description="Steps between looks at what is held out; 0: four an epoch.")
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="Of products, weights are always fp32; auto: bf16 where the device has it."
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field("auto", description="Where to compute.")
    deterministic: bool = Field(False, description="The same bits from every run on CUDA, as on CPUs always; slower.")
    seed: int = Field(1337, ge=0, lt=2**63, description="The first; it decides the head, order and dropout.")
    fresh: bool = Field(False, description="Begin anew, even if there are runs.")
    overwrite_if_changed: bool = Field(False, description="Begin anew if a run was begun otherwise; pipelines do so.")
    dry_run: bool = Field(False, description="Say what would be done, and do nothing.")


class GenerateOptions(Options):
    """Go on with text, or fill gaps in it.

    A GPT goes on with prompts: those given, those of a file, what is piped in, or with nothing at all. A BERT fills
    each [MASK] of a prompt, or is asked about words hidden from a text. A hybrid does both. The same seed gives the
    same text, whatever is generated beside it.
    """

    examples = (
        'bertgpt generate --model runs/gpt --prompt "There was a" --max-new-tokens 20 --num-samples 2',
        'bertgpt generate --model runs/bert --prompt "The dog [MASK] in the garden."',
        'bertgpt generate --model runs/bert --mask-text "There was a hard frost in the old clock shop of the town."',
    )

    model: str | None = Field(None, description="A run, its final/, a checkpoint, or a model of transformers.")
    prompt: StrList = Field([], description="A text to go on with, or one with [MASK] in it.")
    prompts_file: str | None = Field(None, description="A file with a prompt on each line.")
    max_new_tokens: Count = Field(200, ge=0, description="The most that is added to a prompt, in tokens.")
    num_samples: int = Field(1, ge=1, le=100_000, description="Texts for each prompt.")
    temperature: float = Field(
        0.8, ge=0, description="Below 1 what is likely becomes likelier; 0: always the likeliest."
    )
    top_k: int = Field(0, ge=0, description="Draw from this many of the likeliest; 0: from all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the likeliest only that have this share together.")
    repetition_penalty: float = Field(1.0, gt=0, description="Above 1 what stands there already becomes less likely.")
    stop: StrList = Field([], description="A string that ends a text, and is no part of it.")
    truncate: bool = Field(True, description="Cut prompts that are too long, from the left, instead of refusing them.")
    logprobs: bool = Field(
        False, description="Show how likely each token is to the model itself, by colour and by a small figure."
    )
    mask_text: str | None = Field(None, description="A text or file: hide 15 % of it, and guess what that was.")
    candidates: int = Field(5, ge=1, le=100, description="How many ways to fill a gap are shown.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Of all that is computed; bf16 is faster, but a text may depend on what is beside it."
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field("auto", description="Where to compute.")
    seed: int = Field(1337, ge=0, lt=2**63, description="Decides what is drawn, or hidden.")


class EvalOptions(Options):
    """Score a model, with intervals and baselines.

    SUITE is agnews or probe (what frozen features tell), lm, mlm, hellaswag, lambada, blimp, cloze, tinyworld (all
    against the truth), all; sst2, cola and the other tasks of finetune, for a model that was fine-tuned; predict, which
    writes its labels of a file; or compare, which takes two folders of results. Every item's answer is kept.
    """

    examples = (
        "bertgpt eval tinyworld --model runs/gpt --limit 20",
        "bertgpt eval mlm --model runs/bert --data tinyworld --limit 20 --out results/bert",
    )

    suite: Annotated[Suite, PositionalArgument("SUITE")] = Field(description="What to ask: see above.")
    folders: Annotated[list[str], PositionalArgument("[A B]")] = Field(
        [], description="For compare: two folders of results."
    )
    model: str | None = Field(None, description="A run, its final/, a checkpoint, or a model of transformers.")
    out: str | None = Field(None, description="The folder of results, results/RUN; for predict, the file.")
    data: str | None = Field(None, description="A file or folder in the layout it was published in; else the hub.")
    test_data: str | None = Field(None, description="For probe: what to judge by; else a fifth of --data.")
    text_column: str = Field("text", description="The column that holds the text.")
    pair_column: str | None = Field(None, description="For predict: the column of a second text.")
    label_column: str = Field("label", description="The column that holds the class.")
    revision: str | None = Field(None, description="A commit of the hub's data.")
    stride: int | None = Field(None, ge=1, description="For lm: tokens that each window scores; all if not given.")
    limit: int | None = Field(None, ge=1, description="Take so many items only; the result is marked PARTIAL.")
    full: bool = Field(False, description="For probes: more strengths, five folds, and a curve over sizes.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Of all that is computed.")
    device: Literal["auto", "cuda", "mps", "cpu"] = Field("auto", description="Where to compute.")


class ReportOptions(Options):
    """Put all that is known of some runs on one page.

    The page is one file, which needs nothing but a browser: curves, scores with their intervals and baselines, hidden
    words found or missed, texts, what was read, and in what the runs differ. Runs that were fine-tuned are put to those
    they began with. The table is printed too.
    """

    examples = ("bertgpt report", "bertgpt report runs/gpt runs/bert --out work/report.html")

    runs: Annotated[list[str], PositionalArgument("[RUN...]")] = Field(
        [], description="Runs; all in runs/ if none is named."
    )
    out: str = Field("report.html", description="The file to write.")
    results: str = Field("results", description="Where eval put its results, in a folder for each run.")
    metrics_dir: str | None = Field(
        None, description="A folder for the scores of each run as flat JSON, which DVC compares."
    )


class ExportOptions(Options):
    """Write an artefact in the form that other tools read.

    Shards become one flat file of ids for each split (bin), as nanoGPT and its descendants map them into memory. A
    model becomes a folder for transformers (hf), which is read again and compared where that is installed.
    """

    examples = ("bertgpt export work/tw --out work/bin", "bertgpt export work/tw --to bin --out work/bin --overwrite")

    path: Annotated[str, PositionalArgument("PATH")] = Field(description="A folder of shards, or a model.")
    out: str = Field(description="The folder to make.")
    to: Literal["hf", "bin"] | None = Field(None, description="The form; the default is the one that there is.")
    overwrite: bool = Field(False, description="Make it anew, even if it exists and was made otherwise.")


class ImportOptions(Options):
    """Read a model of transformers.

    GPT-2, BERT and ModernBERT, with or without heads for text; safetensors only. The result is a run that every command
    takes.
    """

    examples = (
        "bertgpt import work/hf --out runs/theirs --overwrite",
        "bertgpt import work/hf --out runs/theirs --overwrite --json",
    )

    source: Annotated[str, PositionalArgument("SOURCE")] = Field(
        description="A folder, or the name of a model on the hub."
    )
    out: str = Field(description="The run to make.")
    overwrite: bool = Field(False, description="Make it anew, even if it exists.")


class InspectOptions(Options):
    """Look into such a folder, or the built-in corpus.

    A folder shows what it holds, how long its documents are, and whether it is whole; --doc shows one document, its
    tokens set apart. A plan shows rows with what is hidden in them. tinyworld shows documents with their exact
    surprise, or examples of the tasks set in the world.
    """

    examples = (
        "bertgpt inspect tinyworld --docs 1 --start 41 --seed 7",
        "bertgpt inspect tinyworld --task cloze --docs 2 --json",
        "bertgpt inspect work/tw --verify",
    )

    path: Annotated[str, PositionalArgument("PATH")] = Field(description="A folder that a command made, or tinyworld.")
    contamination: Literal["agnews", "probe", "hellaswag", "lambada", "blimp", "cloze"] | None = Field(
        None, description="Count the items of this suite of which shards hold 13 words in a row."
    )
    data: str | None = Field(None, description="Where that suite is, as for eval.")
    doc: int | None = Field(None, ge=0, description="Show this document of a folder, or this row of a plan.")
    verify: bool = Field(False, description="Compare every hash, even those that were compared before.")
    docs: int = Field(3, ge=0, le=1000, description="How many documents of tinyworld or rows of a plan, at most 1000.")
    start: int = Field(0, ge=0, le=10**9, description="The number of the first one.")
    seed: int = Field(0, ge=0, lt=2**63, description="Which tinyworld: every seed is another one.")
    task: Literal["topic", "sentiment", "acceptability", "pairs", "endings", "cloze"] | None = Field(
        None, description="Show examples of a task instead of documents."
    )
    split: Literal["train", "dev", "val", "test"] | None = Field(
        None, description="Which examples of a task (dev), or rows of a plan (train)."
    )
