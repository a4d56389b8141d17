"""Where the ids of shards come from: text that is tokenized on the way, or token parts that were made before."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from bertgpt.config.options import ShardOptions, TextOptions
from bertgpt.data.build.tokenize_worker import (
    ENCODERS,
    FILE_FACTS,
    PART_FACTS,
    DocumentLimit,
    TokenizeWorker,
    part_tasks,
    policy_of,
)
from bertgpt.data.execution.tasks import Metadata, Task, TaskGroup, TaskResult, completed_result, worker_count
from bertgpt.data.execution.workdir import WorkDirectory, code_hash, nearest_existing
from bertgpt.data.format import read_manifest, verify, verify_tokenizer
from bertgpt.data.sources.read import BadDataPolicy, columns_of, missing_column, read_documents
from bertgpt.data.sources.resolve import remote_names, resolve_sources
from bertgpt.data.sources.source import DatasetSelector, ReadOptions, Source
from bertgpt.data.sources.splits import input_splits, prefetch_footers
from bertgpt.data.tokenizers.encoders import Encoder
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.data.tokenizers.train import train_tokenizer
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of

TOKEN_BYTES = 4.5  # bytes of a token, about


class TextInput:
    """Text that is tokenized on the way."""

    parent = None

    def __init__(self, options: TextOptions) -> None:
        self.options = options
        if not options.sources:
            raise BertGPTError(
                "BG203", "SOURCE... is missing", hint=options.__class__.model_fields["sources"].description
            )
        if (options.tokenizer is None) == (options.train_tokenizer is None):
            raise BertGPTError(
                "BG203",
                "text needs one tokenizer",
                cause="neither --tokenizer nor --train-tokenizer is given"
                if options.train_tokenizer is None
                else "both are given",
                hint="--tokenizer gpt2, or --train-tokenizer bpe --vocab-size 8192",
            )
        if options.train_tokenizer is not None and options.vocab_size is None:
            raise BertGPTError(
                "BG203", "--train-tokenizer needs --vocab-size", hint="8192 is a good start for a small model"
            )
        if (options.task_index is None) != (options.num_tasks is None):
            raise BertGPTError("BG203", "--task-index and --num-tasks belong together")
        if options.task_index is not None and options.task_index >= (options.num_tasks or 0):
            cause = f"there are {options.num_tasks} tasks, counted from 0"
            raise BertGPTError("BG204", f"there is no task {options.task_index}", cause=cause)
        self.sources = resolve_sources(
            options.sources, DatasetSelector(options.subset, options.split, options.revision)
        )
        self.reading = ReadOptions(options.text_column, options.txt_documents, options.separator, options.max_doc_bytes)
        prefetch_footers(self.sources)
        for source in self.sources:
            names = columns_of(source)
            if names is not None and options.text_column not in names:
                raise missing_column(options.text_column, names, source.path)
        self.limit = DocumentLimit(options.limit_docs, options.limit_tokens, options.limit_bytes)
        if self.limit and options.task_index is not None:
            raise BertGPTError("BG203", "limits count from the beginning, which no task alone can know")
        self.pieces = input_splits(self.sources, self.reading, self.world_documents())
        size = sum(int(piece.approx_bytes * piece.source.weight) for piece in self.pieces)
        self.size = min(size, options.limit_bytes or size, int((options.limit_tokens or size) * TOKEN_BYTES))

    def world_documents(self) -> int | None:
        """How many documents of the built-in world the limits can ask for at most."""
        limits = (self.options.limit_docs, self.options.limit_tokens, self.options.limit_bytes)
        bounds = [-(-most // least) for most, least in zip(limits, (1, 12, 60), strict=True) if most is not None]
        return min(bounds, default=None)

    @cached_property
    def identities(self) -> list[Metadata]:
        """What the manifest says of the sources."""
        with ThreadPoolExecutor() as threads:  # each reads a whole file, to find its hash
            return list(threads.map(Source.identity, self.sources))

    def source_counts(self, receipts: Sequence[TaskResult]) -> list[Metadata]:
        """The sources, and what was read of each, before duplicates are dropped."""
        counts: dict[int, Counter[str]] = {}
        numbers = {id(source): i for i, source in enumerate(self.sources)}
        for piece, receipt in zip(self.pieces, receipts, strict=False):  # a limit leaves pieces unread
            read = counts.setdefault(numbers[id(piece.source)], Counter())
            read.update({"documents": receipt.metadata["documents"], "tokens": receipt.metadata["tokens"]})
            read["text_bytes"] += receipt.metadata["bytes"]
        none = {"documents": 0, "tokens": 0, "text_bytes": 0}
        return [identity | none | dict(counts.get(i, {})) for i, identity in enumerate(self.identities)]

    @cached_property
    def given_tokenizer(self) -> Tokenizer | None:
        """The tokenizer, where none is trained."""
        return None if self.options.tokenizer is None else load_tokenizer(self.options.tokenizer)

    @cached_property
    def config(self) -> Metadata:
        """What decides the bytes of the parts."""
        training = {
            "kind": self.options.train_tokenizer,
            "vocab_size": self.options.vocab_size,
            "bytes": self.options.train_bytes,
        }
        return {
            "sources": self.identities,
            "reading": asdict(self.reading),
            "tokenizer": self.given_tokenizer.fingerprint if self.given_tokenizer else training,
            "limit": self.limit.most,
        }

    def plan(self, out: Path, share: float) -> Metadata:
        """What would be done."""
        return {
            "path": str(out),
            "files": len(self.sources),
            "pieces": len(self.pieces),
            "bytes": self.size,
            "tokens": int(self.size / TOKEN_BYTES),
            "disk_needed": int(self.size * share),
            "disk_free": shutil.disk_usage(nearest_existing(out)).free,
            "workers": worker_count(self.options.workers, self.size),
        }

    def print_plan(self, out: Path, share: float) -> None:
        """Say what will be done, where text comes from elsewhere and may take long."""
        if any(source.is_remote for source in self.sources):
            plan = self.plan(out, share)
            size, tokens, needed, free = (plan[key] / 1e6 for key in ("bytes", "tokens", "disk_needed", "disk_free"))
            console.note(
                f"plan: {plan['files']:,} files, {size:,.0f} MB of text, about {tokens:,.0f} M tokens; "
                f"disk: {needed:,.0f} MB needed meanwhile, {free:,.0f} MB free; to {out}"
            )

    def job(self, work: WorkDirectory) -> tuple[TaskGroup, list[Task], Tokenizer]:
        """What makes the token parts."""
        tokenizer = self.tokenizer(work)
        arguments = (str(self.tokenizer_folder(work)), tokenizer.fingerprint, self.options.on_error)
        job = TaskGroup(TokenizeWorker, arguments, work.folder(self.config, "parts"), code_hash())
        tasks = part_tasks(self.pieces, tokenizer)
        self.forget_other_policy(job.folder, tasks)
        return job, tasks, tokenizer

    def tokenize_share(self, work: WorkDirectory) -> list[TaskResult]:
        """Every so many-th of the token parts."""
        job, tasks, _ = self.job(work)
        return work.run(job, tasks[self.options.task_index :: self.options.num_tasks], "tokenizing")

    def parts(self, work: WorkDirectory) -> tuple[list[TaskResult], Tokenizer, Path]:
        """The token parts, those of them that are needed, the last perhaps cut; and the tokenizer."""
        job, tasks, tokenizer = self.job(work)
        folder = job.folder
        if self.options.finalize:
            missing = [task.name for task in tasks if completed_result(job, task) is None]
            if missing:
                raise BertGPTError(
                    "BG315",
                    f"{len(missing):,} of {len(tasks):,} pieces are not tokenized yet",
                    path=str(folder),
                    cause=f"the first is number {tasks.index(next(t for t in tasks if t.name == missing[0]))}",
                    hint="run the tasks that are missing, or leave --finalize to do it all here",
                )
        receipts = work.run(job, tasks, "tokenizing", self.limit.reached if self.limit else None)
        if self.limit:
            receipts = self.limit.needed(receipts)
            receipts = [*receipts[:-1], self.limit.cut(folder, receipts)] if receipts else receipts
        if not sum(receipt.metadata["documents"] for receipt in receipts):
            raise BertGPTError(
                "BG310", "there is no text: 0 documents, 0 tokens", path=", ".join(self.options.sources)[:200]
            )
        special = sum(receipt.metadata["counts"].get("special_in_text", 0) for receipt in receipts)
        if special:
            console.note(f"note: special tokens stand in the text {special} times; they are taken as text")
        bad = sum(receipt.metadata["bad"] for receipt in receipts)
        if bad:
            console.note(f"note: bad data {bad} times; the manifest has the counts")
        for warning in sorted({warning for receipt in receipts for warning in receipt.metadata["warnings"]}):
            console.note(f"warning: {warning}")
        return receipts, tokenizer, folder

    def forget_other_policy(self, folder: Path, tasks: Sequence[Task]) -> None:
        """A part in which bad data was met is only good for the policy it was made under."""
        for task in tasks:
            path = folder / f"{task.name}.json"
            if path.exists():
                facts = json.loads(path.read_text(encoding="utf-8"))["facts"]
                if facts["bad"] and facts["on_error"] != policy_of(self.options.on_error, task.payload.source):
                    path.unlink()

    def tokenizer_folder(self, work: WorkDirectory) -> Path:
        """Where the tokenizer is kept."""
        return work.folder(self.config, "tokenizer")

    def tokenizer(self, work: WorkDirectory) -> Tokenizer:
        """The tokenizer given or trained, kept in the work folder."""
        folder = self.tokenizer_folder(work)
        if (folder / "tokenizer_config.json").exists():
            tokenizer = self.given_tokenizer or load_tokenizer(folder)
        else:
            tokenizer = self.given_tokenizer or train_tokenizer(
                self.options.train_tokenizer or "", self.options.vocab_size or 0, self.sample()
            )
            tokenizer.save(folder)
        ENCODERS[tokenizer.fingerprint] = Encoder(tokenizer, console.note)
        return tokenizer

    def sample(self) -> Iterator[str]:
        """The first documents of every piece: so much text of each that it is the wanted amount in all."""
        policy = BadDataPolicy("skip")
        share = self.options.train_bytes // max(1, len(self.pieces))
        for piece in self.pieces:
            left = share
            for texts in read_documents(piece, policy):
                for document in texts.documents:
                    if left <= 0:
                        break
                    left -= len(document)
                    yield document.decode()
                if left <= 0:
                    break

    def run_metadata(self, receipts: Sequence[TaskResult], started: float) -> Metadata:
        """What run.json says beyond the manifest."""
        seconds = time.monotonic() - started
        size = sum(receipt.metadata["bytes"] for receipt in receipts)
        console.note(f"{size / 1e6:.1f} MB of text in {seconds:.1f} s ({size / 1e6 / max(seconds, 1e-9):.1f} MB/s)")
        here = [source for source in self.sources if not source.is_remote]
        names = [f"{s.path or s.name}{f'={s.weight}' if s.weight < 1 else ''}" for s in here]
        return {
            "options": self.options.model_dump(mode="json")
            | {"sources": [*names, *remote_names(self.options.sources)]},
            "paths": [str(Path(s.path).resolve()) if s in here and s.path else s.path or s.name for s in self.sources],
            "seconds": round(seconds, 3),
            "backends": dict(Counter(receipt.metadata["backend"] for receipt in receipts)),
        }


class TokenizedInput:
    """Token parts that were made before."""

    def __init__(self, options: ShardOptions) -> None:
        if options.tokenizer is not None or options.train_tokenizer is not None:
            raise BertGPTError(
                "BG203", "token parts have their tokenizer; give neither --tokenizer nor --train-tokenizer"
            )
        self.options = options
        self.path = folder = Path(options.sources[0])
        self.manifest = read_manifest(folder)
        verify(folder, self.manifest)
        self.sources: list[Source] = []
        self.parent = {"manifest_sha256": sha256_of(folder / "manifest.json")}
        self.config = {"parent": self.parent["manifest_sha256"]}
        self.size = 2 * sum(file["bytes"] for file in self.manifest["files"])

    def plan(self, out: Path, share: float) -> Metadata:
        """What would be done."""
        need = sum(file["bytes"] for file in self.manifest["files"])
        counts = self.manifest["counts"]
        free = shutil.disk_usage(nearest_existing(out)).free
        return {
            "path": str(out),
            "documents": counts["documents"],
            "tokens": counts["tokens"],
            "disk_needed": need,
            "disk_free": free,
        }

    def parts(self, work: WorkDirectory) -> tuple[list[TaskResult], Tokenizer, Path]:
        """What the manifest says of them."""
        tokenizer = verify_tokenizer(self.path, self.manifest)
        receipts = []
        for file in self.manifest["files"]:
            facts = {name: file[name] for name in (*FILE_FACTS, *PART_FACTS) if name in file}
            facts["bytes"] = file["text_bytes"]
            receipts.append(TaskResult(file["path"], file["bytes"], file["sha256"], facts))
        return receipts, tokenizer, self.path

    def print_plan(self, out: Path, share: float) -> None:
        """Nothing comes from elsewhere."""

    def source_counts(self, receipts: Sequence[TaskResult]) -> list[Metadata]:
        """The sources, and what was read of each, as they were counted then."""
        sources: list[Metadata] = self.manifest["sources"]
        return sources

    def tokenizer_folder(self, work: WorkDirectory) -> Path:
        """Where the tokenizer is kept."""
        return self.path / "tokenizer"

    def run_metadata(self, receipts: Sequence[TaskResult], started: float) -> Metadata:
        """What run.json says beyond the manifest."""
        options = self.options.model_dump(mode="json") | {"sources": [str(self.path.resolve())]}
        return {"options": options, "seconds": round(time.monotonic() - started, 3)}


def is_tokenized_folder(sources: Sequence[str]) -> bool:
    """Whether the one source is a folder of token parts."""
    if len(sources) != 1 or not (Path(sources[0]) / "manifest.json").is_file():
        return False
    kind = read_manifest(Path(sources[0]))["kind"]
    if kind != "tokens":
        raise BertGPTError("BG211", f"{sources[0]} holds {kind}, not token parts or text")
    return True
