"""Whether a training text holds items of an evaluation: those that share 13 words in a row with it.

That is how GPT-3 was checked (Brown et al., 2020), the other way round.

Words are runs of letters and digits, in small letters. The items of a suite are few and a training text is long, so the
former are remembered and the latter is read once.
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

WORDS = 13
WORD = re.compile(r"\w+")


def ngrams(text: str) -> Iterator[str]:
    """Every 13 words in a row of a text."""
    words = WORD.findall(text.lower())
    for start in range(len(words) - WORDS + 1):
        yield " ".join(words[start : start + WORDS])


def item_text(row: Row) -> str:
    """What of an item must not have been read: its text, with the right answer."""
    if "endings" in row:
        return f"{row['context']} {row['endings'][row['label']]}"
    if "continuation" in row:
        return f"{row['context']} {row['continuation']}"
    return str(row["sentence_good"] if "sentence_good" in row else row["text"])


def find_contaminated(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """The items of which 13 words in a row are in the training split of some shards."""
    items: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        for gram in set(ngrams(text)):
            items[gram].append(number)
    manifest, tokenizer = open_artifact(folder, "shards")
    found: set[int] = set()
    names = split_files(manifest, "train")
    total = sum(file["documents"] for file in manifest["files"] if file["path"] in names)
    progress = console.Progress("comparing documents", total, of_bytes=False)
    done = 0
    for name in names:
        file = TokenFile(folder / name)
        for row in range(len(file)):
            for gram in ngrams(tokenizer.decode(file.row(row)[:-1].tolist())):
                if gram in items:
                    found.update(items[gram])
            done += 1
            progress.update(done)
    progress.end()
    short = sum(next(ngrams(text), None) is None for text in texts)
    if short == len(texts):
        raise BertGPTError("BG204", f"no item of this suite has {WORDS} words, so none can be looked for")
    return {"items": len(texts), "too_short": short, "found": len(found), "numbers": sorted(found)}
