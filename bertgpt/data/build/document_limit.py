"""The options --limit-docs, --limit-tokens and --limit-bytes: the first documents, in canonical order."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bertgpt.config.data_options import TextOptions
from bertgpt.data.build.files import TOKENIZED, TRUNCATED, sum_counts, token_metadata
from bertgpt.data.build.tokenize_worker import write_tokenized
from bertgpt.data.execution.tasks import TaskResult
from bertgpt.data.format import TokenFile
from bertgpt.utils.files import atomic_write, sha256_of


class DocumentLimit:
    """The first whole documents, in canonical order; the one that crosses the limit is included."""

    def __init__(self, options: TextOptions) -> None:
        self.maxima = {"documents": options.limit_docs, "tokens": options.limit_tokens, "bytes": options.limit_bytes}
        self.active = {name: maximum for name, maximum in self.maxima.items() if maximum is not None}

    def __bool__(self) -> bool:
        return bool(self.active)

    def take(self, results: Iterable[TaskResult]) -> Iterator[TaskResult]:
        """The first files, until they reach the limit; the last may exceed it."""
        counts: Counter[str] = Counter()
        for result in results:
            yield result
            counts.update({name: result.metadata[name] for name in self.active})
            if any(counts[name] >= maximum for name, maximum in self.active.items()):
                return

    def truncate(self, folder: Path, results: Sequence[TaskResult]) -> list[TaskResult]:
        """The same files, the last without the documents beyond the limit: a truncated copy beside it."""
        if not self or not results:
            return list(results)
        *others, last = results
        counts = sum_counts(others)
        file = TokenFile(folder / last.name)
        totals = {
            "documents": np.arange(1, len(file) + 1),
            "tokens": file.offsets[1:],
            "bytes": file.n_bytes.cumsum(dtype=np.int64),
        }
        crossing = (np.searchsorted(totals[name], maximum - counts[name]) for name, maximum in self.active.items())
        keep = min(map(int, crossing)) + 1
        if keep >= len(file):
            return list(results)
        offsets = file.offsets[: keep + 1]
        flat, n_bytes = file.flat[: offsets[-1]], file.n_bytes[:keep]
        path = folder / last.name.replace(TOKENIZED, TRUNCATED)
        source = str(file.batch.column("source").dictionary[0])
        with atomic_write(path) as temporary:
            write_tokenized(temporary, source, file.documents[:keep], flat, offsets, n_bytes)
        metadata = last.metadata | token_metadata(flat, keep, int(n_bytes.sum(dtype=np.int64)))
        return [*others, TaskResult(path.name, path.stat().st_size, sha256_of(path), metadata)]
