"""The stages `tokenize` and `shard`: from options to a published folder.

Work goes to a hidden sibling of the output, `.NAME.work/HASH/`, named by what decides the bytes. What is finished there
is used again after a kill; the finished folder is renamed into place, and the work folder removed.
"""

import hashlib
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from bertgpt import __version__, console
from bertgpt.config import ShardOptions, TextOptions, TokenizeOptions
from bertgpt.corpora.readers import Policy, columns_of, missing_column, read
from bertgpt.corpora.sources import Reading, Source, find, pieces
from bertgpt.errors import BertGPTError
from bertgpt.files import check_space, disk_error, lock, make_folder, publish, sha256_of, write_json
from bertgpt.shards.format import FORMAT, VERSION, broken_files, config_hash, read_manifest, verify, verify_tokenizer
from bertgpt.shards.gather import Documents, Plan, ShardWriter, make_plan, shard_tasks
from bertgpt.shards.jobs import Job, Pool, Receipt, Task, run
from bertgpt.shards.parts import Limit, PartWriter, at_hand, part_tasks
from bertgpt.tokens.tokenizer import Tokenizer
from bertgpt.tokens.training import train

Facts = dict[str, Any]
STAGE_CODE = ("corpora", "tokens", "shards", "draws.py", "files.py")  # what the bytes depend on; dvc.yaml says the same
FILE_FACTS = ("documents", "tokens", "min_id", "max_id")
SMALL_WORK = 40_000_000  # bytes: done in one process before others would have started
PART_SHARE, SHARD_SHARE = 0.7, 0.6  # bytes on disk for each byte of text, about


def tokenize(options: TokenizeOptions) -> Facts:
    """Make a folder of token parts."""
    text = Text(options)
    out = output_of(options, "tokens", text.sources)
    if options.dry_run:
        return text.plan(out, PART_SHARE)
    with Work(out, options.fresh) as work:
        if work.finished(text.config):
            return summary(out)
        started = time.monotonic()
        check_space(work.root, int(text.size * PART_SHARE))
        receipts, tokenizer, folder = text.parts(work)
        final = work.folder(text.config, "final", empty=True)
        files, counts = [], totals(receipts)
        for receipt in receipts:
            os.link(folder / receipt.name, final / receipt.name)
            files.append(file_entry(receipt))
        manifest = manifest_of("tokens", text.config, tokenizer, text.identities, counts, files)
        work.publish(final, manifest, text.tokenizer_folder(work), text.run_facts(receipts, started))
    return summary(out)


def shard(options: ShardOptions) -> Facts:
    """Make a folder of shards, from text or from token parts."""
    if options.repair is not None:
        return repair(options)
    if options.val_fraction + options.test_fraction >= 1:
        raise BertGPTError("BG204", "--val-fraction and --test-fraction leave nothing for training")
    origin = Parts(options) if is_tokens(options.sources) else Text(options)
    out = output_of(options, "shards", origin.sources)
    if options.dry_run:
        return origin.plan(out, PART_SHARE + SHARD_SHARE)
    with Work(out, options.fresh) as work:
        config = shard_config(options, origin.config)
        if work.finished(config):
            return summary(out)
        started = time.monotonic()
        check_space(work.root, int(origin.size * (PART_SHARE + SHARD_SHARE)))
        parts, tokenizer, folder = origin.parts(work)
        plan, receipts, made = gather(options, work, config, parts, folder, tokenizer)
        final = work.folder(config, "final", empty=True)
        for receipt in receipts:
            os.link(made / receipt.name, final / receipt.name)
        files = [file_entry(receipt) | {"split": receipt.name.rpartition("-")[0]} for receipt in receipts]
        counts = totals(parts) | {"duplicates": plan.duplicates, "cut_documents": plan.cut}
        manifest = manifest_of("shards", config, tokenizer, origin.identities, counts, files)
        manifest["splits"] = splits_of(receipts)
        manifest["parent"] = origin.parent
        work.publish(final, manifest, origin.tokenizer_folder(work), origin.run_facts(parts, started))
    return summary(out)


