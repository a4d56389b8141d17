"""The train/validation split of labeled texts."""

from hashlib import sha256

from bertgpt.evals.tasks import LabeledDataset, LabeledSplit
from bertgpt.utils.errors import BertGPTError


def train_val_split(task: LabeledDataset, fraction: float) -> tuple[LabeledSplit, LabeledSplit, int]:
    """Split the training texts by a hash of each text, so that duplicates stay on one side.

    Texts of the test split are in neither; their number comes third.
    """
    test = set(map(normalize_text, task.test.joined_texts()))
    train, val, left_out = list[int](), list[int](), 0
    for number, text in enumerate(map(normalize_text, task.train.joined_texts())):
        if text in test:
            left_out += 1
            continue
        draw = int.from_bytes(sha256(text.encode(errors="surrogatepass")).digest()[:8], "little") / 2**64
        (val if draw < fraction else train).append(number)
    if not train or not val:
        cause = f"{len(train)} for training, {len(val)} for validation of {len(task.train)}"
        larger, smaller = min(0.5, 2 * fraction), fraction / 2
        hint = f"use a {'smaller' if val else 'larger'} --val-fraction, such as {smaller if val else larger:g}"
        raise BertGPTError("BG310", "too few texts for a train/validation split", cause=cause, hint=hint)
    return task.train.select(train), task.train.select(val), left_out


def normalize_text(text: str) -> str:
    """Lower case and single spaces: texts that differ in nothing else count as duplicates."""
    return " ".join(text.lower().split())
