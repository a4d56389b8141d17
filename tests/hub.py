"""A small hub on loopback: enough of its API for the real client to list datasets and to read ranges of their files.

What can go wrong there can be made to: each entry of `faults` spoils the answer to the next request for a listing or
for the content of a file.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 3  # entries of a page of a listing


@dataclass
class Dataset:
    """A repository with one commit for each of its revisions."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    denied: int = 0  # what is answered to whom we do not know

    def entries(self, below: str = "", recursive: bool = True) -> list[dict[str, object]]:
        """What the hub says of the files and folders in a folder."""
        prefix = f"{below}/" if below else ""
        found: dict[str, dict[str, object]] = {}
        for path, content in sorted(self.files.items()):
            if not path.startswith(prefix):
                continue
            inner = path.removeprefix(prefix).split("/")
            for depth in range(1, len(inner)):
                folder = prefix + "/".join(inner[:depth])
                found[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
            lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            found[path] = {"type": "file", "path": path, "size": len(content), "oid": oid, "lfs": lfs}
        return [entry for path, entry in found.items() if recursive or "/" not in path.removeprefix(prefix)]


@dataclass
class Hub:
    """The server, what it has, how it fails, and what it has seen."""

    datasets: dict[str, Dataset] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    always: str = ""  # a fault of every answer
    seen: Counter[str] = field(default_factory=Counter)
    sent: int = 0  # bytes of content
    tokens: set[str] = field(default_factory=set)
    url: str = ""

    def environment(self, home: Path) -> dict[str, str | None]:
        """What a process needs to take this for the hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "hf"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "HF_HUB_OFFLINE": None,
            "HF_TOKEN": None,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


class Handler(BaseHTTPRequestHandler):
    """Answers like the hub."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        asked = self.rfile.read(length)
        match = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/(.+)", urlsplit(self.path).path)
        dataset = self.hub.datasets.get(match[1]) if match else None
        if dataset is None:
            self.missing()
            return
        paths = json.loads(asked)["paths"] if asked.startswith(b"{") else parse_qs(asked.decode()).get("paths", [])
        self.json([entry for entry in dataset.entries() if entry["path"] in paths])

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        if token := self.headers.get("Authorization"):
            self.hub.tokens.add(token)
        if match := re.fullmatch(r"/files/(.+)", path):  # no dataset: a file at an address
            return self.content(self.hub.datasets["files"], match[1])
        match = re.match(r"/(?:api/)?datasets/([^/]+/[^/]+)(?:/(revision|tree|resolve)/(.+))?$", path)
        dataset = self.hub.datasets.get(match[1]) if match else None
        if match is None or dataset is None:
            return self.missing()
        if dataset.denied and not self.headers.get("Authorization"):
            gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}
            return self.answer(dataset.denied, b"", gated if dataset.denied == 401 else {})
        kind, rest = match[2] or "revision", match[3] or "main"
        self.hub.seen[kind] += 1
        revision, _, file = rest.removeprefix("refs/convert/").partition("/")
        if revision not in ("main", "parquet", dataset.commit):
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if kind == "revision":
            siblings = [{"rfilename": name} for name in dataset.files]
            return self.json(
                {"id": match[1], "sha": dataset.commit, "siblings": siblings, "tags": [], "private": False}
            )
        if kind == "tree":
            if self.spoil("listing"):
                return None
            return self.listing(dataset, file, parse_qs(address.query), path)
        return self.content(dataset, file)

    def listing(self, dataset: Dataset, below: str, query: dict[str, list[str]], path: str) -> None:
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = dataset.entries(below, recursive)
        if below and not entries:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        first = int(query.get("cursor", ["0"])[0])
        more = {}
        if first + PAGE < len(entries):
            place = f"{self.hub.url}{path}?recursive={str(recursive).lower()}&cursor={first + PAGE}"
            more = {"Link": f'<{place}>; rel="next"'}
        self.json(entries[first : first + PAGE], more)

    def content(self, dataset: Dataset, name: str) -> None:
        content = dataset.files.get(name)
        if content is None:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": dataset.commit}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or self.command == "HEAD":
            self.answer(200, content, headers | {"Accept-Ranges": "bytes"})
            return None
        begin, stop = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else len(content), len(content))
        part = content[begin:stop]
        self.hub.seen["range"] += 1
        if self.spoil("content", part):
            return None
        self.hub.sent += len(part)
        return self.answer(206, part, headers | {"Content-Range": f"bytes {begin}-{stop - 1}/{len(content)}"})

    def spoil(self, what: str, part: bytes = b"") -> bool:
        """Answer wrongly, if that is what is wanted now."""
        fault = self.hub.always or (self.hub.faults.pop(0) if self.hub.faults else "")
        if not fault:
            return False
        self.hub.seen[fault] += 1
        if fault.isdecimal():
            self.answer(int(fault), b"", {"Retry-After": "0"})
        elif fault == "cut" or what == "listing":  # in the middle of an answer
            self.send_response(206)
            self.send_header("Content-Length", str(len(part) or 100))
            self.end_headers()
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif fault == "short":  # an answer that is whole, but not what was asked for
            self.answer(206, part[: len(part) // 2], {})
        elif fault == "other":  # the file has become another
            self.answer(206, part, {"Content-Range": f"bytes 0-{len(part) - 1}/{len(part) + 12345}"})
        return True

    def json(self, content: object, headers: dict[str, str] | None = None) -> None:
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def missing(self) -> None:
        self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that is there for a while."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