def repair(options: ShardOptions) -> Facts:
    """Rebuild what is broken in a folder of shards, and nothing else; the result must be what the manifest says."""
    folder = Path(options.repair or "")
    manifest = read_manifest(folder)
    broken = broken_files(folder, manifest, contents=True)
    if not broken:
        console.note(f"nothing is broken in {folder}")
        return summary(folder)
    options = options_again(options, folder, manifest)
    origin = Parts(options) if is_tokens(options.sources) else Text(options)
    with Work(folder, fresh=True) as work:
        config = shard_config(options, origin.config)
        if config != manifest["config"]:
            raise BertGPTError(
                "BG305",
                "these shards were made of something else",
                path=str(folder),
                cause="; ".join(differences(manifest["config"], config)),
                hint="give the SOURCE that they were made of",
            )
        parts, tokenizer, parts_folder = origin.parts(work)
        _, receipts, made = gather(options, work, config, parts, parts_folder, tokenizer, only=set(broken))
        named = {file["path"]: file for file in manifest["files"]}
        for receipt in receipts:
            if receipt.sha256 != named[receipt.name]["sha256"]:
                raise BertGPTError("BG305", "a rebuilt file is another one than before", path=receipt.name)
            shutil.copyfile(made / receipt.name, work.root / receipt.name)
            (work.root / receipt.name).replace(folder / receipt.name)
        work.remove()
    console.note(f"rebuilt {', '.join(sorted(broken))}")
    verify(folder, manifest)
    return summary(folder)


