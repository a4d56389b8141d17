"""Contamination check: evaluation items that share a 13-gram of words with a training text, as GPT-3's did (Brown et
al., 2020).

Words are runs of letters and digits, lower-cased. The items of a suite are few and training texts are long, so the
n-grams of the items are kept in memory and the training text is read once.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bertgpt.data.format import TokenFile
from bertgpt.data.loading.open import open_artifact, split_files
from bertgpt.evals.tables import Row
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError

NGRAM_SIZE = 13
WORD = re.compile(r"\w+")


def ngrams(text: str) -> Iterator[str]:
    """The 13-grams of words of a text."""
    words = WORD.findall(text.lower())
    for start in range(len(words) - NGRAM_SIZE + 1):
        yield " ".join(words[start : start + NGRAM_SIZE])


def item_text(row: Row) -> str:
    """The text of an item, with the correct answer."""
    if "endings" in row:
        return f"{row['context']} {row['endings'][row['label']]}"
    if "continuation" in row:
        return f"{row['context']} {row['continuation']}"
    return str(row["sentence_good"])


def find_contaminated(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Which of the texts share a 13-gram with the training split of `folder`, a folder of shards."""
    items: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        for ngram in set(ngrams(text)):
            items[ngram].append(index)
    manifest, tokenizer = open_artifact(folder, "shards")
    contaminated: set[int] = set()
    names = split_files(manifest, "train")
    total = sum(file["documents"] for file in manifest["files"] if file["path"] in names)
    progress = console.Progress("comparing documents", total, in_bytes=False)
    done = 0
    for name in names:
        file = TokenFile(folder / name)
        for row in range(len(file)):
            for ngram in ngrams(tokenizer.decode(file.row(row)[:-1].tolist())):
                contaminated.update(items.get(ngram, ()))
            done += 1
            progress.update(done)
    progress.end()
    too_short = sum(next(ngrams(text), None) is None for text in texts)
    if too_short == len(texts):
        raise BertGPTError("BG204", f"every item of this suite is shorter than {NGRAM_SIZE} words")
    return {
        "items": len(texts), "too_short": too_short, "contaminated": len(contaminated), "indices": sorted(contaminated),
    }  # fmt: skip
