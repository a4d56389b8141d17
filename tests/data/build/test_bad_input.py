"""Damaged artifacts and bad text on the command line: the right error before any harm is outcome, and the way out."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import bertgpt
from bertgpt.data.format import TokenFile
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.utils.files import sha256_of
from bertgpt.utils.version import FORMAT_VERSION

TRAIN = ("--train-tokenizer", "bpe", "--vocab-size", "400")
TEXTS = ["the first of three texts", "the second text is bad", "the third and last text"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenized files, and shards made from text and from them."""
    folder = tmp_path_factory.mktemp("made")
    common = {"limit_docs": 300, "train_tokenizer": "bpe", "vocab_size": 400}
    bertgpt.tokenize("tinyworld", out=str(folder / "tokens"), **common)
    bertgpt.shard("tinyworld", out=str(folder / "shards"), shard_tokens=10_000, val_fraction=0.1, **common)
    bertgpt.shard(str(folder / "tokens"), out=str(folder / "from_tokens"), shard_tokens=10_000, val_fraction=0.1)
    return folder


@pytest.fixture(autouse=True)
def cwd(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with copies of them, and an own cache."""
    for name in ("tokens", "shards", "from_tokens"):
        shutil.copytree(made / name, tmp_path / name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BERTGPT_WORK", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails(run: Callable[..., Any]) -> Callable[..., dict[str, str]]:
    """Run a command line that must fail with this code and these words; returns the error object."""

    def check(code: str, argv: tuple[str, ...] | list[str], *words: str) -> dict[str, str]:
        outcome = run(*argv, "--json")
        error: dict[str, str] = json.loads(outcome.out)["error"]
        message = " ".join(str(detail) for detail in error.values())
        assert (error["code"], outcome.code) == (code, int(code[2])), message
        assert "Traceback" not in outcome.err
        for word in words:
            assert word in message
        return error

    return check


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content = change(content) or content
    path.write_text(json.dumps(content), encoding="utf-8")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "truncated at the end": ("BG304", lambda path: path.write_bytes(path.read_bytes()[:-1])),
    "truncated in the middle": (
        "BG304",
        lambda path: path.write_bytes(path.read_bytes()[:999] + path.read_bytes()[2000:]),
    ),
    "8 bytes left": ("BG304", lambda path: path.write_bytes(path.read_bytes()[:8])),
    "empty": ("BG304", lambda path: path.write_bytes(b"")),
    "longer": ("BG304", lambda path: path.write_bytes(path.read_bytes() + b"\0")),
    "one bit": ("BG305", flip),
    "missing": ("BG306", lambda path: path.unlink()),
}


# ---------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_shard_is_detected_and_repaired(case: str, cwd: Path, run: Any, fails: Any) -> None:
    code, damage = DAMAGE[case]
    assert run("inspect", "shards").code == 0
    intact, times = contents(cwd / "shards"), {path: path.stat() for path in (cwd / "shards").iterdir()}
    broken = cwd / "shards" / "train-00001.arrow"
    size = broken.stat().st_size
    damage(broken)
    for options in ((), ("--verify",), ("--doc", "0")):
        error = fails(code, ["inspect", "shards", *options], "train-00001.arrow")
    if code == "BG304":
        assert f"{size:,}" in error["cause"]
        assert f"{broken.stat().st_size:,} bytes on disk" in error["cause"]
    if code == "BG305":
        assert sha256_of(broken) in error["cause"]
        assert intact["train-00001.arrow"] in error["cause"]
    assert run("shard", "--repair", "shards").code == 0
    assert contents(cwd / "shards") == intact
    assert run("inspect", "shards", "--verify").code == 0
    for path, status in times.items():
        assert path == broken or path.stat().st_mtime_ns == status.st_mtime_ns
    assert not [path for path in cwd.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_tokenized_files_are_refused(case: str, cwd: Path, fails: Any) -> None:
    code, damage = DAMAGE[case]
    damage(cwd / "tokens" / "part-00000.arrow")
    fails(code, ["shard", "tokens", "--out", "new"], "part-00000.arrow")
    fails(code, ["inspect", "tokens"], "part-00000.arrow")
    assert not (cwd / "new").exists()


def test_repair_from_tokenized_files(cwd: Path, run: Any, fails: Any) -> None:
    intact = contents(cwd / "from_tokens")
    for name, damage in (("train-00000.arrow", flip), ("val-00000.arrow", Path.unlink)):
        damage(cwd / "from_tokens" / name)
    outcome = run("shard", "tokens", "--repair", "from_tokens")
    assert outcome.code == 0, outcome.err
    assert contents(cwd / "from_tokens") == intact


def test_repair_from_another_source_is_refused(cwd: Path, run: Any, fails: Any) -> None:
    flip(cwd / "shards" / "train-00000.arrow")
    before = contents(cwd / "shards")
    fails("BG305", ["shard", "tinyworld:1", "--repair", "shards"], "sources")
    assert contents(cwd / "shards") == before
    (cwd / "shards" / "run.json").unlink()
    fails("BG307", ["shard", "--repair", "shards"], "run.json")
    assert contents(cwd / "shards").items() <= before.items()


def test_repair_of_intact_shards_changes_nothing(cwd: Path, run: Any) -> None:
    before = contents(cwd / "shards")
    outcome = run("shard", "--repair", "shards")
    assert (outcome.code, contents(cwd / "shards")) == (0, before)
    assert "nothing is broken" in outcome.err


def test_missing_and_extra_shards_are_listed(cwd: Path, fails: Any) -> None:
    shutil.copy(cwd / "shards" / "train-00000.arrow", cwd / "shards" / "train-00077.arrow")
    fails("BG306", ["inspect", "shards"], "not in the manifest: train-00077.arrow")
    (cwd / "shards" / "train-00000.arrow").unlink()
    fails("BG306", ["inspect", "shards"], "missing: train-00000.arrow", "not in the manifest: train-00077.arrow")


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "shards", "--doc", "0"),
        ("inspect", "shards", "--verify"),
        ("inspect", "tokens", "--verify"),
        ("shard", "tokens", "--out", "new"),
    ],
)
def test_edited_tokenizer_is_refused(command: tuple[str, ...], cwd: Path, fails: Any) -> None:
    folder = cwd / command[1]
    named = json.loads((folder / "manifest.json").read_text())["tokenizer"]["sha256"]
    edit(folder / "tokenizer" / "tokenizer.json", lambda content: content["model"]["merges"].pop() and None)
    fails("BG308", command, named, load_tokenizer(folder / "tokenizer").fingerprint)
    assert not (cwd / "new").exists()


def with_id(folder: Path, name: str, row: int, new: int) -> None:
    """Change an id in a row of a file, and update size and hash in the manifest."""
    path = folder / name
    file = TokenFile(path)
    tokens = file.batch.column("tokens")
    flat = np.array(file.flat)
    flat[file.offsets[row] + 1] = new
    values = pa.array(flat, tokens.type.value_type)
    changed = pa.LargeListArray.from_arrays(pa.array(file.offsets), values, type=tokens.type)
    columns = [changed if column.equals(tokens) else column for column in file.batch.columns]
    batch = pa.RecordBatch.from_arrays(columns, schema=file.batch.schema)
    del file, tokens
    path.unlink()
    with pa.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)

    def update(manifest: dict[str, Any]) -> None:
        entry = next(entry for entry in manifest["files"] if entry["path"] == name)
        entry |= {"sha256": sha256_of(path), "bytes": path.stat().st_size, "max_id": new}

    edit(folder / "manifest.json", update)


@pytest.mark.parametrize("new", [400, 60_000])
def test_id_beyond_the_vocabulary(new: int, cwd: Path, fails: Any) -> None:
    name = json.loads((cwd / "shards" / "manifest.json").read_text())["files"][0]["path"]
    with_id(cwd / "shards", name, 3, new)
    fails("BG309", ["inspect", "shards", "--doc", "0"], f"id {new} ", name, "row 3")
    with_id(cwd / "tokens", "part-00000.arrow", 5, new)
    fails("BG309", ["shard", "tokens", "--out", "new"], f"id {new} ", ".arrow", "row ")
    assert not (cwd / "new").exists()


def link(path: Path) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        name = path / manifest["files"][0]["path"]
        name.rename(path.parent / "elsewhere.arrow")
        name.symlink_to(path.parent / "elsewhere.arrow")

    return change


MANIFESTS: dict[str, Callable[[Path], Any]] = {
    "missing": lambda folder: (folder / "manifest.json").unlink(),
    "empty": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "truncated": lambda folder: (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:200]),
    "no UTF-8": lambda folder: (folder / "manifest.json").write_bytes(b'{"format": "\xff"}'),
    "a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "a folder": lambda folder: ((folder / "manifest.json").unlink(), (folder / "manifest.json").mkdir()),
    "of another format": lambda folder: edit(folder / "manifest.json", lambda it: it.update(format="parquet")),
    "newer": lambda folder: edit(folder / "manifest.json", lambda it: it.update(version=99)),
    "without files": lambda folder: edit(folder / "manifest.json", lambda it: it.pop("files") and it),
    "files that are not entries": lambda folder: edit(folder / "manifest.json", lambda it: it.update(files=[3])),
    "a path above": lambda folder: edit(folder / "manifest.json", lambda it: it["files"][0].update(path="../a.arrow")),
    "an absolute path": lambda folder: edit(folder / "manifest.json", lambda it: it["files"][0].update(path="/a.txt")),
    "a link": lambda folder: edit(folder / "manifest.json", link(folder)),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFESTS)
def test_invalid_manifests(case: str, cwd: Path, fails: Any) -> None:
    MANIFESTS[case](cwd / "shards")
    for command in (["inspect", "shards"], ["inspect", "shards", "--doc", "0"], ["shard", "--repair", "shards"]):
        fails("BG307", command, "shards")


def test_runs_are_named_as_runs(cwd: Path, fails: Any) -> None:
    (cwd / "run").mkdir()
    (cwd / "run" / "run.json").write_text("{}")
    fails("BG307", ["mask", "run", "--out", "plan"], "an unfinished run", "rerun the command that trains it")
    (cwd / "run" / "final").mkdir()
    fails("BG307", ["mask", "run", "--out", "plan"], "this is a run", "its model is run/final")


@pytest.mark.parametrize("kind", ["tokens", "shards", "mask_plan"])
def test_artifacts_of_the_previous_format_are_refused_with_the_command_to_run(kind: str, cwd: Path, fails: Any) -> None:
    edit(cwd / "shards" / "manifest.json", lambda it: it.update(version=FORMAT_VERSION - 1, kind=kind))
    command = {"tokens": "tokenize", "shards": "shard", "mask_plan": "mask"}[kind]
    fails("BG307", ["inspect", "shards"], "written by an older bertgpt", f"bertgpt {command} ... --overwrite")


@pytest.mark.parametrize(
    ("argv", "module", "name"),
    [
        (["export", "shards"], "bertgpt.data.loading.export_bin", "write_splits"),
        (["mask", "shards", "--sentence-pairs", "none"], "bertgpt.data.build.mask_plan", "plan_rows"),
        (["shard", "tokens", "--val-fraction", "0"], "bertgpt.data.build.shuffle", "write_shards"),
    ],
)  # fmt: skip
def test_input_that_is_replaced_while_it_is_read(
    argv: list[str], module: str, name: str, cwd: Path, fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process, at the worst time: nothing is published."""
    target = import_module(module)
    real = getattr(target, name)

    def call_and_edit(*args: Any, **options: Any) -> Any:
        result = real(*args, **options)
        edit(cwd / argv[1] / "manifest.json", lambda it: it["counts"].update(duplicates=99))
        return result

    monkeypatch.setattr(target, name, call_and_edit)
    fails("BG317", [*argv, "--out", "new"], "replaced while it was read")
    assert not (cwd / "new").exists()


# -------------------------------------------------------------------------------------------------- bad text


def jsonl(*lines: str | bytes) -> bytes:
    """Two documents, one per line, with these lines between them."""
    rows = [json.dumps({"text": text}).encode() for text in TEXTS[::2]]
    rows[1:1] = [line if isinstance(line, bytes) else line.encode() for line in lines]
    return b"\n".join(rows) + b"\n"


BAD: dict[str, tuple[str, bytes, str, str, str]] = {  # file, content, code, words, what is counted
    "bad UTF-8": ("t.txt", b"\n\n".join([TEXTS[0].encode(), b"bad \xff\xfe"]), "BG301", "t.txt, byte 26", "bad_utf8"),
    "UTF-16": ("t.txt", TEXTS[0].encode("utf-16"), "BG311", "looks like UTF-16", ""),
    "a lone surrogate": ("t.jsonl", jsonl(r'{"text": "a \ud800 b"}'), "BG301", "t.jsonl:2", "bad_utf8"),
    "no JSON": ("t.jsonl", jsonl('{"text": "' + "x" * 500), "BG302", "t.jsonl:2", "bad_lines"),
    "last line truncated": ("t.jsonl", jsonl()[:-9], "BG302", "t.jsonl:2", "bad_lines"),
    "null": ("t.jsonl", jsonl('{"text": null}'), "BG303", "t.jsonl:2", "no_text"),
    "a number": ("t.jsonl", jsonl('{"text": 3}'), "BG303", "t.jsonl:2", "no_text"),
    "too long": ("t.jsonl", jsonl(json.dumps({"text": "x" * 5000})), "BG312", "--max-doc-bytes", "too_long"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_text(case: str, cwd: Path, run: Any, fails: Any) -> None:
    name, content, code, words, count = BAD[case]
    (cwd / name).write_bytes(content)
    command = ["shard", name, *TRAIN, "--out", "new", "--max-doc-bytes", "4000", "--val-fraction", "0"]
    error = fails(code, command, words)
    assert len(error["message"]) < 120
    assert error["hint"]
    assert not (cwd / "new").exists()
    if count:
        for policy in ("skip", "replace"):
            outcome = run(*command, "--on-error", policy, "--overwrite")
            assert outcome.code == 0, outcome.err
            assert "1 bad documents or lines" in outcome.err
            assert json.loads((cwd / "new" / "manifest.json").read_text())["counts"][count] == 1


@pytest.mark.parametrize("content", [b"", b" \n\n\t\n \n", "\u00a0\u2003\n".encode()])
@pytest.mark.parametrize("command", ["tokenize", "shard"])
@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_source_without_text(kind: str, command: str, content: bytes, cwd: Path, fails: Any) -> None:
    (cwd / "t.txt").write_bytes(content)
    fails(
        "BG310",
        [command, "t.txt", "--train-tokenizer", kind, "--vocab-size", "300", "--out", "new"],
        "0 documents",
        "t.txt",
    )
    assert not (cwd / "new").exists()


def test_empty_file_among_others_is_no_error(cwd: Path, run: Any) -> None:
    for name, content in (("a.jsonl", b""), ("b.jsonl", jsonl()), ("c.csv", b""), ("d.txt", b"")):
        (cwd / name).write_bytes(content)
    assert run("tokenize", "a.jsonl", "b.jsonl", "c.csv", "d.txt", *TRAIN, "--out", "new").code == 0
    assert json.loads((cwd / "new" / "manifest.json").read_text())["counts"]["documents"] == 2


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf" + TEXTS[0].encode(), f"nul \0 bell \a {TEXTS[0]} 你好 👍 שלום".encode()]
)
def test_unusual_text_round_trips(content: bytes, cwd: Path, run: Any) -> None:
    (cwd / "t.txt").write_bytes(content)
    assert run("shard", "t.txt", *TRAIN, "--out", "new", "--val-fraction", "0").code == 0
    document = json.loads(run("inspect", "new", "--doc", "0", "--json").out)["result"]["document"]
    assert document["text"] == content.decode("utf-8-sig") + "<|end|>"


@pytest.mark.parametrize("command", ["tokenize", "shard"])
def test_missing_column(command: str, cwd: Path, fails: Any) -> None:
    (cwd / "t.jsonl").write_bytes(jsonl())
    argv = [command, "t.jsonl", *TRAIN, "--out", "new", "--text-column", "txt"]
    fails("BG212", argv, "did you mean text?", "the columns are text", "t.jsonl")
    assert not list(cwd.glob("*new*"))


def test_special_tokens_in_text_are_counted(cwd: Path, run: Any) -> None:
    (cwd / "t.jsonl").write_bytes(jsonl(json.dumps({"text": "typed <|end|> and [MASK] and <|end|>"})))
    outcome = run("shard", "t.jsonl", *TRAIN, "--out", "new", "--val-fraction", "0")
    assert "3 special-token strings in text" in outcome.err
    file = TokenFile(cwd / "new" / "train-00000.arrow")
    assert np.flatnonzero(file.flat < 6).tolist() == (file.offsets[1:] - 1).tolist()