def options_again(options: ShardOptions, folder: Path, manifest: Mapping[str, Any]) -> ShardOptions:
    """The options that a folder was made with; sources from the command line, else from its run.json."""
    import json

    try:
        kept = json.loads((folder / "run.json").read_text(encoding="utf-8"))["options"]
        sources = options.sources or list(kept["sources"])
        given = kept["tokenizer"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BertGPTError(
            "BG307", "run.json is missing or broken, and tells how these shards were made", path=str(folder)
        ) from None
    tokenizer = given and str(folder / "tokenizer")
    return ShardOptions.model_validate(kept | {"sources": sources, "tokenizer": tokenizer, "workers": options.workers})


# ----------------------------------------------------------------------------------------- where ids come from


class Text:
    """Text that is tokenized on the way."""

    parent = None

    def __init__(self, options: TextOptions) -> None:
        self.options = options
        if not options.sources:
            raise BertGPTError(
                "BG203", "SOURCE... is missing", hint=options.__class__.model_fields["sources"].description
            )
        if (options.tokenizer is None) == (options.train is None):
            raise BertGPTError(
                "BG203",
                "text needs one tokenizer",
                cause="neither --tokenizer nor --train is given" if options.train is None else "both are given",
                hint="--tokenizer gpt2, or --train bpe --vocab-size 8192",
            )
        if options.train is not None and options.vocab_size is None:
            raise BertGPTError("BG203", "--train needs --vocab-size", hint="8192 is a good start for a small model")
        self.sources = find(options.sources)
        self.reading = Reading(options.text_column, options.txt_documents, options.separator, options.max_doc_bytes)
        for source in self.sources:
            names = columns_of(source)
            if names is not None and options.text_column not in names:
                raise missing_column(options.text_column, names, source.path)
        self.limit = Limit(options.limit_docs, options.limit_tokens, options.limit_bytes)
        self.pieces = pieces(self.sources, self.reading, self.world_documents())
        self.size = sum(piece.weight for piece in self.pieces)

    def world_documents(self) -> int | None:
        """How many documents of the built-in world the limits can ask for at most."""
        limits = (self.options.limit_docs, self.options.limit_tokens, self.options.limit_bytes)
        bounds = [-(-most // least) for most, least in zip(limits, (1, 12, 60), strict=True) if most is not None]
        return min(bounds, default=None)

    @property
    def identities(self) -> list[Facts]:
        """What the manifest says of the sources."""
        return [source.identity() for source in self.sources]

    @cached_property
    def given(self) -> Tokenizer | None:
        """The tokenizer, where none is trained."""
        return None if self.options.tokenizer is None else Tokenizer.load(self.options.tokenizer)

    @cached_property
    def config(self) -> Facts:
        """What decides the bytes of the parts."""
        training = {
            "kind": self.options.train,
            "vocab_size": self.options.vocab_size,
            "bytes": self.options.train_bytes,
        }
        return {
            "sources": self.identities,
            "reading": asdict(self.reading),
            "tokenizer": self.given.identity if self.given else training,
            "limit": self.limit.most,
        }

    def plan(self, out: Path, share: float) -> Facts:
        """What would be done."""
        return {
            "path": str(out),
            "files": len(self.sources),
            "pieces": len(self.pieces),
            "bytes": self.size,
            "disk_needed": int(self.size * share),
            "disk_free": shutil.disk_usage(existing(out)).free,
            "workers": worker_count(self.options, self.size),
        }

    def parts(self, work: "Work") -> tuple[list[Receipt], Tokenizer, Path]:
        """The token parts, those of them that are needed, the last perhaps cut; and the tokenizer."""
        work.start(self.options, self.size)
        tokenizer = self.tokenizer(work)
        folder = work.folder(self.config, "parts")
        job = Job(PartWriter, (str(self.tokenizer_folder(work)), self.options.on_error), folder, fingerprint())
        tasks = part_tasks(self.pieces, tokenizer)
        self.forget_other_policy(folder, tasks)
        receipts = work.run(job, tasks, "tokenizing", self.limit.reached if self.limit else None)
        if self.limit:
            receipts = self.limit.needed(receipts)
            receipts = [*receipts[:-1], self.limit.cut(folder, receipts)] if receipts else receipts
        if not sum(receipt.facts["documents"] for receipt in receipts):
            raise BertGPTError(
                "BG310", "there is no text: 0 documents, 0 tokens", path=", ".join(self.options.sources)[:200]
            )
        special = sum(receipt.facts["counts"].get("special_in_text", 0) for receipt in receipts)
        if special:
            console.note(f"note: special tokens stand in the text {special} times; they are taken as text")
        bad = sum(receipt.facts["bad"] for receipt in receipts)
        if bad:
            console.note(f"note: bad data {bad} times ({self.options.on_error}); the manifest has the counts")
        for warning in sorted({warning for receipt in receipts for warning in receipt.facts["warnings"]}):
            console.note(f"warning: {warning}")
        return receipts, tokenizer, folder

    def forget_other_policy(self, folder: Path, tasks: Sequence[Task]) -> None:
        """A part in which bad data was met is only good for the policy it was made under."""
        import json

        for task in tasks:
            path = folder / f"{task.name}.json"
            if path.exists():
                facts = json.loads(path.read_text(encoding="utf-8"))["facts"]
                if facts["bad"] and facts["on_error"] != self.options.on_error:
                    path.unlink()

    def tokenizer_folder(self, work: "Work") -> Path:
        """Where the tokenizer is kept."""
        return work.folder(self.config, "tokenizer")

    def tokenizer(self, work: "Work") -> Tokenizer:
        """The tokenizer given or trained, kept in the work folder."""
        folder = self.tokenizer_folder(work)
        if (folder / "tokenizer_config.json").exists():
            tokenizer = self.given or Tokenizer.load(folder)
        else:
            tokenizer = self.given or train(self.options.train or "", self.options.vocab_size or 0, self.sample())
            tokenizer.save(folder)
        at_hand[str(folder)] = tokenizer
        return tokenizer

    def sample(self) -> Iterator[str]:
        """The first documents of every piece: so much text of each that it is the wanted amount in all."""
        policy = Policy("skip")
        share = self.options.train_bytes // max(1, len(self.pieces))
        for piece in self.pieces:
            left = share
            for documents in read(piece, policy):
                for document in documents:
                    if left <= 0:
                        break
                    left -= len(document)
                    yield document.decode()
                if left <= 0:
                    break

    def run_facts(self, receipts: Sequence[Receipt], started: float) -> Facts:
        """What run.json says beyond the manifest."""
        seconds = time.monotonic() - started
        size = sum(receipt.facts["bytes"] for receipt in receipts)
        console.note(f"{size / 1e6:.1f} MB of text in {seconds:.1f} s ({size / 1e6 / max(seconds, 1e-9):.1f} MB/s)")
        return {
            "options": self.options.model_dump(mode="json")
            | {"sources": [source.path or source.name for source in self.sources]},
            "paths": [str(Path(source.path).resolve()) if source.path else source.name for source in self.sources],
            "seconds": round(seconds, 3),
            "backends": dict(Counter(receipt.facts["backend"] for receipt in receipts)),
        }


class Parts:
    """Token parts that were made before."""

    def __init__(self, options: ShardOptions) -> None:
        if options.tokenizer is not None or options.train is not None:
            raise BertGPTError("BG203", "token parts have their tokenizer; give neither --tokenizer nor --train")
        self.options = options
        self.path = folder = Path(options.sources[0])
        self.manifest = read_manifest(folder)
        verify(folder, self.manifest)
        self.sources: list[Source] = []
        self.parent = {"manifest_sha256": sha256_of(folder / "manifest.json")}
        self.config = {"parent": self.parent["manifest_sha256"]}
        self.identities = self.manifest["sources"]
        self.size = 2 * sum(file["bytes"] for file in self.manifest["files"])

    def plan(self, out: Path, share: float) -> Facts:
        """What would be done."""
        need = sum(file["bytes"] for file in self.manifest["files"])
        counts = self.manifest["counts"]
        free = shutil.disk_usage(existing(out)).free
        return {
            "path": str(out),
            "documents": counts["documents"],
            "tokens": counts["tokens"],
            "disk_needed": need,
            "disk_free": free,
        }

    def parts(self, work: "Work") -> tuple[list[Receipt], Tokenizer, Path]:
        """What the manifest says of them."""
        tokenizer = verify_tokenizer(self.path, self.manifest)
        receipts = []
        for file in self.manifest["files"]:
            facts = {name: file[name] for name in FILE_FACTS} | {"bytes": file["text_bytes"], "counts": file["counts"]}
            receipts.append(Receipt(file["path"], file["bytes"], file["sha256"], facts))
        return receipts, tokenizer, self.path

    def tokenizer_folder(self, work: "Work") -> Path:
        """Where the tokenizer is kept."""
        return self.path / "tokenizer"

    def run_facts(self, receipts: Sequence[Receipt], started: float) -> Facts:
        """What run.json says beyond the manifest."""
        options = self.options.model_dump(mode="json") | {"sources": [str(self.path.resolve())]}
        return {"options": options, "seconds": round(time.monotonic() - started, 3)}


def is_tokens(sources: Sequence[str]) -> bool:
    """Whether the one source is a folder of token parts."""
    if len(sources) != 1 or not (Path(sources[0]) / "manifest.json").is_file():
        return False
    kind = read_manifest(Path(sources[0]))["kind"]
    if kind != "tokens":
        raise BertGPTError("BG211", f"{sources[0]} holds {kind}, not token parts or text")
    return True


# ------------------------------------------------------------------------------------------------- the shards


def shard_config(options: ShardOptions, tokens: Facts) -> Facts:
    """What decides the bytes of the shards."""
    return {
        "tokens": tokens,
        "shard_tokens": options.shard_tokens,
        "val_fraction": options.val_fraction,
        "test_fraction": options.test_fraction,
        "seed": options.seed,
        "dedup": options.dedup,
    }


def gather(
    options: ShardOptions,
    work: "Work",
    config: Facts,
    parts: Sequence[Receipt],
    folder: Path,
    tokenizer: Tokenizer,
    only: set[str] | None = None,
) -> tuple[Plan, list[Receipt], Path]:
    """Deal the documents of the parts to shards, and write those."""
    paths = [folder / receipt.name for receipt in parts]
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    fractions = {split: fraction for split, fraction in fractions.items() if fraction}
    plan = make_plan(Documents.of(paths), options.seed, options.shard_tokens, fractions, options.dedup)
    made, rows = work.folder(config, "shards"), work.folder(config, "rows")
    identity = config | {"parts": [receipt.sha256 for receipt in parts]}
    tasks = [task for task in shard_tasks(plan, rows, identity) if only is None or task.name in only]
    arguments = ([str(path) for path in paths], str(rows), tokenizer.end, tokenizer.max_id)
    job = Job(ShardWriter, arguments, made, fingerprint())
    work.start(options, sum(task.weight for task in tasks) * 3)
    return plan, work.run(job, tasks, "gathering"), made


def splits_of(receipts: Sequence[Receipt]) -> Facts:
    """Documents, tokens and bytes of each split."""
    splits: dict[str, Counter[str]] = {}
    for receipt in receipts:
        split = splits.setdefault(receipt.name.rpartition("-")[0], Counter())
        split.update({"files": 1} | {name: receipt.facts[name] for name in ("documents", "tokens", "bytes")})
    return {name: dict(counts) for name, counts in splits.items()}


# -------------------------------------------------------------------------------------------- the work folder


class Work:
    """The work folder of an output, held by one process at a time."""

    def __init__(self, out: Path, fresh: bool) -> None:
        self.out, self.fresh = out.absolute(), fresh
        self.pool: Pool | None = None
        moved = os.environ.get("BERTGPT_WORK")
        short = hashlib.sha256(str(self.out).encode()).hexdigest()[:12]
        self.root = Path(moved).absolute() / f"{out.name}-{short}" if moved else self.out.parent / f".{out.name}.work"

    def __enter__(self) -> "Work":
        if self.out.exists() and not self.out.is_dir():
            raise BertGPTError("BG404", "the output is a file, and should be a folder", path=str(self.out))
        make_folder(self.out.parent)
        make_folder(self.root)
        self._lock = lock(self.root / "lock", str(self.out))
        self._lock.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not any(path.is_dir() for path in self.root.glob("*")):
            self.remove()  # nothing was begun
        if self.pool is not None:
            self.pool.close()
        self._lock.__exit__(kind, error, trace)
        if isinstance(error, OSError):
            raise disk_error(error, self.root) from None

    def folder(self, config: Facts, name: str, empty: bool = False) -> Path:
        """A folder for one purpose of one config."""
        folder = self.root / config_hash(config)[:16] / name
        if empty:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finished(self, config: Facts) -> bool:
        """Whether the output is there already; an error if what is there is something else."""
        if not self.out.exists() or not any(self.out.iterdir()):
            return False
        if not (self.out / "manifest.json").is_file():
            hint = "give another --out, or remove it yourself"
            raise BertGPTError("BG213", "this folder exists and is none of ours", path=str(self.out), hint=hint)
        if self.fresh:
            return False
        hint = "give another --out, or --fresh to make it anew"
        manifest = read_manifest(self.out)
        if manifest["config"] != config:
            cause = "; ".join(differences(manifest["config"], config))
            raise BertGPTError(
                "BG213", "this exists, and was made otherwise", path=str(self.out), cause=cause, hint=hint
            )
        verify(self.out, manifest)
        console.note(f"nothing to do: {self.out} is there already")
        self.remove()
        return True

    def start(self, options: TextOptions, size: int) -> None:
        """Have worker processes start, if there is enough for them to do."""
        workers = worker_count(options, size)
        if workers > 1 and self.pool is None:
            self.pool = Pool(workers)
            self.pool.executor()

    def run(
        self,
        job: Job,
        tasks: Sequence[Task],
        label: str,
        enough: Callable[[list[Receipt]], bool] | None = None,
    ) -> list[Receipt]:
        """Do tasks, and show how far they are."""
        progress = console.Progress(label, sum(task.weight for task in tasks))
        done: Counter[str] = Counter()

        def report(task: Task, receipt: Receipt) -> None:
            done.update(weight=task.weight, documents=receipt.facts["documents"], tokens=receipt.facts["tokens"])
            progress.update(done["weight"], done["documents"], done["tokens"])

        receipts = run(job, tasks, self.pool, report, enough or (lambda receipts: False))
        progress.end()
        return receipts

    def publish(self, final: Path, manifest: Facts, tokenizer: Path, facts: Facts) -> None:
        """Put the finished folder in place: the manifest is written last."""
        shutil.copytree(tokenizer, final / "tokenizer", ignore=shutil.ignore_patterns(".*"))
        run_json = {"bertgpt": __version__, "python": platform.python_version(), "host": platform.node()}
        write_json(
            final / "run.json",
            run_json | {"made": time.strftime("%FT%TZ", time.gmtime()), "fingerprint": fingerprint()} | facts,
        )
        write_json(final / "manifest.json", manifest)
        publish(final, self.out)
        self.remove()

    def remove(self) -> None:
        """The work is done."""
        shutil.rmtree(self.root, ignore_errors=True)


def output_of(options: TextOptions, kind: str, sources: Sequence[Source]) -> Path:
    """The folder to make."""
    if options.out is not None:
        return Path(options.out)
    if len(sources) == 1 and sources[0].format == "tinyworld":
        return Path("data") / kind / "tinyworld"
    raise BertGPTError("BG203", "--out is missing: the folder to make")


def existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def worker_count(options: TextOptions, size: int) -> int:
    """How many processes work: by default one for each core that we may use, unless they would start for too little."""
    if options.workers == 0 and size < SMALL_WORK:
        return 1
    return options.workers or len(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )


def fingerprint() -> str:
    """A hash of the code that the bytes depend on."""
    package = Path(__file__).parents[1]
    files = sorted(
        file
        for name in STAGE_CODE
        for file in ([package / name] if name.endswith(".py") else (package / name).rglob("*.py"))
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def totals(receipts: Iterable[Receipt]) -> Facts:
    """The counts of all parts together."""
    counts: Counter[str] = Counter(dict.fromkeys(("documents", "tokens", "bytes"), 0))
    for receipt in receipts:
        counts.update({name: receipt.facts[name] for name in ("documents", "tokens", "bytes")})
        counts.update(receipt.facts["counts"])
    return dict(counts)


def file_entry(receipt: Receipt) -> Facts:
    """What the manifest says of a file."""
    entry = {
        "path": receipt.name,
        "bytes": receipt.bytes,
        "sha256": receipt.sha256,
        "text_bytes": receipt.facts["bytes"],
    }
    counts = {"counts": receipt.facts["counts"]} if "counts" in receipt.facts else {}
    return entry | {name: receipt.facts[name] for name in FILE_FACTS} | counts


def manifest_of(
    kind: str, config: Facts, tokenizer: Tokenizer, sources: list[Facts], counts: Facts, files: list[Facts]
) -> Facts:
    """A manifest: no clock, host, path or speed, so that the same inputs give the same bytes."""
    roles = {role: tokenizer.roles[role] for role in sorted(tokenizer.roles)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "config": config,
        "config_sha256": config_hash(config),
        "tokenizer": {"sha256": tokenizer.identity, "max_id": tokenizer.max_id, "roles": roles},
        "dtype": tokenizer.dtype.name,
        "sources": sources,
        "counts": counts,
        "files": files,
    }


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Where two configs differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return [text for key in keys for text in differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    return [f"{name} was {shortened(old)}, is now {shortened(new)}"]


def shortened(value: Any) -> str:
    """A value that is short enough to be read."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def summary(out: Path) -> Facts:
    """What a command returns: the manifest in brief."""
    manifest = read_manifest(out)
    return {
        "path": str(out),
        "kind": manifest["kind"],
        "files": len(manifest["files"]),
        "counts": manifest["counts"],
        "splits": manifest.get("splits", {}),
        "dtype": manifest["dtype"],
        "tokenizer_sha256": manifest["tokenizer"]["sha256"],
        "manifest_sha256": sha256_of(out / "manifest.json"),
    }
