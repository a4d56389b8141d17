"""What a fine-tuned model says of texts: a row of logits for each."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bertgpt.data.loading.classification import EncodedExample, pack_batch
from bertgpt.data.tokenizers.detokenize import encode_checked
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.batching import batches_by_length
from bertgpt.model import SequenceClassifier
from bertgpt.training.device import to_device, to_tensors
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError


def encode_examples(
    kept: PretrainedModel, texts: Sequence[str], others: Sequence[str] | None, longest: int
) -> list[EncodedExample]:
    """Texts, or pairs of them, as a model reads them; what is too long is cut, the longer of two first, and counted.

    To a model that looks both ways `[CLS] a [SEP] b [SEP]`, to one that looks back `<|end|> a <|end|> b`, where the
    last id has seen all.
    """
    causal, roles = kept.objective == "clm", kept.tokenizer.roles
    first, between = (kept.tokenizer.eos_id,) * 2 if causal else (roles["cls"], roles["sep"])
    around = (1 if others is None else 2) + int(not causal)
    found, cut = [], 0
    for number, text in enumerate(texts):
        a = encode_checked(kept.tokenizer, text)
        b = [] if others is None else encode_checked(kept.tokenizer, others[number])
        over = len(a) + len(b) - (longest - around)
        if over > 0:
            cut += 1
            a, b = truncate_pair(a, b, longest - around)
        ids = [first, *a] + ([] if causal else [between])
        second = len(ids)
        if others is not None:
            ids += [between, *b] if causal else [*b, between]
        found.append(EncodedExample(ids, second))
    if cut:
        console.note(f"{cut:,} of {len(texts):,} texts are longer than rows of {longest:,} tokens, and are cut")
    return found


def truncate_pair(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """As much of both as there is room for."""
    if not b:
        return a[:room], b
    shorter = min(len(a), len(b))
    if 2 * shorter > room:
        return a[: room - room // 2], b[: room // 2]
    return (a[: room - len(b)], b) if len(a) > len(b) else (a, b[: room - len(a)])


def predict_logits(
    classifier: SequenceClassifier, texts: Sequence[EncodedExample], device: torch.device
) -> NDArray[np.float32]:
    """Of each text, (texts, labels)."""
    found = np.zeros((len(texts), classifier.classifier.out_features), np.float32)
    for numbers, logits in iterate_logits(classifier, texts, device):
        found[numbers] = logits
    return found


def iterate_logits(
    classifier: SequenceClassifier, texts: Sequence[EncodedExample], device: torch.device
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """The numbers of some texts, and their logits."""
    classifier.eval()
    progress = console.Progress("reading texts", len(texts), of_bytes=False)
    done = 0
    for numbers in batches_by_length([len(text.ids) for text in texts]):
        some = pack_batch([texts[i] for i in numbers], np.zeros(len(numbers), np.int64), classifier.causal)
        rows = to_device(to_tensors(some, pin=False), device)
        with torch.no_grad():
            logits = classifier(
                rows.ids,
                document_ids=rows.documents,
                position_ids=rows.positions,
                token_type_ids=rows.segments,
                row_index=rows.rows,
                pool_index=rows.places,
            ).float()
        yield numbers, logits.cpu().numpy()
        done += len(numbers)
        progress.update(done)
    progress.end()


def classify(kept: PretrainedModel, texts: Sequence[str], others: Sequence[str] | None = None) -> NDArray[np.float32]:
    """What a fine-tuned model says of texts."""
    if kept.head is None:
        hint = "bertgpt finetune TASK --model RUN --out RUN2 makes one that does"
        raise BertGPTError("BG222", "this model was not fine-tuned, and tells no labels", hint=hint)
    device = kept.model.token_embedding.weight.device
    logits = predict_logits(kept.head.classifier, encode_examples(kept, texts, others, kept.max_length), device)
    if not np.isfinite(logits).all():
        raise BertGPTError("BG321", "the model's answer is not a number")
    return logits


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each class, (texts, labels)."""
    exact = logits.astype(np.float64)
    odds = np.exp(exact - exact.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
    return shares
