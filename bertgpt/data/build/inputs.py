"""Inputs of `tokenize` and `shard`: text that is tokenized on the way, or tokenized files that exist already."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from bertgpt.config.code_deps import code_hash
from bertgpt.config.data_options import ShardOptions, TextOptions
from bertgpt.data.build.document_limit import DocumentLimit
from bertgpt.data.build.files import TokenizedFiles, result_of, sum_counts
from bertgpt.data.build.tokenize_worker import ENCODERS, TokenizeWorker, policy_of, tokenize_tasks
from bertgpt.data.execution.tasks import Metadata, Task, TaskGroup, TaskResult, completed_result, worker_count
from bertgpt.data.execution.workdir import WorkDirectory
from bertgpt.data.format import manifest_hash, read_manifest, verify, verify_tokenizer
from bertgpt.data.sources.read import BadDataPolicy, column_names, missing_column, read_documents
from bertgpt.data.sources.resolve import remote_names, resolve_sources
from bertgpt.data.sources.source import DatasetSelector, ReadOptions, Source
from bertgpt.data.sources.splits import input_splits, prefetch_footers
from bertgpt.data.tokenizers.encoders import Encoder
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.data.tokenizers.train import train_tokenizer
from bertgpt.utils import console
from bertgpt.utils.disk import nearest_existing
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.json_files import parse_json

TOKEN_BYTES = 4.5  # bytes of text per token, about
TOKENIZED_RATIO, SHARD_RATIO = 0.55, 0.5  # bytes on disk per byte of text, about
MIN_TOKENS, MIN_BYTES = 12, 60  # of a tinyworld document


class TextInput:
    """Text to tokenize: its sources, input splits, tokenizer and limits."""

    parent = None

    def __init__(self, options: TextOptions) -> None:
        check_text_options(options)
        self.options = options
        self.sources = resolve_sources(
            options.sources, DatasetSelector(options.subset, options.split, options.revision)
        )
        self.reading = ReadOptions(options.text_column, options.txt_documents, options.separator, options.max_doc_bytes)
        prefetch_footers(self.sources)
        for source in self.sources:
            columns = column_names(source)
            if columns is not None and options.text_column not in columns:
                raise missing_column(options.text_column, columns, source.path)
        self.limit = DocumentLimit(options)
        self.splits = input_splits(self.sources, self.reading, tinyworld_documents(options))
        size = sum(int(split.approx_bytes * split.source.weight) for split in self.splits)
        self.size = min(size, options.limit_bytes or size, int((options.limit_tokens or size) * TOKEN_BYTES))
        self.out = output_folder(options, self.sources)

    # ----------------------------------------------------------------------------------- what is known beforehand

    @cached_property
    def identities(self) -> list[Metadata]:
        """The sources as the manifest names them."""
        with ThreadPoolExecutor() as threads:  # each reads a whole file, for its hash
            return list(threads.map(Source.manifest_entry, self.sources))

    @cached_property
    def given_tokenizer(self) -> Tokenizer | None:
        """The tokenizer of --tokenizer; None if one is trained."""
        return None if self.options.tokenizer is None else load_tokenizer(self.options.tokenizer)

    @cached_property
    def config(self) -> Metadata:
        """What decides the bytes of the tokenized files."""
        training = {
            "kind": self.options.train_tokenizer,
            "vocab_size": self.options.vocab_size,
            "bytes": self.options.train_bytes,
        }
        return {
            "sources": self.identities,
            "read_options": asdict(self.reading),
            "tokenizer": self.given_tokenizer.fingerprint if self.given_tokenizer else training,
            "limit": self.limit.maxima,
        }

    @property
    def task_size(self) -> int:
        """The bytes of text that this command tokenizes: all, or the share of its --task-index."""
        return self.size // (self.options.num_tasks or 1)

    @property
    def disk_needed(self) -> int:
        """Bytes on disk that this command needs, about."""
        return int(self.task_size * disk_ratio(self.options))

    @property
    def output_bytes(self) -> int:
        """Bytes on disk of the shards, about."""
        return int(self.task_size * SHARD_RATIO)

    def plan(self) -> Metadata:
        """The result of a dry run."""
        return {
            "path": str(self.out),
            "files": len(self.sources),
            "input_splits": len(self.splits),
            "bytes": self.size,
            "tokens": int(self.size / TOKEN_BYTES),
            "disk_needed": self.disk_needed,
            "disk_free": disk_free(self.out),
            "workers": worker_count(self.options.workers, self.task_size),
        }

    def print_plan(self) -> None:
        """Print the plan if text comes from elsewhere, which may take long."""
        if any(source.is_remote for source in self.sources):
            plan = self.plan()
            size, tokens, needed, free = (plan[key] / 1e6 for key in ("bytes", "tokens", "disk_needed", "disk_free"))
            console.info(
                f"plan: {plan['files']:,} files, {size:,.0f} MB of text, about {tokens:,.0f} M tokens; "
                f"disk: {needed:,.0f} MB needed meanwhile, {free:,.0f} MB free; output: {self.out}"
            )

    # ------------------------------------------------------------------------------------------------ tokenizing

    def tokenize(self, workdir: WorkDirectory) -> TokenizedFiles:
        """Tokenize the input splits that the limit needs, or with --task-index every num_tasks-th of them.

        The last file may be truncated by the limit.
        """
        group, tasks, tokenizer = self.task_group(workdir)
        is_share = self.options.task_index is not None
        if is_share:
            tasks = tasks[self.options.task_index :: self.options.num_tasks]
        elif self.options.finalize:
            check_all_completed(group, tasks)
        with closing(workdir.run(group, tasks, "tokenizing")) as running:
            results = self.limit.truncate(group.folder, list(self.limit.take(running)))
        if not is_share:
            self.check_not_empty(results)
            print_notes(results)
        return TokenizedFiles(group.folder, results, tokenizer, self.tokenizer_folder(workdir))

    def check_not_empty(self, results: Sequence[TaskResult]) -> None:
        """Refuse sources without any text."""
        if not sum_counts(results)["documents"]:
            path = ", ".join(self.options.sources)[:200]
            raise BertGPTError("BG310", "there is no text: 0 documents, 0 tokens", path=path)

    def task_group(self, workdir: WorkDirectory) -> tuple[TaskGroup, list[Task], Tokenizer]:
        """The tasks that write tokenized files, and their tokenizer."""
        folder = self.tokenizer_folder(workdir)
        tokenizer = self.prepare_tokenizer(folder)
        worker_args = (str(folder), tokenizer.fingerprint, self.options.on_error)
        group = TaskGroup(TokenizeWorker, worker_args, workdir.folder(self.config, "tokenized"), code_hash("tokenize"))
        tasks = tokenize_tasks(self.splits, tokenizer)
        discard_other_policy(group.folder, tasks, self.options.on_error)
        return group, tasks, tokenizer

    def tokenizer_folder(self, workdir: WorkDirectory) -> Path:
        """Where the tokenizer is saved."""
        return workdir.folder(self.config, "tokenizer")

    def prepare_tokenizer(self, folder: Path) -> Tokenizer:
        """The tokenizer that is given, was trained before, or is trained now; saved to the folder."""
        saved = (folder / "tokenizer_config.json").exists()
        if self.given_tokenizer is not None:
            tokenizer = self.given_tokenizer
        elif saved:
            tokenizer = load_tokenizer(folder)
        else:
            kind, vocab_size = self.options.train_tokenizer or "", self.options.vocab_size or 0
            tokenizer = train_tokenizer(kind, vocab_size, self.training_text())
        if not saved:
            tokenizer.save(folder)
        ENCODERS[tokenizer.fingerprint] = Encoder(tokenizer, console.info)
        return tokenizer

    def training_text(self) -> Iterator[str]:
        """Text to train a tokenizer on: the first documents of every input split, --train-bytes in all."""
        policy = BadDataPolicy("skip")
        for split in self.splits:
            left = self.options.train_bytes // len(self.splits)
            for document in (document for batch in read_documents(split, policy) for document in batch.documents):
                if left <= 0:
                    break
                left -= len(document)
                yield document.decode()

    # ---------------------------------------------------------------------------------------- what is published

    def source_counts(self, results: Sequence[TaskResult]) -> list[Metadata]:
        """The sources, and what was read from each, before duplicates are dropped."""
        counts: dict[int, Counter[str]] = {}
        index = {id(source): i for i, source in enumerate(self.sources)}
        for split, result in zip(self.splits, results, strict=False):  # a limit leaves splits unread
            read = counts.setdefault(index[id(split.source)], Counter())
            read.update({"documents": result.metadata["documents"], "tokens": result.metadata["tokens"]})
            read["text_bytes"] += result.metadata["bytes"]
        none = {"documents": 0, "tokens": 0, "text_bytes": 0}
        return [identity | none | dict(counts.get(i, {})) for i, identity in enumerate(self.identities)]

    def run_metadata(self, results: Sequence[TaskResult], started: float) -> Metadata:
        """What run.json has of this input; the speed is printed."""
        seconds = time.monotonic() - started
        size = sum_counts(results)["bytes"] / 1e6
        console.info(f"{size:.1f} MB of text in {seconds:.1f} s ({size / max(seconds, 1e-9):.1f} MB/s)")
        local = [source for source in self.sources if not source.is_remote]
        names = [f"{s.path or s.name}{f'={s.weight}' if s.weight < 1 else ''}" for s in local]
        return {
            "options": self.options.model_dump(mode="json")
            | {"sources": [*names, *remote_names(self.options.sources)]},
            "paths": [str(Path(s.path).resolve()) if s in local and s.path else s.path or s.name for s in self.sources],
            "seconds": round(seconds, 3),
            "backends": dict(Counter(result.metadata["backend"] for result in results)),
        }


class TokenizedInput:
    """Tokenized files of an earlier `bertgpt tokenize`."""

    def __init__(self, options: ShardOptions) -> None:
        if options.tokenizer is not None or options.train_tokenizer is not None:
            raise BertGPTError("BG203", "tokenized files have a tokenizer: omit --tokenizer and --train-tokenizer")
        if options.task_index is not None:
            raise BertGPTError("BG203", "input is already tokenized; --task-index does not apply")
        self.options = options
        self.path = folder = Path(options.sources[0])
        self.parent = {"manifest_sha256": manifest_hash(folder)}
        self.manifest = read_manifest(folder)
        verify(folder, self.manifest)
        self.out = output_folder(options, [])
        self.config = {"parent": self.parent["manifest_sha256"]}
        self.file_bytes = sum(file["bytes"] for file in self.manifest["files"])
        self.task_size = 2 * self.file_bytes
        self.disk_needed = self.output_bytes = self.file_bytes

    def plan(self) -> Metadata:
        """The result of a dry run."""
        counts = self.manifest["counts"]
        return {
            "path": str(self.out),
            "documents": counts["documents"],
            "tokens": counts["tokens"],
            "disk_needed": self.file_bytes,
            "disk_free": disk_free(self.out),
        }

    def print_plan(self) -> None:
        """Print nothing: the files are local."""

    def tokenize(self, workdir: WorkDirectory) -> TokenizedFiles:
        """The files as their manifest lists them."""
        tokenizer = verify_tokenizer(self.path, self.manifest)
        return TokenizedFiles(
            self.path, list(map(result_of, self.manifest["files"])), tokenizer, self.path / "tokenizer"
        )

    def source_counts(self, results: Sequence[TaskResult]) -> list[Metadata]:
        """The sources, and what was read from each, as counted when they were tokenized."""
        sources: list[Metadata] = self.manifest["sources"]
        return sources

    def run_metadata(self, results: Sequence[TaskResult], started: float) -> Metadata:
        """What run.json has of this input."""
        options = self.options.model_dump(mode="json") | {"sources": [str(self.path.resolve())]}
        return {"options": options, "seconds": round(time.monotonic() - started, 3)}


def open_input(options: ShardOptions) -> TextInput | TokenizedInput:
    """The input of `shard`: a folder of tokenized files, or text."""
    return TokenizedInput(options) if is_tokenized_folder(options.sources) else TextInput(options)


@contextmanager
def open_workdir(inputs: TextInput | TokenizedInput) -> Iterator[WorkDirectory]:
    """Lock the work directory of the output, and start workers if there is something to build."""
    options = inputs.options
    if options.task_index is None:
        inputs.print_plan()
    with WorkDirectory(inputs.out, options.overwrite, options.task_index) as workdir:
        if workdir.will_build:
            workdir.start_pool(options.workers, inputs.task_size, options.tokenizer)
        yield workdir


def check_text_options(options: TextOptions) -> None:
    """Refuse options of text that are missing or contradict each other, before any source is read."""
    if not options.sources:
        hint = options.__class__.model_fields["sources"].description
        raise BertGPTError("BG203", "SOURCE... is missing", hint=hint)
    if (options.tokenizer is None) == (options.train_tokenizer is None):
        neither = options.tokenizer is None
        raise BertGPTError(
            "BG203",
            "text needs one tokenizer",
            cause="neither --tokenizer nor --train-tokenizer is given" if neither else "both are given",
            hint="--tokenizer gpt2, or --train-tokenizer bpe --vocab-size 8192",
        )
    if options.train_tokenizer is not None and options.vocab_size is None:
        hint = "8192 is a good start for a small model"
        raise BertGPTError("BG203", "--train-tokenizer needs --vocab-size", hint=hint)
    if (options.task_index is None) != (options.num_tasks is None):
        raise BertGPTError("BG203", "--task-index and --num-tasks must be given together")
    if options.task_index is not None:
        if options.task_index >= (options.num_tasks or 0):
            cause = f"there are {options.num_tasks} tasks, counted from 0"
            raise BertGPTError("BG204", f"there is no task {options.task_index}", cause=cause)
        if DocumentLimit(options):
            raise BertGPTError("BG203", "--limit-* cannot be combined with --task-index")


def tinyworld_documents(options: TextOptions) -> int | None:
    """The most tinyworld documents that the limits can take; None without a limit."""
    limits = ((options.limit_docs, 1), (options.limit_tokens, MIN_TOKENS), (options.limit_bytes, MIN_BYTES))
    return min((-(-limit // smallest) for limit, smallest in limits if limit is not None), default=None)


def is_tokenized_folder(sources: Sequence[str]) -> bool:
    """Whether the only source is a folder of tokenized files."""
    if len(sources) != 1 or not (Path(sources[0]) / "manifest.json").is_file():
        return False
    kind = read_manifest(Path(sources[0]))["kind"]
    if kind != "tokens":
        raise BertGPTError("BG211", f"{sources[0]} holds {kind}, not tokenized files or text")
    return True


def output_folder(options: TextOptions, sources: Sequence[Source]) -> Path:
    """The folder of --out; by default that of the named corpus in data/."""
    if options.out is not None:
        return Path(options.out)
    if len(sources) == 1 and sources[0].format == "tinyworld":
        return Path("data") / options.kind / "tinyworld"
    if len(options.sources) == 1 and sources and (corpus := sources[0].corpus):
        return Path("data") / options.kind / corpus.rpartition("/")[2]
    raise BertGPTError("BG203", "--out is missing: the output folder")


def disk_ratio(options: TextOptions) -> float:
    """Bytes on disk per byte of text, about: of tokenized files, and of shards if the command writes them."""
    return TOKENIZED_RATIO + (SHARD_RATIO if options.kind == "shards" and options.task_index is None else 0)


def disk_free(path: Path) -> int:
    """Free bytes where a folder will be created."""
    return shutil.disk_usage(nearest_existing(path)).free


def check_all_completed(group: TaskGroup, tasks: Sequence[Task]) -> None:
    """Refuse --finalize while the result of any task is missing."""
    missing = [i for i, task in enumerate(tasks) if completed_result(group, task) is None]
    if missing:
        raise BertGPTError(
            "BG315",
            f"{len(missing):,} of {len(tasks):,} input splits are not tokenized yet",
            path=str(group.folder),
            cause=f"the first is number {missing[0]}",
            hint="run the missing tasks, or omit --finalize to tokenize everything with this command",
        )


def discard_other_policy(folder: Path, tasks: Sequence[Task], on_error: str | None) -> None:
    """Remove results with bad data that were made with another --on-error: their files would differ."""
    for task in tasks:
        path = folder / f"{task.name}.json"
        if path.exists():
            try:
                metadata = parse_json(path.read_text(encoding="utf-8"))["metadata"]
                other = metadata["bad"] and metadata["on_error"] != policy_of(on_error, task.payload.source)
            except (ValueError, KeyError, TypeError):
                other = True
            if other:
                path.unlink()


def print_notes(results: Sequence[TaskResult]) -> None:
    """Print what stood out in the text: special tokens, bad data, warnings of encoders."""
    special = sum(result.metadata["counts"].get("special_in_text", 0) for result in results)
    if special:
        console.info(f"note: {special} special-token strings in text, encoded as plain text")
    bad = sum(result.metadata["bad"] for result in results)
    if bad:
        console.info(f"note: {bad} bad documents or lines; the manifest has the counts")
    for warning in sorted({warning for result in results for warning in result.metadata["warnings"]}):
        console.info(f"warning: {warning}")
